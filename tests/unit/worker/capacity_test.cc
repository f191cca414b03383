// A worker's options about what it has.
#include "worker/capacity.h"

#include <gtest/gtest.h>

#include <stdexcept>

#include "worker/core.h"

namespace betterbox {
namespace {

using Names = std::vector<std::string>;

TEST(Capacity, ReadsMemoryWithAndWithoutUnits) {
  EXPECT_EQ(parse_memory("1024"), 1024u);
  EXPECT_EQ(parse_memory("8G"), std::uint64_t{8} << 30);
  EXPECT_EQ(parse_memory("1.5MiB"), 3u << 19);
  EXPECT_EQ(parse_memory("2tb"), std::uint64_t{2} << 40);
  for (const char* text : {"", "G", "-1", "8X", "nan", "inf", "1e30", "1000000000T", "8 G"})
    EXPECT_THROW(parse_memory(text), std::invalid_argument) << text;
}

TEST(Capacity, ReadsThousandths) {
  EXPECT_EQ(parse_thousandths("--cpus", "0.5"), 500u);
  EXPECT_EQ(parse_thousandths("--cpus", "128"), 128'000u);
  EXPECT_THROW(parse_thousandths("--cpus", "4x"), std::invalid_argument);
}

TEST(Capacity, CountsOrNamesDevices) {
  EXPECT_EQ(parse_devices("2", ""), (Names{"0", "1"}));
  EXPECT_EQ(parse_devices("2", "4,GPU-abc,6"), (Names{"4", "GPU-abc"}));
  EXPECT_EQ(parse_devices("0,2", "4,5"), (Names{"0", "2"}));
  EXPECT_EQ(parse_devices("3,", ""), (Names{"3"}));
  EXPECT_EQ(parse_devices("0", ""), Names{});
  EXPECT_EQ(parse_devices(std::to_string(kMaxDevices), "").size(), kMaxDevices);
  try {
    parse_devices("100", "");
    ADD_FAILURE() << "more devices than a worker can have";
  } catch (const std::invalid_argument& error) {
    EXPECT_STREQ(error.what(), "--gpus takes at most 64 devices");
  }
  for (const char* text : {"3", "1.5", "1,1", "many"})
    EXPECT_THROW(parse_devices(text, "4,5"), std::invalid_argument) << text;
}

TEST(Capacity, SortsAmountsByName) {
  const auto amounts = parse_amounts({"seat=1", "licence=0.5", "seat=2"});
  ASSERT_EQ(amounts.size(), 2u);
  EXPECT_EQ(amounts[0].name, "licence");
  EXPECT_EQ(amounts[0].milli, 500u);
  EXPECT_EQ(amounts[1].milli, 2000u);
  EXPECT_THROW(parse_amounts({"seat"}), std::invalid_argument);
  EXPECT_THROW(parse_amounts({"=1"}), std::invalid_argument);
}

TEST(Capacity, KnowsAboutThisMachine) {
  EXPECT_GT(usable_memory(), 1U << 20);
  EXPECT_LT(usable_memory(), std::uint64_t{1} << 50);
}

}  // namespace
}  // namespace betterbox
