// What is read of /proc, and when a worker pauses.
#include <gtest/gtest.h>
#include <unistd.h>

#include "runtime/messages.h"
#include "worker/load_sampler.h"

namespace betterbox {
namespace {

TEST(Load, CountsBusyTicksWithoutIdleOnes) {
  EXPECT_EQ(parse_busy_ticks("cpu  10 20 30 4000 500 6 7 8 0 0\ncpu0 1"), 10u + 20 + 30 + 6 + 7 + 8);
  EXPECT_FALSE(parse_busy_ticks("cpu0 1 2 3"));
  EXPECT_FALSE(parse_busy_ticks("cpu  1 2 x"));
}

TEST(Load, ReadsAProcessWhoseNameHoldsAnything) {
  const auto times = parse_process_times("77 (a) b (c) R 12 77 77 0 -1 4 1 2 3 4 100 20 3 1 20 0 1 0 5");
  ASSERT_TRUE(times);
  EXPECT_EQ(times->ticks, 124u);
  EXPECT_EQ(times->parent, 12);
  EXPECT_FALSE(parse_process_times(""));
  EXPECT_FALSE(parse_process_times("77 (a) R 12 77"));
}

TEST(Load, CountsPagesThatAreNotShared) {
  EXPECT_EQ(parse_own_pages("1000 300 100 5 0 123 0"), 200u);
  EXPECT_FALSE(parse_own_pages("1000"));
}

TEST(Load, FindsALineOfMeminfo) {
  const char* text = "MemTotal:       100 kB\nMemFree:   1 kB\nMemAvailable:   60 kB\n";
  EXPECT_EQ(parse_meminfo(text, "MemAvailable"), 60u << 10);
  EXPECT_EQ(parse_meminfo(text, "MemTotal"), 100u << 10);
  EXPECT_FALSE(parse_meminfo(text, "Mem"));
  EXPECT_FALSE(parse_meminfo("", "MemTotal"));
}

TEST(Load, PausesAboveNineTenthsAndGoesOnBelowEight) {
  PauseRule rule;
  EXPECT_FALSE(rule.update(89, 100, 0, 1000));
  EXPECT_TRUE(rule.update(91, 100, 0, 1000));
  EXPECT_TRUE(rule.update(85, 100, 0, 1000));
  EXPECT_FALSE(rule.update(79, 100, 0, 1000));
  EXPECT_FALSE(rule.update(85, 100, 0, 1000));
}

TEST(Load, PausesWhenTheMachineIsFullWhoeverFillsIt) {
  PauseRule rule;
  EXPECT_FALSE(rule.update(0, kAnyMemory, 850, 1000));
  EXPECT_TRUE(rule.update(0, kAnyMemory, 860, 1000)) << "of 95 %";
  EXPECT_FALSE(rule.update(0, kAnyMemory, 700, 1000));
}

TEST(Load, SamplesThisMachine) {
  LoadSampler sampler(kAnyMemory);
  const pid_t self = ::getpid();
  EXPECT_EQ(sampler.sample({1'000'000'000}, {&self, 1}).others_cpus_milli, 0u) << "nothing to compare with";
  const LoadSampled load = sampler.sample({2'000'000'000}, {&self, 1});
  EXPECT_LT(load.others_cpus_milli, 10'000'000u);
}

}  // namespace
}  // namespace betterbox
