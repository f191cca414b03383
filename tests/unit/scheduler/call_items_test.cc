#include "scheduler/call_items.h"

#include <gtest/gtest.h>

#include "tests/unit/scheduler/bus_fixture.h"

namespace betterbox::scheduler {
namespace {

constexpr std::size_t kNoLimit = 1U << 30;

TEST(CallItemsTest, AGrowingCallNeedsNoMemoryForWhatIsSettled) {
  CallItems items;
  for (std::uint64_t i = 0; i < 100'000; ++i) {
    items.append({i, 1}, page_of_bytes(10));
    const Part part = items.take(1, kNoLimit, 10);
    ASSERT_EQ(part.range, (Range{i, i + 1}));
    items.settle(part.range);
  }
  EXPECT_EQ(items.held_pages(), 0U);
  EXPECT_EQ(items.held_bytes(), 0U);
  EXPECT_TRUE(items.pending_ranges().empty());
  items.sanity_check();
}

TEST(CallItemsTest, APageIsHeldUntilItsLastItemIsSettled) {
  CallItems items;
  items.append({0, 10}, page_of_bytes(100));
  items.take(10, kNoLimit, 10);
  items.settle({0, 4});
  items.settle({5, 10});
  EXPECT_EQ(items.held_bytes(), 100U);
  items.settle({4, 5});
  EXPECT_EQ(items.held_bytes(), 0U);
}

TEST(CallItemsTest, TakesOnlyAsManyPagesAsFitButAtLeastOne) {
  CallItems items;
  for (std::uint64_t i = 0; i < 4; ++i) items.append({i * 10, 10}, page_of_bytes(100));
  EXPECT_EQ(items.take(100, 10, 10).range, (Range{0, 10}));
  EXPECT_EQ(items.take(100, 200, 10).range, (Range{10, 30}));
  EXPECT_EQ(items.take(100, kNoLimit, 1).range, (Range{30, 40}));
}

TEST(CallItemsTest, WhatComesBackIsTakenFirstAndKeepsItsAttempt) {
  CallItems items;
  items.append({0, 100}, page_of_bytes(1));
  items.take(50, kNoLimit, 10);
  items.put_back({{10, 20}, 1, true});
  const Part part = items.take(100, kNoLimit, 10);
  EXPECT_EQ(part.range, (Range{10, 20}));
  EXPECT_EQ(part.attempt, 1U);
  EXPECT_TRUE(part.stolen);
  EXPECT_EQ(items.take(100, kNoLimit, 10).range, (Range{50, 100}));
}

TEST(CallItemsTest, NeighboursThatComeBackAreOneRangeAgain) {
  CallItems items;
  items.append({0, 100}, page_of_bytes(1));
  items.take(100, kNoLimit, 10);
  items.put_back({{20, 30}, 0, false});
  items.put_back({{40, 50}, 0, false});
  items.put_back({{30, 40}, 0, false});
  EXPECT_EQ(items.pending_ranges(), (std::vector<Range>{{20, 50}}));
}

TEST(CallItemsTest, WithdrawsTheMiddleOfWhatWaits) {
  CallItems items;
  items.append({0, 100}, page_of_bytes(1));
  EXPECT_EQ(items.withdraw({40, 60}), (std::vector<Range>{{40, 60}}));
  items.settle({40, 60});
  EXPECT_EQ(items.pending_ranges(), (std::vector<Range>{{0, 40}, {60, 100}}));
  EXPECT_EQ(items.pending_items(), 80U);
  items.sanity_check();
}

TEST(CallItemsTest, ItemsDeliveredBeforeAreKnownToBeSettled) {
  CallItems items({{0, 10}, {15, 20}});
  EXPECT_FALSE(items.may_append({11, 1})) << "item 10 is missing";
  ASSERT_TRUE(items.may_append({10, 10}));
  items.append({10, 10}, page_of_bytes(5));
  EXPECT_EQ(items.unsettled_items(), 5U);
  EXPECT_EQ(items.settled_items(), 15U);
  items.sanity_check();
}

TEST(CallItemsTest, ClosingCountsDeliveredItemsBehindTheLastOne) {
  CallItems items({{5, 10}});
  items.append({0, 5}, page_of_bytes(5));
  items.close();
  EXPECT_EQ(items.known_end(), 10U);
}

TEST(CallItemsTest, RefusesOverlapsGapsAndOverflow) {
  CallItems items;
  items.append({0, 5}, page_of_bytes(5));
  EXPECT_FALSE(items.may_append({4, 1}));
  EXPECT_FALSE(items.may_append({6, 1}));
  EXPECT_FALSE(items.may_append({5, 0}));
  EXPECT_FALSE(items.may_append({5, ~std::uint64_t{0}}));
  EXPECT_TRUE(items.may_append({5, 1}));
}

}  // namespace
}  // namespace betterbox::scheduler
