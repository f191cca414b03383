// Durable calls: what is kept of them, and what a successor makes of it.
#include "tests/unit/scheduler/bus_fixture.h"

namespace betterbox::scheduler {
namespace {

using ::testing::HasSubstr;

Config with_journal() {
  Config config = test_config();
  config.journal = true;
  return config;
}

class DurableTest : public BusTest {
 public:
  DurableTest() : BusTest(with_journal()) {}

  CallId open_durable(const Actor& client, std::uint64_t serial, std::uint32_t retries = 2,
                      Duration timeout = {}) {
    Call call;
    call.serial = serial;
    call.method = "f";
    call.retries = retries;
    call.timeout_ns = timeout.ns;
    call.durable = true;
    say(client, call, {Frame("context")});
    EXPECT_EQ(expect<Accepted>(client).items, 0U);
    return {client.hello.peer, serial};
  }

  void add_durable(const Actor& client, std::uint64_t serial, Range range, bool closed) {
    add_items(client, serial, range, closed);
    EXPECT_EQ(expect<Accepted>(client).items, range.end);
  }

  CallId start_durable(const Actor& client, std::uint64_t serial, std::uint64_t items) {
    const CallId id = open_durable(client, serial);
    add_durable(client, serial, {0, items}, true);
    return id;
  }

  const CallState& call(CallId id) const { return core.state().calls.at(id); }
};

TEST_F(DurableTest, ACallIsAcceptedInTheTurnThatKeepsIt) {
  const Actor c = client();
  Call message;
  message.serial = 1;
  message.durable = true;
  Effects effects;
  core.handle(now, MessageArrived{c.connection, {message, {Frame("context")}}}, effects);
  ASSERT_EQ(effects.persist.size(), 2U);
  EXPECT_TRUE(std::holds_alternative<ClientKnown>(effects.persist[0]));
  EXPECT_TRUE(std::holds_alternative<CallOpened>(effects.persist[1]));
  ASSERT_EQ(effects.send.size(), 1U);
  EXPECT_TRUE(std::holds_alternative<Accepted>(std::get<SendMessage>(effects.send[0]).message.body));
}

TEST_F(DurableTest, OtherCallsMakeNoRecords) {
  const Actor w = worker(1, 1);
  const Actor c = client();
  start_call(c, 1, 1);
  finish(w, expect_first_lease(w).lease, {0, 1});
  expect_results(c);
  say(c, Acknowledge{last_result});
  say(c, Forget{1});
  EXPECT_TRUE(journal.empty());
  EXPECT_TRUE(core.snapshot().empty());
  forget_unread();
}

TEST_F(DurableTest, TheSuccessorGoesOnWhereTheItemsWereSettled) {
  Actor w = worker(1, 1);
  Actor c = client();
  const CallId id = start_durable(c, 1, 10);
  const Lease lease = expect_first_lease(w);
  finish(w, lease.lease, {0, 4});
  expect_results(c);
  say(c, Acknowledge{last_result});
  forget_unread();
  restart({&w, &c});
  EXPECT_EQ(call(id).items.settled_items(), 4U);
  EXPECT_EQ(call(id).items.pending_items(), 6U);
  EXPECT_TRUE(call(id).closed);

  c.hello.calls = {1};
  const Welcome welcome = greet(c);
  ASSERT_EQ(welcome.calls.size(), 1U);
  EXPECT_EQ(welcome.calls[0].items, 10U);
  w.hello.leases = {{lease.lease, {{4, 10}}}};
  EXPECT_THAT(greet(w).dropped_leases, ::testing::ElementsAre(lease.lease));
  say(w, Offer{1, {}, {}});
  const Lease again = expect_first_lease(w);
  EXPECT_EQ(again.range.begin, 4U);
  EXPECT_NE(again.lease, lease.lease);
}

TEST_F(DurableTest, OutcomesOfLeasesOfThePredecessorAreStale) {
  Actor w = worker(1, 1);
  Actor c = client();
  start_durable(c, 1, 10);
  const Lease lease = expect_first_lease(w);
  restart({&w, &c});
  greet(w);
  finish(w, lease.lease, {0, 1});
  EXPECT_EQ(counters().stale_outcomes, 1U);
  EXPECT_EQ(counters().items_settled, 0U);
}

TEST_F(DurableTest, ResultsThatWereNotAcknowledgedComeAgainUnderTheirNumbers) {
  Actor w = worker(1, 1);
  Actor c = client();
  start_durable(c, 1, 2);
  const Lease lease = expect_first_lease(w);
  finish(w, lease.lease, {0, 1});
  expect_results(c);
  say(c, Acknowledge{last_result});
  if (has_message(w)) expect<Lease>(w);
  finish(w, core.state().leases.sorted().front()->id, {1, 2});
  expect_results(c);
  EXPECT_EQ(last_result, 2U);
  forget_unread();
  restart({&w, &c});
  c.hello.calls = {1};
  greet(c);
  EXPECT_EQ(expect_results(c).ranges(), (std::vector<Range>{{1, 2}}));
  EXPECT_EQ(last_result, 2U);
  EXPECT_EQ(expect<Settled>(c).stats.total, 2U);
}

TEST_F(DurableTest, NumbersOfResultsAreNeverUsedTwice) {
  Actor w = worker(1, 1);
  Actor c = client();
  start_call(c, 2, 1);
  finish(w, expect_first_lease(w).lease, {0, 1});
  expect_results(c);
  const std::uint64_t before = last_result;
  forget_unread();
  start_durable(c, 1, 1);
  forget_unread();
  restart({&w, &c});
  c.hello.calls = {1};
  greet(c);
  greet(w);
  say(w, Offer{1, {}, {}});
  finish(w, expect_first_lease(w).lease, {0, 1});
  expect_results(c);
  EXPECT_GT(last_result, before);
  say(c, Acknowledge{last_result});
  forget_unread();
}

TEST_F(DurableTest, CallsThatAreNotDurableAreUnknownToTheSuccessor) {
  Actor c = client();
  start_durable(c, 1, 1);
  start_call(c, 2, 1);
  restart({&c});
  c.hello.calls = {1, 2};
  const Welcome welcome = greet(c);
  ASSERT_EQ(welcome.calls.size(), 1U);
  EXPECT_EQ(welcome.calls[0].serial, 1U);
}

TEST_F(DurableTest, ItemsThatComeLaterAreKeptToo) {
  Actor c = client();
  const CallId id = open_durable(c, 1);
  add_durable(c, 1, {0, 3}, false);
  add_durable(c, 1, {3, 5}, false);
  restart({&c});
  EXPECT_EQ(call(id).items.known_end(), 5U);
  EXPECT_FALSE(call(id).closed);
  c.hello.calls = {1};
  EXPECT_EQ(greet(c).calls.at(0).items, 5U);
  add_durable(c, 1, {5, 6}, true);
  restart({&c});
  EXPECT_TRUE(call(id).closed);
}

TEST_F(DurableTest, ForgottenCallsAreGone) {
  Actor c = client();
  start_durable(c, 1, 1);
  say(c, Forget{1});
  restart({&c});
  EXPECT_TRUE(core.state().calls.empty());
}

TEST_F(DurableTest, AClientThatDoesNotComeBackIsForgotten) {
  Actor c = client();
  start_durable(c, 1, 1);
  restart({&c});
  EXPECT_EQ(core.state().peers.size(), 1U);
  pass(kReconnectGrace + milliseconds(1));
  EXPECT_TRUE(core.state().peers.empty());
  restart({});
  EXPECT_TRUE(core.state().peers.empty());
}

TEST_F(DurableTest, CancelledAndTimedOutItemsStaySo) {
  Actor c = client();
  const CallId cancelled = start_durable(c, 1, 5);
  say(c, Cancel{1, {0, 5}});
  forget_unread();
  const CallId timed_out = open_durable(c, 2, 2, seconds(3));
  add_durable(c, 2, {0, 5}, false);
  pass(seconds(4));
  forget_unread();
  restart({&c});
  EXPECT_TRUE(call(cancelled).done);
  EXPECT_EQ(call(timed_out).items.unsettled_items(), 0U);
  EXPECT_TRUE(call(timed_out).timed_out);
}

TEST_F(DurableTest, TheCallsTimeCountsAgain) {
  Actor c = client();
  const CallId id = open_durable(c, 1, 2, seconds(3));
  pass(seconds(2));
  restart({&c});
  EXPECT_EQ(call(id).deadline, now + seconds(3));
}

TEST_F(DurableTest, DeathsOfItemsAreRemembered) {
  Actor w = worker(1, 1);
  Actor c = client();
  const CallId id = open_durable(c, 1, 1);
  add_durable(c, 1, {0, 1}, true);
  lose(w, expect_first_lease(w).lease, 0);
  forget_unread();
  restart({&w, &c});
  EXPECT_EQ(call(id).deaths.at(0), 1U);
  c.hello.calls = {1};
  greet(c);
  greet(w);
  say(w, Offer{1, {}, {}});
  lose(w, expect_first_lease(w).lease, 0);
  expect_results(c);
  EXPECT_EQ(expect_lost().code, LostCode::kPoisoned);
  forget_unread();
}

TEST_F(DurableTest, ASnapshotRebuildsWhatTheJournalDoes) {
  Actor w = worker(1, 1);
  Actor c = client();
  const CallId id = start_durable(c, 1, 100);
  const CallId open = open_durable(c, 2);
  add_durable(c, 2, {0, 7}, false);
  const Lease lease = expect_first_lease(w);
  finish(w, lease.lease, {0, 10});
  finish(w, lease.lease, {10, 20});
  const std::size_t long_journal = journal.size();
  journal = core.snapshot();
  EXPECT_LE(journal.size(), long_journal + 1);
  forget_unread();
  restart({&w, &c});
  EXPECT_EQ(call(id).items.pending_items(), 100U - 20U);
  EXPECT_EQ(call(id).items.known_end(), 100U);
  EXPECT_TRUE(call(id).closed);
  EXPECT_EQ(call(open).items.pending_items(), 7U);
  EXPECT_EQ(core.state().peers.at(c.hello.peer).client.unacked.size(), 2U);
  const auto once = core.snapshot().size();
  journal = core.snapshot();
  restart({});
  EXPECT_EQ(core.snapshot().size(), once);
  EXPECT_EQ(call(id).items.pending_items(), 80U);
}

TEST_F(DurableTest, ASnapshotKnowsOfItemsThatAreSettledAndGone) {
  Actor w = worker(1, 1);
  Actor c = client();
  const CallId open = open_durable(c, 1);
  add_durable(c, 1, {0, 7}, false);
  const Lease lease = expect_first_lease(w);
  finish(w, lease.lease, {0, 7});
  expect_results(c);
  say(c, Acknowledge{last_result});
  journal = core.snapshot();
  forget_unread();
  restart({&w, &c});
  EXPECT_EQ(call(open).items.known_end(), 7U);
  EXPECT_EQ(call(open).items.unsettled_items(), 0U);
}

TEST_F(DurableTest, ASnapshotKnowsCostsButOfSettledItems) {
  Actor w = worker(1, 1);
  Actor c = client();
  const CallId id = open_durable(c, 1);
  const auto add_costed = [&](std::uint64_t first, std::uint64_t count) {
    say(c, Items{1, {{first, count}}, false, std::vector<float>(count, 3.0F)},
        {make_int_range_page(0, 1, count)});
  };
  add_costed(0, 2);
  finish(w, expect_leases(w).at(0).lease, {0, 2});
  add_costed(2, 4);
  const Lease lease = expect_leases(w).at(0);
  add_costed(6, 1);
  say(c, Cancel{1, {6, 7}});
  forget_unread();
  journal = core.snapshot();
  restart({&w, &c});
  EXPECT_EQ(call(id).items.known_end(), 7U);
  EXPECT_THAT(call(id).items.costs_of({2, 6}), ::testing::ElementsAre(3, 3, 3, 3));
  c.hello.calls = {1};
  greet(c);
  add_costed(7, 2);
  say(c, Cancel{1, {0, 9}});
  forget_unread();
  journal = core.snapshot();
  restart({&c});
  greet(c);
  EXPECT_FALSE(call(id).items.has_costs());
  add_costed(9, 1);
  EXPECT_TRUE(call(id).items.has_costs()) << "what is settled sets no rule for the rest";
  forget_unread();
}

class NoJournalTest : public BusTest {};

TEST_F(NoJournalTest, ADurableCallIsRefusedItemByItemWithTheReason) {
  const Actor w = worker(1, 1);
  const Actor c = client();
  Call call;
  call.serial = 1;
  call.durable = true;
  say(c, call, {Frame("context")});
  EXPECT_FALSE(has_message(c)) << "nothing is accepted";
  add_items(c, 1, {0, 5}, true);
  EXPECT_EQ(expect_results(c).size(), 5U);
  EXPECT_EQ(expect_lost().code, LostCode::kUnsatisfiable);
  EXPECT_THAT(std::string(expect_lost().detail), HasSubstr("journal"));
  expect<Settled>(c);
  EXPECT_FALSE(has_message(w));
}

}  // namespace
}  // namespace betterbox::scheduler
