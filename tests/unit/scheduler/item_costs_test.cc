// Costs that users expect of items: sums, shares of them, and leases sized by them.
#include "scheduler/item_costs.h"

#include <limits>
#include <numeric>

#include "tests/unit/scheduler/bus_fixture.h"

namespace betterbox::scheduler {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<float> ramp(std::uint64_t from, std::uint64_t to) {
  std::vector<float> costs(to - from);
  std::iota(costs.begin(), costs.end(), static_cast<float>(from));
  return costs;
}

double ramp_sum(Range r) {
  const auto to = [](std::uint64_t n) { return static_cast<double>(n) * (static_cast<double>(n) - 1) / 2; };
  return to(r.end) - to(r.begin);
}

TEST(ItemCostsTest, SumsRangesOverPagesAndBlocks) {
  ItemCosts costs;
  costs.add_page(0, ramp(0, 1000));
  costs.add_page(1000, ramp(1000, 1256));
  costs.add_page(1256, ramp(1256, 1257));
  for (const Range& r :
       {Range{0, 1}, Range{0, 256}, Range{255, 257}, Range{0, 1257}, Range{999, 1257}, Range{1255, 1256}}) {
    EXPECT_DOUBLE_EQ(costs.sum(r), ramp_sum(r)) << r.begin << " " << r.end;
  }
  EXPECT_EQ(costs.sum({5, 5}), 0);
  EXPECT_THAT(costs.slice({999, 1001}), ElementsAre(999, 1000));
  costs.drop_page(0);
  EXPECT_DOUBLE_EQ(costs.sum({1000, 1002}), 2001);
}

TEST(ItemCostsTest, CountsItemsOfAboutACost) {
  ItemCosts costs;
  costs.add_page(0, std::vector<float>(1000, 2.0F));
  costs.add_page(1000, std::vector<float>(10, 100.0F));
  EXPECT_EQ(costs.items_for({0, 1010}, 10), 5U);
  EXPECT_EQ(costs.items_for({0, 1010}, 1200), 600U);
  EXPECT_EQ(costs.items_for({0, 1010}, 2100), 1001U);
  EXPECT_EQ(costs.items_for({0, 1010}, 1e9), 1010U);
  EXPECT_EQ(costs.items_for({1000, 1010}, 3), 1U) << "at least one";
  EXPECT_EQ(costs.items_for({1000, 1010}, 260), 3U) << "to the nearest";
}

TEST(ItemCostsTest, CountsItemsOfCostsBeyondWholeNumbers) {
  ItemCosts costs;
  costs.add_page(0, std::vector<float>(300, 0x1p60F));
  EXPECT_EQ(costs.items_for({0, 300}, 0x1p60 * 300), 300U);
  EXPECT_EQ(costs.items_for({0, 100}, 0x1p60 * 7), 7U) << "less than a block of them";
}

class CostsTest : public BusTest {
 public:
  void add_costed(const Actor& client, std::uint64_t serial, std::uint64_t first, std::vector<float> costs,
                  bool closed) {
    const std::uint64_t count = costs.size();
    say(client, Items{serial, {{first, count}}, closed, std::move(costs)},
        {make_int_range_page(0, 1, count)});
  }
  Complaint refusal_of(std::vector<float> costs, std::uint64_t count) {
    const Actor c = client(90 + ++clients_);
    open_call(c, 1);
    say(c, Items{1, {{0, count}}, false, std::move(costs)}, {make_int_range_page(0, 1, count)});
    return has_message(c) ? Complaint(expect<Refused>(c).text) : std::nullopt;
  }
  std::uint64_t clients_ = 0;
};

TEST_F(CostsTest, ALeaseCarriesTheCostsOfItsItems) {
  const Actor w = worker(1, 1);
  const Actor c = client();
  open_call(c, 1);
  add_costed(c, 1, 0, {1, 2, 3}, true);
  const Lease lease = expect_first_lease(w);
  ASSERT_EQ(lease.costs.size(), lease.range.size());
  EXPECT_EQ(lease.costs.front(), 1.0F);
}

TEST_F(CostsTest, AStaticShareIsOneOfCostNotOfItems) {
  const Actor w1 = worker(1, 1);
  const Actor w2 = worker(2, 1);
  const Actor c = client();
  Call call;
  call.serial = 1;
  call.policy = "static";
  open(c, call);
  add_costed(c, 1, 0, {50, 10, 10, 10, 10, 10}, true);
  const std::vector<Lease> first = expect_leases(w1);
  const std::vector<Lease> second = expect_leases(w2);
  ASSERT_FALSE(first.empty());
  ASSERT_FALSE(second.empty());
  const Range expensive = first[0].range.begin == 0 ? first[0].range : second[0].range;
  EXPECT_EQ(expensive, (Range{0, 1}));
}

TEST_F(CostsTest, TimesAreLearnedOfItemsOfMeanCost) {
  const Actor w = worker(1, 1);
  const Actor c = client();
  const CallId id = open_call(c, 1);
  add_costed(c, 1, 0, {1, 1, 1, 1, 6, 6, 6, 6, 1, 1, 1, 5}, true);  // mean 3
  const std::vector<Lease> leases = expect_leases(w);
  ASSERT_FALSE(leases.empty());
  finish(w, leases[0].lease, {0, 1}, milliseconds(10));
  EXPECT_NEAR(core.state().calls.at(id).times.mean(), 30e6, 1) << "10 ms for a third of the mean";
  forget_unread();
}

TEST_F(CostsTest, CostsThatAreNoCostsAreAViolation) {
  EXPECT_THAT(refusal_of({1, -1}, 2).value_or(""), HasSubstr("negative"));
  EXPECT_THAT(refusal_of({std::numeric_limits<float>::quiet_NaN()}, 1).value_or(""), HasSubstr("no number"));
  EXPECT_THAT(refusal_of({std::numeric_limits<float>::infinity()}, 1).value_or(""), HasSubstr("no number"));
  EXPECT_THAT(refusal_of({1, 2, 3}, 2).value_or(""), HasSubstr("one cost each"));
  EXPECT_FALSE(refusal_of({0, 0}, 2));
}

TEST_F(CostsTest, ACallHasCostsForAllItemsOrForNone) {
  const Actor c = client();
  open_call(c, 1);
  add_costed(c, 1, 0, {1}, false);
  add_items(c, 1, {1, 2}, false);
  EXPECT_THAT(expect<Refused>(c).text, HasSubstr("have none"));
}

TEST_F(CostsTest, CostsOfNothingCountAsNone) {
  const Actor w = worker(1, 1);
  const Actor c = client();
  open_call(c, 1);
  add_costed(c, 1, 0, std::vector<float>(10, 0.0F), true);
  const std::vector<Lease> leases = expect_leases(w);
  ASSERT_FALSE(leases.empty());
  std::uint64_t done = 0;
  for (const Lease& lease : leases) {
    finish(w, lease.lease, lease.range);
    done += lease.range.size();
  }
  EXPECT_GT(done, 0U);
  forget_unread();
}

}  // namespace
}  // namespace betterbox::scheduler
