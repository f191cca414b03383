#include "simulator/options.h"

#include <gtest/gtest.h>

#include <stdexcept>

namespace betterbox::sim {
namespace {

TEST(SimulatorOptions, ReadTimesWithUnitsOrAsSharesOfTheIdeal) {
  EXPECT_EQ(parse_when("2").ns(1), 2'000'000'000);
  EXPECT_EQ(parse_when("1.5s").ns(1), 1'500'000'000);
  EXPECT_EQ(parse_when("20ms").ns(1), 20'000'000);
  EXPECT_EQ(parse_when("7us").ns(1), 7000);
  EXPECT_EQ(parse_when("0.5x").ns(1000), 500);
}

TEST(SimulatorOptions, ReadWhatHappensToWorkers) {
  const Slowdown slow = parse_slowdown("3@0.5x:3");
  EXPECT_EQ(slow.worker, 3U);
  EXPECT_TRUE(slow.at.of_ideal);
  EXPECT_DOUBLE_EQ(slow.times, 3);
  EXPECT_EQ(parse_join("2s:4").count, 4U);
  EXPECT_EQ(parse_join("2s").count, 1U);
  EXPECT_EQ(parse_leave("1@10").worker, 1U);
}

TEST(SimulatorOptions, RefuseWhatTheyDoNotUnderstand) {
  for (const char* text : {"", "x", "1@2", "@1:2", "1@:2", "1@2:0", "1@2:-1", "1@-2:3", "a@2:3", "1@2:1e7",
                           "1@2:1e-7", "1@2e9:3"})
    EXPECT_THROW(parse_slowdown(text), std::invalid_argument) << text;
  for (const char* text : {"", ":2", "1:0", "1:x", "-1", "1e300:1"})
    EXPECT_THROW(parse_join(text), std::invalid_argument);
  for (const char* text : {"", "1", "@3", "x@3"}) EXPECT_THROW(parse_leave(text), std::invalid_argument);
  Options options;
  for (const char* text : {"", "5", "7-5", "a-b", "-3"})
    EXPECT_THROW(parse_seeds(text, options), std::invalid_argument) << text;
}

TEST(SimulatorOptions, RefuseASeedThatNoOtherFollows) {
  Options options;
  options.first_seed = options.last_seed = ~std::uint64_t{0};
  EXPECT_THROW(check(options), std::invalid_argument);
}

TEST(SimulatorOptions, KeepFarTimesCountable) { EXPECT_GT(parse_when("1e9x").ns(1e17), 0); }

TEST(SimulatorOptions, RefuseWorkersThatDoNotExist) {
  Options options;
  options.leaves.push_back({4, {}});
  EXPECT_THROW(check(options), std::invalid_argument);
  options.joins.push_back({{}, 1});
  check(options);
  options.policy = "best";
  EXPECT_THROW(check(options), std::invalid_argument);
}

}  // namespace
}  // namespace betterbox::sim
