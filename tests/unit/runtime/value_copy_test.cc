// Copies of values: memory to receive them into, and what becomes of it when the value is gone.
#include "runtime/value_copy.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>

namespace betterbox {
namespace {

constexpr std::uint64_t kBytes = (4U << 20) + 4096;

class ValueCopyTest : public ::testing::Test {
 public:
  ValueCopyTest() : pool(SegmentPool::make(made("from"), {64U << 20, 64U << 20})), folder(made("to")) {}
  ~ValueCopyTest() override { std::filesystem::remove_all(base); }

  std::string made(const std::string& name) {
    if (base.empty()) {
      std::string pattern = "/dev/shm/betterbox-value-copy-XXXXXX";
      base = ::mkdtemp(pattern.data());
    }
    std::filesystem::create_directory(base + "/" + name);
    return base + "/" + name;
  }
  /// A value in the pool; it stays as long as the lease.
  ValueId put(char fill) {
    const std::string bytes(kBytes - 4096, fill);
    const std::span<const std::byte> part = std::as_bytes(std::span(bytes));
    lease = pool->write(std::span(&part, 1));
    return {lease->parts[0].name, lease->parts[0].serial, kBytes};
  }
  /// As a broadcast brings it.
  void receive(ValueCopy& copy, const ValueId& value) {
    const auto there = open_value(base + "/from", value);
    const auto here = copy.memory(error);
    ASSERT_NE(here, nullptr) << error;
    std::memcpy(here.get(), there->bytes().data(), value.bytes);
    copy.came_whole();
  }
  std::size_t files() const {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(folder), {}));
  }

  std::string base;
  std::shared_ptr<SegmentPool> pool;
  std::string folder, error;
  std::optional<SegmentPool::Lease> lease;
};

TEST_F(ValueCopyTest, WhatIsReceivedIntoItsMemoryIsTheValue) {
  const ValueId value = put('a');
  auto copy = ValueCopy::make(folder, value, error);
  receive(*copy, value);
  auto hold = copy->finish();
  ASSERT_NE(hold, nullptr);
  EXPECT_EQ(hold->bytes()[kBytes - 1], std::byte{'a'});
  hold.reset();
  EXPECT_EQ(files(), 1U);  // whoever made it keeps it
  copy.reset();
  EXPECT_EQ(files(), 0U);
}

TEST_F(ValueCopyTest, TheMemoryOfADiscardedCopyIsUsedAgain) {
  const ValueId first = put('a');
  auto copy = ValueCopy::make(folder, first, error);
  receive(*copy, first);
  copy->finish().reset();
  const std::byte* before = copy->memory(error).get();
  const ValueId second = put('b');
  ASSERT_TRUE(copy->begin_again(second));
  EXPECT_EQ(open_value(folder, first), nullptr);
  receive(*copy, second);
  EXPECT_EQ(copy->memory(error).get(), before);
  const auto hold = copy->finish();
  ASSERT_NE(hold, nullptr);
  EXPECT_EQ(hold->bytes()[4096], std::byte{'b'});
}

TEST_F(ValueCopyTest, ACopyThatSomebodyMapsIsNotUsedAgain) {
  const ValueId first = put('a');
  auto copy = ValueCopy::make(folder, first, error);
  receive(*copy, first);
  const auto hold = copy->finish();
  EXPECT_FALSE(copy->begin_again(put('b')));
  EXPECT_EQ(hold->bytes()[4096], std::byte{'a'});
  copy.reset();
  EXPECT_EQ(files(), 1U);  // until its last user is gone
}

TEST_F(ValueCopyTest, WhatThePoolHasMappedItGivesWithoutAnotherMapping) {
  put('a');
  lease.reset();
  const ValueId value = put('b');  // the second write maps the file
  auto mapped = pool->find(value.name, value.serial, value.bytes);
  ASSERT_NE(mapped, nullptr);
  EXPECT_EQ(mapped.get()[kBytes - 1], std::byte{'b'});
  lease.reset();
  put('c');  // not into what is still used
  EXPECT_EQ(mapped.get()[kBytes - 1], std::byte{'b'});
  EXPECT_EQ(pool->find(value.name, value.serial + 1, value.bytes), nullptr);
}

}  // namespace
}  // namespace betterbox
