#include "runtime/segment_pool.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>

namespace betterbox {
namespace {

class SegmentPoolTest : public testing::Test {
 protected:
  SegmentPoolTest() {
    char pattern[] = "/tmp/bb-segments-XXXXXX";
    folder_ = ::mkdtemp(pattern);
  }
  ~SegmentPoolTest() override { std::filesystem::remove_all(folder_); }

  std::optional<SegmentPool::Lease> write(SegmentPool& pool, char fill, std::size_t size = 100'000) {
    const std::string bytes(size, fill);
    const std::span<const std::byte> part = std::as_bytes(std::span(bytes));
    return pool.write(std::span(&part, 1));
  }
  std::size_t files() const {
    return static_cast<std::size_t>(
        std::distance(std::filesystem::directory_iterator(folder_), std::filesystem::directory_iterator()));
  }

  ino_t file_of(const SegmentRef& ref) const {
    struct stat about {};
    return ::stat((folder_ + "/" + ref.name).c_str(), &about) == 0 ? about.st_ino : 0;
  }
  SegmentRef send(SegmentPool& pool, char fill, std::size_t size = 100'000) {
    const std::string bytes(size, fill);
    const std::span<const std::byte> part = std::as_bytes(std::span(bytes));
    const auto refs = pool.send(std::span(&part, 1));
    return refs ? refs->front() : SegmentRef{};
  }
  std::shared_ptr<HeldSegment> take(const SegmentRef& ref) const {
    return HeldSegment::open(folder_, ref.name, ref.serial, ref.offset + ref.size, true);
  }

  std::string folder_;
};

TEST_F(SegmentPoolTest, GivesBackWhatWasWritten) {
  const auto pool = SegmentPool::make(folder_, {1 << 20, 1 << 20});
  const std::string first(5000, 'a'), second(70'000, 'b');
  const std::span<const std::byte> parts[] = {std::as_bytes(std::span(first)),
                                              std::as_bytes(std::span(second))};
  const auto lease = pool->write(parts);
  ASSERT_TRUE(lease);
  for (std::size_t i = 0; i < 2; ++i) {
    const auto mapped = MappedSegment::open(folder_, lease->parts[i]);
    ASSERT_TRUE(mapped);
    ASSERT_EQ(mapped->bytes().size(), parts[i].size());
    EXPECT_EQ(std::memcmp(mapped->bytes().data(), parts[i].data(), parts[i].size()), 0);
  }
}

TEST_F(SegmentPoolTest, ReusesASegmentOnlyWhenNobodyMapsIt) {
  const auto pool = SegmentPool::make(folder_, {1 << 20, 1 << 20});
  auto lease = write(*pool, 'a');
  const SegmentRef first = lease->parts[0];
  const ino_t file = file_of(first);
  auto mapped = MappedSegment::open(folder_, first);
  lease.reset();
  lease = write(*pool, 'b');
  EXPECT_NE(file_of(lease->parts[0]), file);
  EXPECT_EQ(mapped->bytes()[0], std::byte{'a'});
  mapped.reset();
  SegmentRef again = write(*pool, 'c')->parts[0];
  EXPECT_EQ(file_of(again), file);
  EXPECT_NE(again.name, first.name);
  EXPECT_EQ(MappedSegment::open(folder_, first), nullptr) << "it holds something else by now";
  again.serial = first.serial;
  EXPECT_EQ(MappedSegment::open(folder_, again), nullptr);
}

TEST_F(SegmentPoolTest, KeepsWhatAUserWritesPrivate) {
  const auto pool = SegmentPool::make(folder_, {1 << 20, 1 << 20});
  const auto lease = write(*pool, 'a');
  const auto one = MappedSegment::open(folder_, lease->parts[0]);
  const auto other = MappedSegment::open(folder_, lease->parts[0]);
  one->bytes()[0] = std::byte{'x'};
  EXPECT_EQ(other->bytes()[0], std::byte{'a'});
}

TEST_F(SegmentPoolTest, RefusesWhatExceedsItsBound) {
  const auto pool = SegmentPool::make(folder_, {250'000, 250'000});
  const auto first = write(*pool, 'a'), second = write(*pool, 'b');
  EXPECT_TRUE(first && second);
  EXPECT_FALSE(write(*pool, 'c'));
  EXPECT_FALSE(write(*SegmentPool::make(folder_, {}), 'c'));
}

TEST_F(SegmentPoolTest, KeepsNoMoreIdleThanItMay) {
  const auto pool = SegmentPool::make(folder_, {1 << 20, 110'000});
  {
    const auto first = write(*pool, 'a'), second = write(*pool, 'b'), third = write(*pool, 'c');
    EXPECT_EQ(files(), 3U);
  }
  EXPECT_EQ(files(), 1U);
}

TEST_F(SegmentPoolTest, CountsWhatIsStillMappedUntilItIsNot) {
  const auto pool = SegmentPool::make(folder_, {250'000, 0});
  auto lease = write(*pool, 'a');
  auto mapped = MappedSegment::open(folder_, lease->parts[0]);
  lease.reset();
  EXPECT_GT(pool->bytes(), 0U);
  const auto second = write(*pool, 'b');
  EXPECT_TRUE(second);
  EXPECT_FALSE(write(*pool, 'c')) << "a mapped segment has its memory, whether leased or not";
  mapped.reset();
  EXPECT_TRUE(write(*pool, 'd'));
  EXPECT_EQ(files(), 1U);
}

TEST_F(SegmentPoolTest, WritesEveryPartOfAReusedSegment) {
  const auto pool = SegmentPool::make(folder_, {1 << 20, 1 << 20});
  ino_t file = 0;
  for (const char fill : {'a', 'b', 'c'}) {
    const std::string first(5000, fill), second(70'000 - 5000 * static_cast<std::size_t>(fill - 'a'), fill);
    const std::span<const std::byte> parts[] = {
        std::as_bytes(std::span(first)), {}, std::as_bytes(std::span(second))};
    const auto lease = pool->write(parts);
    ASSERT_TRUE(lease);
    if (file == 0) file = file_of(lease->parts[0]);
    EXPECT_EQ(file_of(lease->parts[0]), file);
    for (const std::size_t i : {0U, 2U}) {
      const auto mapped = MappedSegment::open(folder_, lease->parts[i]);
      ASSERT_TRUE(mapped);
      ASSERT_EQ(mapped->bytes().size(), parts[i].size());
      EXPECT_EQ(std::memcmp(mapped->bytes().data(), parts[i].data(), parts[i].size()), 0);
    }
  }
}

TEST_F(SegmentPoolTest, LeavesItsMappingsOutOfForkedChildren) {
  const auto pool = SegmentPool::make(folder_, {1 << 20, 1 << 20});
  for (const char fill : {'a', 'b'}) write(*pool, fill);
  const auto lease = write(*pool, 'c');
  const pid_t child = ::fork();
  if (child == 0) {
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) {
      if (line.find(lease->parts[0].name) != std::string::npos) ::_exit(1);
    }
    ::_exit(0);
  }
  int status = 1;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(MappedSegment::open(folder_, lease->parts[0]));
}

TEST_F(SegmentPoolTest, NoticesADeadUser) {
  const auto pool = SegmentPool::make(folder_, {1 << 20, 1 << 20});
  auto lease = write(*pool, 'a');
  const SegmentRef ref = lease->parts[0];
  const ino_t file = file_of(ref);
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const auto mapped = MappedSegment::open(folder_, ref);
    if (::write(ready[1], mapped ? "y" : "n", 1) != 1) ::_exit(1);
    for (;;) ::pause();
  }
  char answer = 0;
  ASSERT_EQ(::read(ready[0], &answer, 1), 1);
  EXPECT_EQ(answer, 'y');
  lease.reset();
  EXPECT_NE(file_of(write(*pool, 'b')->parts[0]), file);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  const auto both = std::pair(write(*pool, 'c'), write(*pool, 'd'));
  EXPECT_TRUE(file_of(both.first->parts[0]) == file || file_of(both.second->parts[0]) == file);
  ::close(ready[0]), ::close(ready[1]);
}

TEST_F(SegmentPoolTest, RemovesWhatADeadOwnerLeftAndNothingElse) {
  const auto pool = SegmentPool::make(folder_, {1 << 20, 1 << 20});
  const auto lease = write(*pool, 'a');
  const pid_t child = ::fork();
  if (child == 0) {
    const auto own = SegmentPool::make(folder_, {1 << 20, 1 << 20});
    const auto held = write(*own, 'b');
    ::_exit(0);  // as if killed: no destructor runs
  }
  ::waitpid(child, nullptr, 0);
  ASSERT_EQ(files(), 2U);
  sweep_segments(folder_);
  EXPECT_EQ(files(), 1U);
  EXPECT_TRUE(MappedSegment::open(folder_, lease->parts[0]));
}

TEST_F(SegmentPoolTest, KeepsWhatWasSentUntilItWasTakenAndLetGo) {
  const auto pool = SegmentPool::make(folder_, {1 << 20, 1 << 20});
  const SegmentRef ref = send(*pool, 'a');
  const ino_t file = file_of(ref);
  EXPECT_NE(file_of(send(*pool, 'b')), file) << "nobody has taken it";
  auto held = take(ref);
  ASSERT_TRUE(held);
  EXPECT_NE(file_of(send(*pool, 'c')), file) << "somebody has it";
  const auto mapped = MappedSegment::map(std::exchange(held, nullptr), ref.offset, ref.size);
  EXPECT_NE(file_of(send(*pool, 'd')), file);
  EXPECT_EQ(mapped->bytes()[0], std::byte{'a'});
}

TEST_F(SegmentPoolTest, WritesAgainWhereWhatWasSentHasBeenReadAndLetGo) {
  const auto pool = SegmentPool::make(folder_, {1 << 20, 1 << 20});
  const SegmentRef ref = send(*pool, 'a');
  const ino_t file = file_of(ref);
  take(ref);
  EXPECT_EQ(file_of(send(*pool, 'b')), file);
  EXPECT_EQ(take(ref), nullptr);
}

TEST_F(SegmentPoolTest, GivesUpWhatNobodyTakesForLong) {
  const auto pool = SegmentPool::make(folder_, {1 << 20, 1 << 20});
  send(*pool, 'a');
  EXPECT_TRUE(pool->retire(monotonic_now() + kIdleSegmentLife));
  EXPECT_EQ(files(), 1U);
  EXPECT_FALSE(pool->retire(monotonic_now() + kUntakenSegmentLife)) << "nothing is left to look at";
  EXPECT_EQ(files(), 0U);
}

TEST_F(SegmentPoolTest, RetiresWhatIsIdleAndNothingElse) {
  const auto pool = SegmentPool::make(folder_, {1 << 20, 1 << 20});
  const auto kept = write(*pool, 'a');
  write(*pool, 'b');
  EXPECT_TRUE(pool->retire(monotonic_now()));
  EXPECT_EQ(files(), 2U);
  EXPECT_TRUE(pool->retire(monotonic_now() + kIdleSegmentLife));
  EXPECT_EQ(files(), 1U);
  EXPECT_TRUE(MappedSegment::open(folder_, kept->parts[0]));
}

TEST_F(SegmentPoolTest, LeavesWhatADeadProcessHasSentToWhoeverTakesIt) {
  int names[2];
  ASSERT_EQ(::pipe(names), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const auto own = SegmentPool::make(folder_, {1 << 20, 1 << 20});
    const SegmentRef ref = send(*own, 'a');
    if (::write(names[1], ref.name.data(), ref.name.size()) < 0) ::_exit(1);
    ::_exit(0);
  }
  ::waitpid(child, nullptr, 0);
  char text[256];
  const ssize_t size = ::read(names[0], text, sizeof text);
  ASSERT_GT(size, 0);
  sweep_segments(folder_);
  ASSERT_EQ(files(), 1U);
  const SegmentRef ref{{text, static_cast<std::size_t>(size)}, 1, 4096, 100'000};
  auto held = take(ref);
  ASSERT_TRUE(held);
  held.reset();
  EXPECT_EQ(files(), 0U) << "its last user removes it";
  ::close(names[0]), ::close(names[1]);
}

TEST_F(SegmentPoolTest, SweepsWhatADeadProcessHasSentOnceNobodyWillTakeIt) {
  const pid_t child = ::fork();
  if (child == 0) {
    send(*SegmentPool::make(folder_, {1 << 20, 1 << 20}), 'a');
    ::_exit(0);
  }
  ::waitpid(child, nullptr, 0);
  EXPECT_TRUE(sweep_segments(folder_)) << "it may still be taken";
  ASSERT_EQ(files(), 1U);
  const timespec long_ago{::time(nullptr) - kUntakenSegmentLife.ns / seconds(1).ns, 0};
  const timespec times[2] = {long_ago, long_ago};
  for (const auto& entry : std::filesystem::directory_iterator(folder_))
    ASSERT_EQ(::utimensat(AT_FDCWD, entry.path().c_str(), times, 0), 0);
  EXPECT_FALSE(sweep_segments(folder_));
  EXPECT_EQ(files(), 0U);
}

TEST_F(SegmentPoolTest, HoldsVeryManyAsCopies) {
  const auto pool = SegmentPool::make(folder_, {16 << 20, 16 << 20});
  const auto lease = write(*pool, 'a', 5000);
  std::vector<std::shared_ptr<MappedSegment>> all;
  for (std::size_t i = 0; i < kMaxSegments + 20; ++i) {
    all.push_back(MappedSegment::open(folder_, lease->parts[0]));
    ASSERT_TRUE(all.back());
    all.back()->bytes()[1] = static_cast<std::byte>(i);
  }
  for (std::size_t i = 0; i < all.size(); ++i) {
    EXPECT_EQ(all[i]->bytes()[0], std::byte{'a'});
    EXPECT_EQ(all[i]->bytes()[1], static_cast<std::byte>(i));
  }
}

TEST_F(SegmentPoolTest, RefusesReferencesThatLieOutside) {
  const auto pool = SegmentPool::make(folder_, {1 << 20, 1 << 20});
  const auto lease = write(*pool, 'a');
  SegmentRef ref = lease->parts[0];
  ref.size = 1 << 20;
  EXPECT_EQ(MappedSegment::open(folder_, ref), nullptr);
  ref.size = ~std::uint64_t{0};
  EXPECT_EQ(MappedSegment::open(folder_, ref), nullptr);
  ref = lease->parts[0];
  ref.name = "../" + ref.name;
  EXPECT_EQ(MappedSegment::open(folder_, ref), nullptr);
}

}  // namespace
}  // namespace betterbox
