#include "simulator/slot.h"

#include <gtest/gtest.h>

namespace betterbox::sim {
namespace {

class SlotTest : public ::testing::Test {
 protected:
  /// Items of 10 ns each.
  void install(std::int64_t now, std::uint32_t station, std::uint64_t base, std::uint32_t count) {
    slot.install(now, 5, station, ++generation, sums.data(), base, count);
  }
  std::vector<SlotRecord> drain(std::int64_t now) {
    std::vector<SlotRecord> records;
    slot.drain(now, records);
    return records;
  }
  SlotTest() {
    for (std::int64_t i = 0; i <= 100; ++i) sums.push_back(10 * i);
  }
  std::vector<std::int64_t> sums;
  Speed speed{1};
  SimSlot slot{speed};
  std::uint32_t generation = 0;
};

TEST_F(SlotTest, WakesThenRunsItemAfterItem) {
  install(100, 0, 20, 3);
  EXPECT_EQ(slot.next_record_at(), 115);
  EXPECT_EQ(slot.station_done_at(), 135);
  EXPECT_TRUE(drain(114).empty());
  const auto records = drain(126);
  ASSERT_EQ(records.size(), 1U);
  EXPECT_EQ(records[0].first, 0U);
  EXPECT_EQ(records[0].count, 2U);
  const auto rest = drain(135);
  ASSERT_EQ(rest.size(), 2U);
  EXPECT_EQ(rest[0].first, 2U);
  EXPECT_TRUE(rest[1].station_done);
  EXPECT_TRUE(slot.idle());
}

TEST_F(SlotTest, GoesToItsWaitingStationWithoutBeingWoken) {
  install(0, 0, 0, 2);
  install(3, 1, 50, 2);
  EXPECT_EQ(slot.station_done_at(), 25);
  drain(25);
  EXPECT_EQ(slot.next_record_at(), 35);
  EXPECT_EQ(slot.station_done_at(), 45);
}

TEST_F(SlotTest, KeepsTheItemThatRunsWhenItIsCut) {
  install(0, 0, 0, 5);
  const SimSlot::Cut cut = slot.cut(16, 0, 100);  // item 1 runs
  EXPECT_EQ(cut.cut, (Position{2, 5}));
  EXPECT_EQ(cut.position, (Position{2, 2}));
  EXPECT_EQ(cut.done, 1U);
  EXPECT_EQ(slot.station_done_at(), 25);
}

TEST_F(SlotTest, GivesEverythingBackBeforeItHasBegun) {
  install(0, 0, 0, 2);
  install(0, 1, 10, 4);
  EXPECT_EQ(slot.cut(8, 1, 3).cut, (Position{1, 4}));
  EXPECT_EQ(slot.cut(8, 1, 3).cut, (Position{0, 1}));
  EXPECT_EQ(slot.cut(4, 0, 9).cut, (Position{0, 2}));
  EXPECT_EQ(drain(5).size(), 2U);  // both stations end without an item
}

TEST_F(SlotTest, IsAsFastAsItsWorkerSays) {
  Speed fast(2);
  SimSlot other(fast);
  other.install(0, 0, 0, 1, sums.data(), 0, 4);
  EXPECT_EQ(other.station_done_at(), 20);
}

}  // namespace
}  // namespace betterbox::sim
