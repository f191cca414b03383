// What explain() and status are made of.
#include <limits>

#include "runtime/codec.h"
#include "scheduler/work_done.h"
#include "tests/unit/scheduler/bus_fixture.h"

namespace betterbox::scheduler {
namespace {

using ::testing::HasSubstr;

TEST(WorkDoneTest, TimesThatAreTooLongToAddUpAreTheLongestOne) {
  constexpr std::int64_t kLongest = std::numeric_limits<std::int64_t>::max();
  WorkDone done;
  std::size_t seats_left = 1;
  SeatWork work;
  work.seat = SeatId{0};
  work.items = 1;
  work.busy_ns = kLongest - 1;
  done.add({work, work}, 1, seats_left);
  EXPECT_EQ(done.busy_ns, kLongest);
  AgentStats all, other;
  all.busy_ns = 5;
  other.busy_ns = done.busy_ns;
  merge(all, other);
  EXPECT_EQ(all.busy_ns, kLongest);
}

TEST(MeasuredItemsTest, GreedyGivesTheNextItemToTheSlotThatIsFreeFirst) {
  MeasuredItems items;
  items.add({0, 1}, 4'000'000);
  items.add({1, 2}, 1'000'000);
  items.add({2, 3}, 1'000'000);
  items.add({3, 4}, 3'000'000);
  EXPECT_EQ(items.greedy_ns(1), 9'000'000);
  EXPECT_EQ(items.greedy_ns(2), 5'000'000);
  EXPECT_EQ(items.greedy_ns(100), 4'000'000);
}

TEST(MeasuredItemsTest, ItemsThatWereReportedTogetherShareTheirTime) {
  MeasuredItems items;
  items.add({0, 4}, 8'000'000);
  EXPECT_EQ(items.greedy_ns(4), 2'000'000);
}

TEST(MeasuredItemsTest, LargeCallsAreNotRecorded) {
  MeasuredItems items;
  items.add({0, 1}, 1000);
  items.add({MeasuredItems::kItems, MeasuredItems::kItems + 1}, 1000);
  EXPECT_EQ(items.greedy_ns(1), 0);
}

class ExplainTest : public BusTest {
 public:
  CallStats explain(const Actor& client, std::uint64_t serial) {
    say(client, Explain{serial});
    return expect<Explanation>(client).stats;
  }
  static std::size_t body_bytes(Body body) { return encode({std::move(body), {}}).size(); }
};

TEST_F(ExplainTest, SaysWhoRanWhatAndWhen) {
  const Actor w = worker(1, 2);
  const Actor c = client();
  start_call(c, 1, 3);
  const std::vector<Lease> leases = expect_leases(w);
  ASSERT_EQ(leases.size(), 1U);
  now = now + milliseconds(7);
  finish(w, leases[0].lease, {0, 1}, milliseconds(5));
  now = now + milliseconds(4);
  finish(w, leases[0].lease, {1, 2}, milliseconds(9));
  expect_results(c);
  const CallStats stats = explain(c, 1);
  EXPECT_EQ(stats.policy, "auto");
  EXPECT_EQ(stats.leases, 1U);
  ASSERT_EQ(stats.agents.size(), 1U);
  const AgentStats& agent = stats.agents[0];
  EXPECT_EQ(agent.items, 2U);
  EXPECT_EQ(agent.busy_ns, milliseconds(14).ns);
  EXPECT_EQ(agent.first_ns, milliseconds(7).ns);
  EXPECT_EQ(agent.last_ns, milliseconds(11).ns);
  EXPECT_EQ(agent.outstanding, 1U);
  ASSERT_EQ(agent.seats.size(), 1U);
  EXPECT_EQ(agent.seats[0].first_ns, milliseconds(7).ns);
  EXPECT_EQ(agent.seats[0].last_ns, milliseconds(11).ns);
  EXPECT_EQ(agent.seats[0].longest_ns, milliseconds(9).ns);
  EXPECT_EQ(stats.ideal_ns, milliseconds(9).ns) << "the longest: all work on two slots is less";
  EXPECT_EQ(stats.greedy_ns, milliseconds(9).ns);
}

TEST_F(ExplainTest, AgentsThatLeftAreStillTold) {
  Actor w = worker(1, 1);
  const Actor c = client();
  start_call(c, 1, 3);
  finish(w, expect_leases(w).at(0).lease, {0, 1});
  say(w, Bye{});
  expect_results(c);
  const CallStats stats = explain(c, 1);
  ASSERT_EQ(stats.agents.size(), 1U);
  EXPECT_EQ(stats.agents[0].items, 1U);
  EXPECT_EQ(stats.agents[0].outstanding, 0U);
  forget_unread();
}

TEST_F(ExplainTest, SeatsOfVeryLargeCallsAreNotToldApart) {
  const Actor w1 = worker(1, kMaxSlots);
  const Actor w2 = worker(2, 2);
  const Actor c = client();
  start_call(c, 1, kMaxSlots * 100);
  const std::vector<Lease> first = expect_leases(w1);
  const std::vector<Lease> second = expect_leases(w2);
  ASSERT_FALSE(first.empty());
  ASSERT_FALSE(second.empty());
  const auto report = [&](const Actor& w, const Lease& lease, std::uint32_t seats) {
    Outcomes outcomes;
    outcomes.ack = 1;
    outcomes.lease = lease.lease;
    for (std::uint32_t seat = 0; seat < seats; ++seat)
      outcomes.seats.push_back({SeatId{seat}, 1, 1000, 1e6, 1000});
    say(w, outcomes);
  };
  report(w1, first[0], kMaxSlots - 1);
  EXPECT_EQ(explain(c, 1).agents.at(0).seats.size(), kMaxSlots - 1U);
  report(w2, second[0], 2);
  const CallStats stats = explain(c, 1);
  EXPECT_TRUE(stats.agents.at(0).seats.empty());
  EXPECT_TRUE(stats.agents.at(1).seats.empty());
  EXPECT_EQ(stats.agents.at(1).items, 2U);
  forget_unread();
}

TEST_F(ExplainTest, StatusAndStatisticsOfAHugeBusFitAMessage) {
  const Actor c = client();
  std::vector<Actor> workers;
  constexpr std::uint64_t kWorkers = 300;
  for (std::uint64_t i = 0; i < kWorkers; ++i) {
    Actor w = stranger(Role::kWorker, 1000 + i);
    w.hello.name = std::string(100'000, 'n');
    greet(w);
    say(w, Offer{1, {}, {}});
    workers.push_back(w);
  }
  start_call(c, 1, 1'000'000);
  const CallStats stats = explain(c, 1);
  EXPECT_LT(stats.agents.size(), kWorkers);
  EXPECT_TRUE(stats.agents.back().name.ends_with(" more"));
  std::uint64_t slots = 0;
  for (const AgentStats& agent : stats.agents) slots += agent.slots;
  EXPECT_EQ(slots, core.state().calls.begin()->second.shares.size());
  EXPECT_LT(body_bytes(Explanation{1, stats}), kMaxBodyBytes);
  say(c, Status{});
  const StatusReport report = expect<StatusReport>(c);
  EXPECT_LT(body_bytes(report), kMaxBodyBytes);
  EXPECT_EQ(report.counters.back().name, "peers_not_shown");
  EXPECT_EQ(report.counters.back().value + report.peers.size(), kWorkers + 1);
  forget_unread();
}

TEST_F(ExplainTest, SplitsAreCounted) {
  const Actor w1 = worker(1, 1);
  const Actor c = client();
  start_call(c, 1, 1000);
  const Lease lease = expect_leases(w1).at(0);
  const Actor w2 = worker(2, 1);
  const Revoke revoke = expect<Revoke>(w1);
  say(w1, Released{revoke.lease, {{lease.range.end - revoke.count, lease.range.end}}});
  EXPECT_EQ(explain(c, 1).splits, 1U);
  forget_unread();
}

TEST_F(ExplainTest, SeveralReasonsAreSaidTogether) {
  Actor away = worker(1, 1);
  const Actor paused = worker(2, 1);
  const Actor busy = worker(3, 1);
  const Actor c = client();
  start_call(c, 1, 1000);
  forget_unread();
  cut(away);
  say(paused, Load{0, 0, 0, true});
  const std::string waiting = explain(c, 1).waiting;
  EXPECT_THAT(waiting, HasSubstr("1 of 3 workers is away"));
  EXPECT_THAT(waiting, HasSubstr("1 of 3 workers is paused"));
  EXPECT_THAT(waiting, HasSubstr("; all 3 slots are busy"));
  forget_unread();
}

TEST_F(ExplainTest, SaysThatResourcesAreInUse) {
  const Actor w = worker(1, 4, {4000, kAnyMemory, 0, {}});
  const Actor c = client();
  Call call;
  call.serial = 1;
  call.needs.cpus_milli = 2000;
  open(c, call);
  add_items(c, 1, {0, 100}, true);
  EXPECT_THAT(explain(c, 1).waiting, HasSubstr("an item needs 2 cpus: room for 2 at a time, which is busy"));
  forget_unread();
}

TEST_F(ExplainTest, SaysThatHigherPrioritiesComeFirst) {
  const Actor w = worker(1, 1);
  const Actor c = client();
  for (std::uint64_t serial = 1; serial <= 100; ++serial) {
    Call call;
    call.serial = serial;
    call.priority = serial <= 90 ? 5 : 0;
    open(c, call);
    add_items(c, serial, {0, 1}, true);
  }
  EXPECT_THAT(explain(c, 100).waiting, HasSubstr("higher priority"));
  forget_unread();
}

}  // namespace
}  // namespace betterbox::scheduler
