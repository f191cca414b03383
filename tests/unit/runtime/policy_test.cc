// Policies against figures worked out by hand.
#include "runtime/policy.h"

#include <gtest/gtest.h>

#include <vector>

namespace betterbox {
namespace {

/// All chunks that `policy` cuts `total` items into, for takers of one slot that ask in turn.
std::vector<std::uint64_t> chunks(std::string_view policy, std::uint64_t total, std::uint64_t slots) {
  PolicyMemory memory;
  Work work;
  work.remaining = work.total = total;
  work.total_slots = work.takers = slots;
  std::vector<std::uint64_t> all;
  while (work.remaining > 0) {
    const std::uint64_t n = find_policy(policy)->items_to_give(work, {1, 0, {}}, memory);
    all.push_back(std::min(n, work.remaining));
    work.remaining -= all.back();
  }
  return all;
}

Taker taker(double mean_ns, std::uint64_t outstanding = 0, std::uint64_t slots = 1) {
  Taker t{slots, outstanding, {}};
  t.times.add(10, 10 * mean_ns, 10 * mean_ns * mean_ns);
  return t;
}

Work work(std::uint64_t remaining, std::uint64_t slots, double mean_ns) {
  Work w;
  w.remaining = w.total = remaining;
  w.total_slots = w.takers = slots;
  w.mean_ns = mean_ns;
  w.items_per_ns = static_cast<double>(slots) / mean_ns;
  return w;
}

TEST(PolicyTest, IsFoundByItsName) {
  EXPECT_EQ(find_policy(""), &auto_policy());
  EXPECT_EQ(find_policy("auto"), &auto_policy());
  for (const Policy& p : policies()) EXPECT_EQ(find_policy(p.name), &p);
  EXPECT_EQ(find_policy("guided"), nullptr);
}

TEST(PolicyTest, StaticGivesEachSlotOneEqualPart) {
  EXPECT_EQ(chunks("static", 100, 4), (std::vector<std::uint64_t>{25, 25, 25, 25}));
  EXPECT_EQ(chunks("static", 10, 4), (std::vector<std::uint64_t>{3, 3, 3, 1}));
}

TEST(PolicyTest, SelfSchedulingGivesSingleItems) {
  EXPECT_EQ(chunks("ss", 3, 2), (std::vector<std::uint64_t>{1, 1, 1}));
}

TEST(PolicyTest, GuidedGivesAnEqualShareOfTheRest) {
  // Polychronopoulos and Kuck's own example: 100 iterations, 5 processors.
  EXPECT_EQ(chunks("gss", 100, 5),
            (std::vector<std::uint64_t>{20, 16, 13, 11, 8, 7, 5, 4, 4, 3, 2, 2, 1, 1, 1, 1, 1}));
}

TEST(PolicyTest, TrapezoidFallsLinearlyFromHalfAnEqualShareToOne) {
  const auto all = chunks("tss", 1000, 4);
  ASSERT_GE(all.size(), 15U);
  EXPECT_EQ(all[0], 125U);
  EXPECT_EQ(all[1], 116U);  // (125 - 1) / (16 - 1) = 8.27 less
  EXPECT_EQ(all[14], 9U);
}

TEST(PolicyTest, FactoringHalvesWithEachBatch) {
  const std::vector<std::uint64_t> expected = {13, 13, 13, 13, 6, 6, 6, 6, 3, 3,
                                               3,  3,  2,  2,  2, 2, 1, 1, 1, 1};
  EXPECT_EQ(chunks("fac2", 100, 4), expected);
}

TEST(PolicyTest, WeightedFactoringGivesAFastTakerMore) {
  PolicyMemory memory;
  Work w = work(100, 4, 1000);
  EXPECT_EQ(find_policy("awf")->items_to_give(w, taker(500), memory), 26U);  // 13 x 2
  EXPECT_EQ(find_policy("awf")->items_to_give(w, taker(2000), memory), 7U);  // 13 / 2
}

TEST(PolicyTest, AdaptiveFactoringGivesMoreWhereItemsVaryLess) {
  PolicyMemory memory;
  Work even = work(1000, 4, 1000), uneven = even;
  uneven.scatter = 4 * 1000.0;  // standard deviation = mean on each of four slots
  // T R = 250 us; without scatter all of it: 250 items.
  EXPECT_EQ(find_policy("af")->items_to_give(even, taker(1000), memory), 250U);
  // (4 + 500 - sqrt(16 + 4000)) / 2 = 220.3
  EXPECT_EQ(find_policy("af")->items_to_give(uneven, taker(1000), memory), 220U);
}

TEST(PolicyTest, AutoProbesWithOneItemForEachFreeSlot) {
  PolicyMemory memory;
  Work w = work(1000, 8, 0);
  w.items_per_ns = 0;
  EXPECT_EQ(auto_policy().items_to_give(w, {4, 0, {}}, memory), 4U);
  EXPECT_EQ(auto_policy().items_to_give(w, {4, 3, {}}, memory), 1U);
}

TEST(PolicyTest, AutoGivesTheOnlyTakerEverything) {
  PolicyMemory memory;
  Work w = work(1000, 4, 0);
  w.takers = 1;
  EXPECT_EQ(auto_policy().items_to_give(w, {4, 0, {}}, memory), 1000U);
}

TEST(PolicyTest, AutoGivesByTheMeasuredRate) {
  PolicyMemory memory;
  const Work w = work(1000, 4, 1e7);
  const std::uint64_t slow = auto_policy().items_to_give(w, taker(2e7), memory);
  const std::uint64_t fast = auto_policy().items_to_give(w, taker(5e6), memory);
  EXPECT_EQ(slow, 72U)
      << "half of 1000 / 4 / 1.71: the mean of ten items of 20 ms and four of 10 ms is 17.1 ms";
  EXPECT_EQ(fast, 194U) << "half of 1000 / 4 / 0.643";
}

TEST(PolicyTest, AutoGivesNothingAheadInTheTail) {
  PolicyMemory memory;
  Work w = work(3, 4, 1e7);
  w.idle_slots = 3;
  EXPECT_EQ(auto_policy().items_to_give(w, taker(1e7, 1), memory), 0U);
  EXPECT_EQ(auto_policy().items_to_give(w, taker(1e7, 0), memory), 1U);
}

TEST(PolicyTest, AutoAsksAheadForARoundTripOfShortItems) {
  EXPECT_EQ(auto_policy().low_water(taker(1e4, 0, 2), milliseconds(1)), 160U) << "16 times what was seen";
  EXPECT_EQ(auto_policy().low_water(taker(1e4, 0, 2), microseconds(500)), 100U);
  EXPECT_EQ(auto_policy().low_water(taker(1e9, 0, 2), microseconds(100)), 2U) << "one that runs on each slot";
}

TEST(PolicyTest, AutoAsksAheadByWhatIsShorterNowOrElsewhere) {
  Taker sorted = taker(1e6);
  sorted.times.add(8, 8 * 1e4, 8 * 1e8);
  EXPECT_EQ(auto_policy().low_water(sorted, milliseconds(1)), 100U);
  Taker slow_or_unlucky = taker(1e6);
  slow_or_unlucky.mean_ns = 1e4;
  EXPECT_EQ(auto_policy().low_water(slow_or_unlucky, milliseconds(1)), 10U) << "as if items took 100 us";
}

TEST(PolicyTest, AutoGivesAFarTakerWhatLastsForHalfARoundTripAtLeast) {
  PolicyMemory memory;
  Work w = work(40, 20, 1e6);
  EXPECT_EQ(auto_policy().items_to_give(w, taker(1e6), memory), 1U);
  w.round_trip = milliseconds(40);
  EXPECT_EQ(auto_policy().items_to_give(w, taker(1e6), memory), 20U);
}

TEST(ItemTimesTest, LearnsMeanAndVariance) {
  ItemTimes times;
  EXPECT_FALSE(times.known());
  times.add(1, 10, 100);
  times.add(1, 30, 900);
  EXPECT_DOUBLE_EQ(times.mean(), 20);
  EXPECT_DOUBLE_EQ(times.variance(), 100);
}

TEST(PolicyTest, AutoDoesNotTrustOneShortItem) {
  PolicyMemory memory;
  const Work w = work(100'000, 100, 1e7);
  Taker lucky;
  lucky.times.add(1, 100, 1e4);
  EXPECT_LT(auto_policy().items_to_give(w, lucky, memory), 700U) << "about its share of a hundredth";
}

TEST(ItemTimesTest, AFewItemsSayLittleBesideAllOthers) {
  ItemTimes times;
  EXPECT_DOUBLE_EQ(times.mean_among(10), 10);
  times.add(4, 4, 4);
  EXPECT_DOUBLE_EQ(times.mean_among(9), 5);
  EXPECT_DOUBLE_EQ(times.mean_among(0), 1);
}

TEST(ItemTimesTest, ForgetsWhatIsOld) {
  ItemTimes times;
  for (int i = 0; i < 1000; ++i) times.add(1, 10, 100);
  for (int i = 0; i < 300; ++i) times.add(1, 30, 900);
  EXPECT_NEAR(times.mean(), 30, 0.3);
  times.add(1'000'000, 5e6, 25e6);
  EXPECT_DOUBLE_EQ(times.mean(), 5);
}

}  // namespace
}  // namespace betterbox
