// ItemClock: what it books adds up, and a long item is found at the latest before the slot does something else.
#include "worker/item_clock.h"

#include <gtest/gtest.h>

#include <vector>

namespace betterbox {
namespace {

class ItemClocks : public ::testing::Test {
 protected:
  Duration run(Duration item, bool pause = false) {
    now_ = now_ + item;
    taken_ = taken_ + item;
    const Duration booked = clock_.item_ended(pause, [this] { return ++reads_, now_; });
    booked_ = booked_ + booked;
    return booked;
  }
  TimePoint now_{1'000'000};
  ItemClock clock_{now_};
  Duration taken_{}, booked_{};
  int reads_ = 0;
};

TEST_F(ItemClocks, AreReadForEachItemThatIsNotShort) {
  for (const std::int64_t us : {3, 50, 2000, 3, 7}) EXPECT_EQ(run(microseconds(us)).ns, microseconds(us).ns);
  EXPECT_EQ(reads_, 5);
}

TEST_F(ItemClocks, AreReadOncePerEightShortOnes) {
  for (int i = 0; i < 807; ++i) EXPECT_EQ(run({100}).ns, 100);
  EXPECT_EQ(reads_, 3 + 100);
}

TEST_F(ItemClocks, BookEverythingOnce) {
  std::uint64_t state = 1;
  for (int i = 0; i < 10'000; ++i) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    const auto draw = static_cast<std::int64_t>(state >> 40);
    run({50 + draw % 100 + (draw % 50 == 0 ? draw : 0)});
  }
  run(microseconds(5), true);
  EXPECT_EQ(booked_.ns, taken_.ns);
}

TEST_F(ItemClocks, BookALongItemToANearOneBehindIt) {
  for (int i = 0; i < 100; ++i) run({100});
  Duration longest = run(seconds(10));
  for (int i = 0; i < 7; ++i) longest = std::max(longest, run({100}));
  EXPECT_GE(longest.ns, seconds(10).ns);
  EXPECT_LE(longest.ns, seconds(10).ns + 1000);
}

// With the last item of a part no other follows that it could be booked to: it would be lost.
TEST_F(ItemClocks, BookALongItemToItselfIfNoOtherFollows) {
  for (int i = 0; i < 100; ++i) run({100});
  EXPECT_GE(run(seconds(10), true).ns, seconds(10).ns - 1000);
  EXPECT_EQ(booked_.ns, taken_.ns);
}

TEST_F(ItemClocks, LookAtEachItemAgainAfterALongOne) {
  for (int i = 0; i < 100; ++i) run({100});
  run(seconds(10), true);
  EXPECT_EQ(run(seconds(3)).ns, seconds(3).ns);
}

}  // namespace
}  // namespace betterbox
