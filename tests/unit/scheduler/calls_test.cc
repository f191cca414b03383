// Calls as their clients see them: items, results, cancel, timeout, window, return after a cut.
#include "tests/unit/scheduler/bus_fixture.h"

namespace betterbox::scheduler {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class CallsTest : public BusTest {
 public:
  /// A lease over one page of outcomes that is this large.
  void finish_with_bytes(const Actor& agent, LeaseId lease, Range range, std::size_t bytes) {
    Outcomes outcomes;
    outcomes.ack = ++acks_;
    outcomes.lease = lease;
    outcomes.spans = {{range.begin, range.size(), 1'000'000}};
    outcomes.seats = {{SeatId{0}, range.size(), 1'000'000, 1e12, 1'000'000}};
    say(agent, outcomes, {page_of_bytes(bytes)});
  }
  std::uint64_t acks_ = 0;
};

TEST_F(CallsTest, AnEmptyCallIsSettledAtOnce) {
  const Actor c = client();
  open_call(c, 1);
  say(c, Items{1, {}, true});
  const Settled settled = expect<Settled>(c);
  EXPECT_EQ(settled.stats.total, 0U);
  EXPECT_TRUE(settled.stats.closed);
}

TEST_F(CallsTest, ACallRunsFromItemsToSettled) {
  const Actor w = worker(1, 2);
  const Actor c = client();
  const CallId id = start_call(c, 1, 2);
  Frames context;
  EXPECT_EQ(expect<Context>(w, &context).call, id);
  EXPECT_EQ(context.at(0).view(), "context");
  Frames pages;
  const Lease lease = expect<Lease>(w, &pages);
  EXPECT_EQ(lease.range, (Range{0, 2}));
  ASSERT_EQ(lease.spans.size(), 1U);
  EXPECT_EQ(lease.spans[0].count, 2U);
  EXPECT_EQ(pages.size(), 1U);
  now = now + milliseconds(3);
  finish(w, lease.lease, {0, 2});
  EXPECT_EQ(expect_results(c).ranges(), (std::vector<Range>{{0, 2}}));
  const CallStats stats = expect<Settled>(c).stats;
  EXPECT_EQ(stats.settled, 2U);
  EXPECT_EQ(stats.makespan_ns, 3'000'000);
  EXPECT_EQ(stats.busy_ns, 2'000'000);
  EXPECT_EQ(stats.longest_ns, 1'000'000);
  ASSERT_EQ(stats.agents.size(), 1U);
  EXPECT_EQ(stats.agents[0].name, "peer-1");
  ASSERT_EQ(stats.agents[0].seats.size(), 1U);
  EXPECT_EQ(stats.agents[0].seats[0].items, 2U);
  EXPECT_EQ(expect<DropCall>(w).call, id);
}

TEST_F(CallsTest, SingleSubmissionsGrowOneCallWithoutKeepingWhatIsSettled) {
  const Actor w = worker(1, 2);
  const Actor c = client();
  const CallId id = open_call(c, 1);
  for (std::uint64_t i = 0; i < 2000; ++i) {
    say(c, Items{1, {{i, 1}}, false}, {page_of_items(1)});
    const Lease lease = i == 0 ? expect_first_lease(w) : expect<Lease>(w);
    finish(w, lease.lease, {i, i + 1});
    EXPECT_EQ(expect_results(c).size(), 1U);
    say(c, Acknowledge{i + 1});
  }
  const CallState& call = core.state().calls.at(id);
  EXPECT_EQ(call.items.held_pages(), 0U);
  EXPECT_TRUE(core.state().leases.empty());
  EXPECT_TRUE(core.state().peers.at(c.hello.peer).client.unacked.empty());
}

TEST_F(CallsTest, SingleItemsGoToTheLeastLoadedWorker) {
  const Actor w1 = worker(1, 2);
  const Actor w2 = worker(2, 2);
  const Actor c = client();
  open_call(c, 1);
  for (std::uint64_t i = 0; i < 4; ++i) say(c, Items{1, {{i, 1}}, false}, {page_of_items(1)});
  EXPECT_EQ(expect_leases(w1).size(), 2U);
  EXPECT_EQ(expect_leases(w2).size(), 2U);
}

TEST_F(CallsTest, OneRangeOfAMillionItemsIsOneEntryNotAMillion) {
  const Actor w = worker(1, 2);
  const Actor c = client();
  const CallId id = start_call(c, 1, 1'000'000);
  EXPECT_EQ(expect_first_lease(w).range, (Range{0, 1'000'000}));
  EXPECT_EQ(core.state().leases.size(), 1U);
  EXPECT_EQ(core.state().calls.at(id).items.held_pages(), 1U);
}

TEST_F(CallsTest, GapsBetweenItemsAreAViolation) {
  const Actor c = client();
  open_call(c, 1);
  say(c, Items{1, {{5, 1}}, false}, {page_of_items(1)});
  EXPECT_THAT(expect<Refused>(c).text, HasSubstr("do not follow"));
}

TEST_F(CallsTest, ItemsOfAClosedOrUnknownCallAreAViolation) {
  const Actor c1 = client(10);
  open_call(c1, 1);
  say(c1, Items{1, {}, true});
  expect<Settled>(c1);
  say(c1, Items{1, {}, true});
  EXPECT_FALSE(has_message(c1)) << "closing twice is harmless: a message sent again";
  say(c1, Items{1, {{0, 1}}, false}, {page_of_items(1)});
  EXPECT_THAT(expect<Refused>(c1).text, HasSubstr("closed"));
  const Actor c2 = client(11);
  say(c2, Items{3, {}, true});
  EXPECT_THAT(expect<Refused>(c2).text, HasSubstr("not open"));
}

TEST_F(CallsTest, ASerialInUseIsAViolation) {
  const Actor c = client();
  open_call(c, 1);
  open_call(c, 1);
  EXPECT_THAT(expect<Refused>(c).text, HasSubstr("open already"));
}

TEST_F(CallsTest, AClientThatIgnoresItsItemWindowIsRefused) {
  const Actor c = client();
  open_call(c, 1);
  for (std::uint64_t i = 0; i < 5; ++i) say(c, Items{1, {{i, 1}}, false}, {page_of_bytes(kItemWindowBytes)});
  EXPECT_FALSE(has_message(c));
  say(c, Items{1, {{5, 1}}, false}, {page_of_bytes(1)});
  EXPECT_THAT(expect<Refused>(c).text, HasSubstr("window"));
}

TEST_F(CallsTest, ACallSentAgainRunsOnlyWhatIsNotDelivered) {
  const Actor w = worker(1, 4);
  const Actor c = client();
  Call call;
  call.serial = 1;
  call.settled = {{0, 90}};
  say(c, call, {Frame("context")});
  say(c, Items{1, {{90, 3}}, true}, {page_of_items(3)});
  const Lease lease = expect_first_lease(w);
  EXPECT_EQ(lease.range, (Range{90, 93}));
  finish(w, lease.lease, {90, 93});
  EXPECT_EQ(expect_results(c).size(), 3U);
  EXPECT_EQ(expect<Settled>(c).stats.total, 93U);
  expect<DropCall>(w);
}

TEST_F(CallsTest, ClientsShareTheWorkersInTurns) {
  const Actor c1 = client(10);
  const Actor c2 = client(11);
  for (std::uint64_t serial = 1; serial <= 3; ++serial) start_call(c1, serial, 1);
  start_call(c2, 1, 1);
  const Actor w = worker(1, 1);
  std::vector<std::uint64_t> clients;
  for (const Lease& lease : expect_leases(w)) clients.push_back(lease.call.client.value);
  EXPECT_THAT(clients, ElementsAre(10, 11, 10, 10));
}

TEST_F(CallsTest, CallsOfHigherPriorityAreGrantedFirst) {
  const Actor c1 = client(10);
  const Actor c2 = client(11);
  start_call(c1, 1, 1);
  for (std::uint64_t serial = 1; serial <= 3; ++serial) {
    Call call;
    call.serial = serial;
    call.priority = serial == 2 ? 7 : 1;
    open(c2, call);
    add_items(c2, serial, {0, 1}, true);
  }
  const Actor w = worker(1, 1);
  std::vector<std::pair<std::uint64_t, std::uint64_t>> order;
  for (const Lease& lease : expect_leases(w)) order.emplace_back(lease.call.client.value, lease.call.serial);
  EXPECT_THAT(order, ElementsAre(std::pair(11, 2), std::pair(11, 1), std::pair(11, 3), std::pair(10, 1)));
}

TEST_F(CallsTest, AWorkerThatWantsNoMoreOfAHighPriorityIsOfferedTheNext) {
  const Actor w = worker(1, 1);
  const Actor c = client();
  Call call;
  call.serial = 1;
  call.priority = 5;
  open(c, call);
  add_items(c, 1, {0, 1000}, true);
  start_call(c, 2, 1);
  std::set<std::uint64_t> serials;
  for (const Lease& lease : expect_leases(w)) serials.insert(lease.call.serial);
  EXPECT_THAT(serials, ElementsAre(1, 2));
}

TEST_F(CallsTest, CancelledItemsAreSettledAndTakenFromWorkers) {
  const Actor w = worker(1, 2);
  const Actor c = client();
  start_call(c, 1, 100);
  const Lease lease = expect_first_lease(w);
  ASSERT_EQ(lease.range, (Range{0, 100}));
  say(c, Cancel{1, {40, 60}});
  const Abandon abandon = expect<Abandon>(w);
  EXPECT_EQ(abandon.lease, lease.lease);
  EXPECT_EQ(abandon.range, (Range{40, 60}));
  EXPECT_EQ(expect_results(c).ranges(), (std::vector<Range>{{40, 60}}));
  EXPECT_EQ(expect_lost().code, LostCode::kCancelled);
  EXPECT_EQ(counters().items_lost, 20U);
}

TEST_F(CallsTest, CancellingTheRestSettlesTheCall) {
  const Actor w = worker(1, 1);
  const Actor c = client();
  start_call(c, 1, 3);
  const Lease lease = expect_first_lease(w);
  say(c, Cancel{1, {0, ~std::uint64_t{0}}});
  EXPECT_EQ(expect_results(c).size(), 3U);
  expect<Settled>(c);
  EXPECT_EQ(expect<Abandon>(w).lease, lease.lease);
  expect<DropCall>(w);
}

TEST_F(CallsTest, CancellingABillionItemsIsOnePage) {
  const Actor c = client();
  start_call(c, 1, std::uint64_t{1} << 40);
  say(c, Cancel{1, {0, std::uint64_t{1} << 40}});
  const Results results = expect<Results>(c);
  ASSERT_EQ(results.spans.size(), 1U);
  EXPECT_EQ(results.spans[0].count, std::uint64_t{1} << 40);
  expect<Settled>(c);
}

TEST_F(CallsTest, OutcomesBesideACancelledItemAreStillDelivered) {
  const Actor w = worker(1, 4);
  const Actor c = client();
  start_call(c, 1, 4);
  const Lease lease = expect_first_lease(w);
  say(c, Cancel{1, {1, 2}});
  expect<Abandon>(w);
  expect_results(c);
  finish(w, lease.lease, {0, 4});
  EXPECT_EQ(expect_results(c).ranges(), (std::vector<Range>{{0, 1}, {2, 4}}));
  EXPECT_EQ(counters().stale_outcomes, 1U);
  expect<Settled>(c);
  expect<DropCall>(w);
}

TEST_F(CallsTest, AForgottenCallIsGoneEverywhere) {
  const Actor w = worker(1, 1);
  const Actor c = client();
  start_call(c, 1, 100);
  expect_leases(w);
  say(c, Forget{1});
  expect<DropCall>(w);
  EXPECT_TRUE(core.state().calls.empty());
  EXPECT_TRUE(core.state().leases.empty());
  say(c, Forget{1});
}

TEST_F(CallsTest, ATimeoutSettlesWhatIsLeft) {
  const Actor w = worker(1, 1);
  const Actor c = client();
  Call call;
  call.serial = 1;
  call.timeout_ns = seconds(10).ns;
  say(c, call, {Frame("context")});
  add_items(c, 1, {0, 100}, false);
  const Lease lease = expect_first_lease(w);
  finish(w, lease.lease, {0, 1});
  expect_results(c);
  pass(seconds(11));
  EXPECT_EQ(expect_results(c).ranges(), (std::vector<Range>{{1, 100}}));
  EXPECT_EQ(expect_lost().code, LostCode::kTimeout);
  expect<DropCall>(w);
  add_items(c, 1, {100, 110}, true);
  EXPECT_EQ(expect_results(c).size(), 10U);
  expect<Settled>(c);
}

TEST_F(CallsTest, ACallSettledInTimeHasNoTimeout) {
  const Actor c = client();
  Call call;
  call.serial = 1;
  call.timeout_ns = seconds(10).ns;
  say(c, call, {Frame("context")});
  say(c, Items{1, {}, true});
  expect<Settled>(c);
  EXPECT_EQ(core.next_deadline(), TimePoint::never());
}

TEST_F(CallsTest, AClientThatDoesNotReadIsGivenNoMore) {
  const Actor w = worker(1, 1);
  const Actor c = client();
  start_call(c, 1, 100);
  const Lease first = expect_first_lease(w);
  finish_with_bytes(w, first.lease, {0, 1}, kResultWindowBytes);
  EXPECT_EQ(expect<Revoke>(w).lease, first.lease);
  say(w, Released{first.lease, {{10, first.range.end}}});
  EXPECT_FALSE(has_message(w)) << "nothing is granted while the window is full";
  say(c, Explain{1});
  expect<Results>(c);
  EXPECT_THAT(expect<Explanation>(c).stats.waiting, HasSubstr("not being read"));
  say(c, Acknowledge{1});
  finish_with_bytes(w, first.lease, {1, 10}, 10);
  EXPECT_EQ(expect<Lease>(w).range.begin, 10U);
  expect<Results>(c);
}

TEST_F(CallsTest, AnAcknowledgementOfTheFutureIsAViolation) {
  const Actor c = client();
  say(c, Acknowledge{1});
  EXPECT_THAT(expect<Refused>(c).text, HasSubstr("never sent"));
}

TEST_F(CallsTest, AClientThatReturnsGetsWhatItHasNotAcknowledged) {
  const Actor w = worker(1, 1);
  Actor c = client();
  start_call(c, 1, 3);
  const std::vector<Lease> leases = expect_leases(w);
  ASSERT_EQ(leases.size(), 1U);
  finish(w, leases[0].lease, {0, 1});
  expect_results(c);
  say(c, Acknowledge{1});
  cut(c);
  finish(w, leases[0].lease, {1, 3});
  expect<DropCall>(w);
  c.hello.calls = {1, 7};
  const Welcome welcome = greet(c);
  ASSERT_EQ(welcome.calls.size(), 1U) << "call 7 is unknown: the client sends it again";
  EXPECT_EQ(welcome.calls[0].serial, 1U);
  EXPECT_EQ(welcome.calls[0].items, 3U);
  EXPECT_EQ(expect_results(c).ranges(), (std::vector<Range>{{1, 3}}));
  EXPECT_EQ(expect<Settled>(c).serial, 1U);
}

TEST_F(CallsTest, CallsThatAReturningClientDoesNotNameAreDropped) {
  Actor c = client();
  start_call(c, 1, 3);
  cut(c);
  greet(c);
  EXPECT_TRUE(core.state().calls.empty());
}

TEST_F(CallsTest, CallsOfAClientThatIsGoneAreDropped) {
  const Actor w = worker(1, 1);
  Actor c = client();
  start_call(c, 1, 3);
  expect_leases(w);
  cut(c);
  pass(kReconnectGrace + milliseconds(1));
  expect<DropCall>(w);
  EXPECT_TRUE(core.state().calls.empty());
}

TEST_F(CallsTest, ExplainsThatOtherCallsKeepTheSlotsBusy) {
  const Actor w = worker(1, 2);
  const Actor c = client();
  start_call(c, 1, 100);
  start_call(c, 2, 4);
  say(c, Explain{2});
  EXPECT_THAT(expect<Explanation>(c).stats.waiting, HasSubstr("all 2 slots are busy with other calls"));
  expect_leases(w);
}

TEST_F(CallsTest, ExplainsThatTheWorkerIsAway) {
  Actor w = worker(1, 2);
  const Actor c = client();
  start_call(c, 1, 100);
  forget_unread();
  cut(w);
  say(c, Explain{1});
  EXPECT_THAT(expect<Explanation>(c).stats.waiting, HasSubstr("'peer-1' is lost"));
}

TEST_F(CallsTest, AnUnknownCallIsExplainedWithNothing) {
  const Actor c = client();
  say(c, Explain{9});
  EXPECT_EQ(expect<Explanation>(c).stats.total, 0U);
}

}  // namespace
}  // namespace betterbox::scheduler
