#include "scheduler/fair_queue.h"

#include <gtest/gtest.h>

#include <vector>

namespace betterbox::scheduler {
namespace {

CallId call(std::uint64_t client, std::uint64_t serial) { return {PeerId{client}, serial}; }

TEST(FairQueueTest, ClientsTakeTurnsHoweverManyCallsTheyHave) {
  FairQueue queue;
  for (std::uint64_t serial = 1; serial <= 3; ++serial) queue.add(call(1, serial));
  queue.add(call(2, 1));
  std::vector<CallId> turns;
  for (int i = 0; i < 6; ++i) turns.push_back(queue.next());
  EXPECT_EQ(turns,
            (std::vector<CallId>{call(1, 1), call(2, 1), call(1, 2), call(2, 1), call(1, 3), call(2, 1)}));
}

TEST(FairQueueTest, CountsEachCallOnce) {
  FairQueue queue;
  queue.add(call(1, 1));
  queue.add(call(1, 1));
  EXPECT_EQ(queue.size(), 1U);
  EXPECT_TRUE(queue.contains(call(1, 1)));
  queue.remove(call(1, 1));
  queue.remove(call(1, 1));
  EXPECT_TRUE(queue.empty());
}

TEST(FairQueueTest, HigherPrioritiesComeFirstAndEqualsTakeTurns) {
  FairQueue queue;
  queue.add({PeerId{1}, 1}, {0});
  queue.add({PeerId{1}, 2}, {5});
  queue.add({PeerId{2}, 1}, {5});
  queue.add({PeerId{2}, 2}, {-3});
  EXPECT_EQ(queue.next(), (CallId{PeerId{1}, 2}));
  EXPECT_EQ(queue.next(), (CallId{PeerId{2}, 1}));
  EXPECT_EQ(queue.next(), (CallId{PeerId{1}, 2}));
  EXPECT_EQ(queue.highest(), CallRank{5});
  EXPECT_EQ(queue.below({5}), CallRank{0});
  EXPECT_EQ(queue.below({0}), CallRank{-3});
  EXPECT_FALSE(queue.below({-3}));
  queue.remove({PeerId{1}, 2}, {5});
  queue.remove({PeerId{2}, 1}, {5});
  EXPECT_EQ(queue.next(), (CallId{PeerId{1}, 1}));
  EXPECT_EQ(queue.size(), 2U);
}

TEST(FairQueueTest, DeeperCallsComeFirstAmongThoseOfOnePriority) {
  FairQueue queue;
  queue.add({PeerId{1}, 1}, {0, 0});
  queue.add({PeerId{2}, 1}, {0, 3});
  queue.add({PeerId{3}, 1}, {1, 0});
  EXPECT_EQ(queue.next(), (CallId{PeerId{3}, 1}));
  EXPECT_EQ(queue.below({1, 0}), (CallRank{0, 3}));
  queue.remove({PeerId{3}, 1}, {1, 0});
  EXPECT_EQ(queue.next(), (CallId{PeerId{2}, 1}));
}

}  // namespace
}  // namespace betterbox::scheduler
