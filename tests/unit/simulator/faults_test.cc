// Fault runs, a bounded number of them; ./dev sim --faults --seeds A-B runs more.
#include "simulator/faults.h"

#include <gtest/gtest.h>

namespace betterbox::sim {
namespace {

class FaultSeeds : public ::testing::TestWithParam<std::uint64_t> {};

TEST_P(FaultSeeds, EveryItemHasOneOutcomeAndAllConverges) {
  FaultCounts counts;
  for (std::uint64_t seed = GetParam(); seed < GetParam() + 50; ++seed) {
    const FaultResult result = run_faults(seed, {});
    ASSERT_EQ(result.checker, "") << "seed " << seed << ": " << result.what;
    counts.add(result.faults);
  }
  for (const std::uint64_t kind :
       {counts.loss, counts.delay, counts.reorder, counts.duplication, counts.partition, counts.crash_slot,
        counts.crash_worker, counts.crash_client, counts.crash_scheduler, counts.crash_before_commit,
        counts.crash_after_commit, counts.restart_worker, counts.restart_client, counts.restart_scheduler}) {
    EXPECT_GT(kind, 0U);
  }
}

INSTANTIATE_TEST_SUITE_P(Fifties, FaultSeeds, ::testing::Range<std::uint64_t>(1, 501, 50));

TEST(FaultRun, RepeatsExactly) {
  const FaultResult a = run_faults(12, {}), b = run_faults(12, {});
  EXPECT_EQ(a.messages, b.messages);
  EXPECT_EQ(a.executions, b.executions);
  EXPECT_EQ(a.simulated_s, b.simulated_s);
}

TEST(FaultRun, FindsThePlantedBugWithin200Seeds) {
  FaultOptions options;
  options.plant_bug = true;
  std::uint64_t found = 0;
  for (std::uint64_t seed = 1; seed <= 200 && found == 0; ++seed) {
    if (!run_faults(seed, options).checker.empty()) found = seed;
  }
  EXPECT_GT(found, 0U);
}

}  // namespace
}  // namespace betterbox::sim
