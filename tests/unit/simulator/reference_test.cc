// Greedy and ideal against cases worked out by hand. All times in ns.
#include "simulator/reference.h"

#include <gtest/gtest.h>

namespace betterbox::sim {
namespace {

Case make(std::vector<std::int64_t> times, std::vector<double> speeds, std::uint32_t slots = 1) {
  Case made;
  made.slots = slots;
  made.work.sums.push_back(0);
  for (const std::int64_t t : times) made.work.sums.push_back(made.work.sums.back() + t * 1000);
  for (const double speed : speeds) made.machines.push_back({Speed(speed)});
  return made;
}

TEST(Greedy, TakesItemsInTheirOrderAndTheLowestFreeSlot) {
  // 0: 5 until 5, then 1 until 6; 1: 3 until 3, then 4 until 7.
  EXPECT_DOUBLE_EQ(greedy_ns(make({5, 3, 4, 1}, {1, 1})), 7000);
}

TEST(Greedy, GivesTiesToTheLowestSlot) {
  // Both free at 0 and at 2: the slow one is slot 0, so it gets the last item.
  EXPECT_DOUBLE_EQ(greedy_ns(make({2, 4, 6}, {1, 2})), 8000);
  EXPECT_DOUBLE_EQ(greedy_ns(make({4, 2, 6}, {2, 1})), 5000);
}

TEST(Greedy, CountsSlotsOfAWorkerOneByOne) {
  EXPECT_DOUBLE_EQ(greedy_ns(make({4, 4, 4, 4}, {1, 2}, 2)), 4000);
}

TEST(Greedy, WaitsForWorkersThatJoin) {
  Case late = make({4, 4}, {1, 1});
  late.machines[1].joins_ns = 1000;
  EXPECT_DOUBLE_EQ(greedy_ns(late), 5000);
}

TEST(Greedy, RunsAgainWhatALeaverHad) {
  Case short_of = make({4, 4}, {1, 1});
  short_of.machines[1].leaves_ns = 2000;
  EXPECT_DOUBLE_EQ(greedy_ns(short_of), 8000);
}

TEST(Greedy, SlowsItemsInTheirMiddle) {
  Case slow = make({4}, {1});
  slow.machines[0].speed.slow_down(2000, 3);
  EXPECT_DOUBLE_EQ(greedy_ns(slow), 2000 + 6000);
}

TEST(Ideal, IsTheWorkOverAllSpeedOrTheLongestItem) {
  const Case even = make({2, 2, 2, 2}, {1, 3});
  EXPECT_DOUBLE_EQ(ideal_ns(even.work, even), 2000);
  const Case one_long = make({1, 30, 1}, {1, 3});
  EXPECT_DOUBLE_EQ(ideal_ns(one_long.work, one_long), 10'000);
}

TEST(Ideal, KnowsWhoIsThereWhen) {
  Case half = make({4, 4, 4}, {1, 1});
  half.machines[1].joins_ns = 4000;  // 4 until then, 8 afterwards by two
  EXPECT_NEAR(ideal_ns(half.work, half), 8000, 1e-3);
  Case leaving = make({4, 4, 4}, {1, 1});
  leaving.machines[1].leaves_ns = 4000;
  EXPECT_NEAR(ideal_ns(leaving.work, leaving), 8000, 1e-3);
  Case slow = make({4, 4, 4}, {1});
  slow.machines[0].speed.slow_down(6000, 2);
  EXPECT_NEAR(ideal_ns(slow.work, slow), 18'000, 1e-3);
}

TEST(Cluster, HasBothEndsOfTheSpread) {
  Options options;
  options.workers = 50;
  options.speed_spread = 3.5;
  const Case all = make_case(options, 9);
  double slowest = 10, fastest = 0;
  for (const Machine& machine : all.machines) {
    slowest = std::min(slowest, machine.speed.factor());
    fastest = std::max(fastest, machine.speed.factor());
  }
  EXPECT_DOUBLE_EQ(slowest, 1);
  EXPECT_DOUBLE_EQ(fastest, 3.5);
}

}  // namespace
}  // namespace betterbox::sim
