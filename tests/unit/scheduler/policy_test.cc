#include "scheduler/policy.h"

#include <gtest/gtest.h>

namespace betterbox::scheduler {
namespace {

const Policy& guided = guided_policy();

TEST(GuidedPolicyTest, IsFoundByItsName) {
  EXPECT_EQ(find_policy("guided"), &guided);
  EXPECT_EQ(find_policy("no such policy"), nullptr);
}

TEST(GuidedPolicyTest, AWorkerWithAFreeSlotIsHungry) {
  EXPECT_TRUE(guided.is_hungry({4, 3, 1e9}));
  EXPECT_FALSE(guided.is_hungry({4, 4, 1e9}));
}

TEST(GuidedPolicyTest, AWorkerWithLittleWorkLeftIsHungry) {
  EXPECT_TRUE(guided.is_hungry({2, 100, 1e4}));    // 0.5 ms a slot
  EXPECT_FALSE(guided.is_hungry({2, 1000, 1e4}));  // 5 ms a slot
  EXPECT_FALSE(guided.is_hungry({2, 100, 0})) << "nothing is known of the items";
}

TEST(GuidedPolicyTest, GrantsHalfOfTheWorkersShare) {
  EXPECT_EQ(guided.items_to_grant({1000, 10}, {4, 0, 0}), 200U);
  EXPECT_EQ(guided.items_to_grant({100, 10}, {4, 0, 0}), 20U);
}

TEST(GuidedPolicyTest, GrantsAnItemPerSlotWhenFewAreLeft) {
  EXPECT_EQ(guided.items_to_grant({3, 10}, {4, 0, 1e9}), 4U);
}

TEST(GuidedPolicyTest, GrantsShortItemsUntilThereIsEnoughWork) {
  EXPECT_EQ(guided.items_to_grant({100'000, 100}, {1, 0, 1e3}), 2000U);
  EXPECT_EQ(guided.items_to_grant({700, 100}, {1, 0, 1e3}), 700U);
}

}  // namespace
}  // namespace betterbox::scheduler
