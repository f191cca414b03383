// RangeSet against a set of single items.
#include "runtime/range.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace betterbox {
namespace {

using ItemSet = std::set<std::uint64_t>;

std::vector<Range> ranges_of(const ItemSet& items, Range within) {
  std::vector<Range> ranges;
  for (const std::uint64_t item : items) {
    if (!within.contains(item)) continue;
    if (!ranges.empty() && ranges.back().end == item) {
      ++ranges.back().end;
    } else {
      ranges.push_back({item, item + 1});
    }
  }
  return ranges;
}

std::vector<Range> gaps_of(const ItemSet& items, Range within) {
  ItemSet missing;
  for (std::uint64_t i = within.begin; i < within.end; ++i) {
    if (!items.contains(i)) missing.insert(i);
  }
  return ranges_of(missing, within);
}

TEST(RangeSetTest, AgreesWithASetOfItemsInRandomOperations) {
  constexpr std::uint64_t kUniverse = 64;
  for (std::uint32_t seed = 0; seed < 200; ++seed) {
    std::mt19937 random(seed);
    RangeSet set;
    ItemSet model;
    for (int step = 0; step < 100; ++step) {
      const std::uint64_t a = random() % kUniverse;
      const std::uint64_t b = random() % kUniverse;
      const Range r{std::min(a, b), std::max(a, b)};
      const std::size_t before = model.size();
      switch (random() % 4) {
        case 0:
        case 1:
          for (std::uint64_t i = r.begin; i < r.end; ++i) model.insert(i);
          ASSERT_EQ(set.insert(r), model.size() - before) << "seed " << seed;
          break;
        case 2:
          for (std::uint64_t i = r.begin; i < r.end; ++i) model.erase(i);
          ASSERT_EQ(set.erase(r), before - model.size()) << "seed " << seed;
          break;
        default:
          if (model.empty()) break;
          const Range front = set.take_front(1 + a % 5);
          ASSERT_EQ(front.begin, *model.begin());
          for (std::uint64_t i = front.begin; i < front.end; ++i) ASSERT_EQ(model.erase(i), 1U);
      }
      ASSERT_EQ(set.size(), model.size()) << "seed " << seed << " step " << step;
      ASSERT_EQ(set.ranges(), ranges_of(model, {0, kUniverse})) << "seed " << seed << " step " << step;
      ASSERT_EQ(set.intersection(r), ranges_of(model, r));
      ASSERT_EQ(set.missing(r), gaps_of(model, r));
      ASSERT_EQ(set.contains(r), gaps_of(model, r).empty());
      ASSERT_EQ(set.contains(a), model.contains(a));
    }
  }
}

TEST(RangeSetTest, AgreesWithASetOfItemsWhileItHasThousandsOfRanges) {
  constexpr std::uint64_t kUniverse = 6000;
  std::mt19937 random(1);
  RangeSet set;
  ItemSet model;
  for (int step = 0; step < 20'000; ++step) {
    const std::uint64_t begin = random() % kUniverse;
    const bool mostly_grows = step % 10'000 < 6'000;
    const Range r{begin, begin + 1 + (random() % 200 == 0 ? random() % 700 : 0)};
    const std::size_t before = model.size();
    if ((random() % 4 == 0) != mostly_grows) {
      for (std::uint64_t i = r.begin; i < r.end; ++i) model.insert(i);
      ASSERT_EQ(set.insert(r), model.size() - before) << "step " << step;
    } else {
      for (std::uint64_t i = r.begin; i < r.end; ++i) model.erase(i);
      ASSERT_EQ(set.erase(r), before - model.size()) << "step " << step;
    }
    ASSERT_EQ(set.size(), model.size());
    ASSERT_EQ(set.contains(begin + 1), model.contains(begin + 1));
    if (step % 500 != 0) continue;
    ASSERT_EQ(set.ranges(), ranges_of(model, {0, 2 * kUniverse}));
  }
  while (!set.empty()) {
    const Range front = set.take_front(3);
    for (std::uint64_t i = front.begin; i < front.end; ++i) ASSERT_EQ(model.erase(i), 1U);
  }
  EXPECT_TRUE(model.empty());
}

TEST(RangeSetTest, ItemsInsertedInOrderAreOneRange) {
  RangeSet set;
  for (std::uint64_t i = 0; i < 1000; ++i) EXPECT_EQ(set.insert({i, i + 1}), 1U);
  EXPECT_EQ(set.range_count(), 1U);
  EXPECT_EQ(set.front(), (Range{0, 1000}));
  EXPECT_EQ(set.back(), set.front());
}

TEST(RangeSetTest, HoldsHugeRanges) {
  RangeSet set({0, std::uint64_t{1} << 62});
  EXPECT_EQ(set.erase({1000, 2000}), 1000U);
  EXPECT_EQ(set.range_count(), 2U);
  EXPECT_EQ(set.size(), (std::uint64_t{1} << 62) - 1000);
}

TEST(RangeSetTest, EmptyRangesChangeNothing) {
  RangeSet set({5, 10});
  EXPECT_EQ(set.insert({7, 7}), 0U);
  EXPECT_EQ(set.erase({7, 7}), 0U);
  EXPECT_TRUE(set.contains(Range{100, 100}));
  EXPECT_EQ(set.ranges(), (std::vector<Range>{{5, 10}}));
}

}  // namespace
}  // namespace betterbox
