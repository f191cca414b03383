// Leases: sizes, outcomes, stealing, deaths, and agents that go and return.
#include "tests/unit/scheduler/bus_fixture.h"

namespace betterbox::scheduler {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

class LeasesTest : public BusTest {
 public:
  std::uint64_t steals_of(const Actor& agent, CallId call) {
    return core.state().calls.at(call).shares.at(agent.hello.peer).steals;
  }
};

TEST_F(LeasesTest, EachSlotIsProbedBeforeLeasesAreSizedByTheMeasuredRates) {
  const Actor w2 = worker(2, 2);
  const Actor w1 = worker(1, 1);
  const Actor c = client();
  start_call(c, 1, 1000);
  const Lease probe = expect_first_lease(w1);
  EXPECT_EQ(probe.range, (Range{0, 1}));
  EXPECT_EQ(expect_first_lease(w2).range, (Range{1, 3}));
  finish(w1, probe.lease, {0, 1}, milliseconds(10));
  EXPECT_EQ(expect<Lease>(w1).range, (Range{3, 169})) << "half of a third of 997";
  expect_results(c);
}

TEST_F(LeasesTest, TheOnlyWorkerGetsEverything) {
  const Actor w = worker(1, 2);
  const Actor c = client();
  start_call(c, 1, 1000);
  EXPECT_EQ(expect_first_lease(w).range, (Range{0, 1000}));
}

TEST_F(LeasesTest, AWorkerGetsMoreBeforeItRunsDry) {
  const Actor w2 = worker(2, 1);
  const Actor w1 = worker(1, 1);
  const Actor c = client();
  start_call(c, 1, 100'000);
  const Lease probe = expect_first_lease(w1);
  expect_first_lease(w2);
  finish(w1, probe.lease, probe.range, microseconds(10));
  const Lease second = expect<Lease>(w1);
  const std::uint64_t low = second.low_water;
  EXPECT_EQ(low, 16U) << "a few times what was seen to be short";
  const std::uint64_t end = second.range.end;
  finish(w1, second.lease, {second.range.begin, end - 101}, microseconds(10));
  EXPECT_FALSE(has_message(w1));
  finish(w1, second.lease, {end - 101, end - 100}, microseconds(10));
  EXPECT_EQ(expect<Lease>(w1).low_water, 100U) << "what keeps it busy for a round trip of 1 ms";
  forget_unread();
}

TEST_F(LeasesTest, ManyWorkersReportMoreRarely) {
  const Actor c = client();
  for (std::uint64_t i = 101; i < 300; ++i) worker(i, 1);
  const Actor first = worker(1, 1);
  start_call(c, 1, 1);
  EXPECT_EQ(expect_first_lease(first).report_interval_ns, milliseconds(20).ns);
}

TEST_F(LeasesTest, ALeaseCarriesOnlyAsManyBytesAsAWorkerMustHold) {
  const Actor w = worker(1, 1);
  const Actor c = client();
  open_call(c, 1);
  Items items{1, {}, true};
  Frames pages;
  for (std::uint64_t i = 0; i < 8; ++i) {
    items.spans.push_back({i, 1});
    pages.push_back(page_of_bytes(kMaxLeaseBytes - 1));
  }
  say(c, items, pages);
  EXPECT_EQ(expect_first_lease(w).range, (Range{0, 1}));
}

TEST_F(LeasesTest, TheContextIsSentOncePerCallAndAgent) {
  const Actor w = worker(1, 1);
  const Actor c = client();
  open_call(c, 1);
  add_items(c, 1, {0, 3}, false);
  const Lease first = expect_first_lease(w);
  finish(w, first.lease, first.range);
  add_items(c, 1, {3, 4}, false);
  expect<Lease>(w);
  expect_results(c);
}

class Contexts : public LeasesTest {
 protected:
  /// Opens a call of one item with a context of `bytes` and ends it. Result: the Context that the worker got.
  Context run(const Actor& w, const Actor& c, std::uint64_t content, std::size_t bytes = kContentMinBytes) {
    Call call;
    call.serial = ++serial_;
    call.method = "f";
    call.content.high = content;
    say(c, call, {Frame(std::string(bytes, 'x'))});
    add_items(c, serial_, {0, 1}, true);
    Frames frames;
    const Context context = expect<Context>(w, &frames);
    frames_ = frames.size();
    const Lease lease = expect<Lease>(w);
    finish(w, lease.lease, lease.range);
    expect<DropCall>(w);
    expect_results(c);
    expect<Settled>(c);
    return context;
  }
  std::uint64_t serial_ = 0;
  std::size_t frames_ = 0;
};

TEST_F(Contexts, AreNotSentAgainToAnAgentThatHoldsAnEqualOneOfThisClient) {
  const Actor w = worker(1, 1);
  const Actor c = client();
  EXPECT_EQ(run(w, c, 7).held, 1U);
  EXPECT_EQ(frames_, 1U);
  EXPECT_EQ(run(w, c, 7).held, 1U);
  EXPECT_EQ(frames_, 0U);
  EXPECT_EQ(run(w, c, 8).held, 2U) << "another one";
  EXPECT_EQ(frames_, 1U);
  EXPECT_EQ(run(w, c, 0).held, 0U) << "without a name";
  EXPECT_EQ(run(w, c, 7, kContentMinBytes - 1).held, 0U) << "small";
  EXPECT_EQ(run(w, c, 7, kContentMinBytes + 1).held, 3U) << "its length says that it is another";
  EXPECT_EQ(run(w, client(20), 7).held, 4U) << "another client's";
  EXPECT_EQ(frames_, 1U);
}

TEST_F(Contexts, ThatWereUsedLongestAgoAreDroppedForNewOnes) {
  const Actor w = worker(1, 1);
  const Actor c = client();
  constexpr std::size_t kThatFit = kMaxHeldContextBytes / kContentMaxBytes;
  for (std::uint64_t i = 1; i <= kThatFit; ++i) EXPECT_TRUE(run(w, c, i, kContentMaxBytes).dropped.empty());
  run(w, c, 1, kContentMaxBytes);
  EXPECT_EQ(run(w, c, 100, kContentMaxBytes).dropped, std::vector<std::uint64_t>{2});
  EXPECT_EQ(run(w, c, 1, kContentMaxBytes).held, 1U);
  EXPECT_EQ(frames_, 0U);
}

TEST_F(Contexts, AreSentAgainInTheNextSession) {
  Actor w = worker(1, 1);
  const Actor c = client();
  EXPECT_EQ(run(w, c, 7).held, 1U);
  cut(w);
  pass(seconds(1));
  greet(w);
  forget_unread();
  EXPECT_EQ(run(w, c, 7).held, 2U);
  EXPECT_EQ(frames_, 1U);
}

TEST_F(LeasesTest, AWorkerHoldsABoundedNumberOfLeases) {
  const Actor w = worker(1, 1);
  const Actor c = client();
  for (std::uint64_t serial = 1; serial <= 100; ++serial) start_call(c, serial, 1);
  const std::vector<Lease> leases = expect_leases(w);
  EXPECT_EQ(leases.size(), kMinLeasesPerWorker);
  finish(w, leases[0].lease, leases[0].range);
  expect<DropCall>(w);
  EXPECT_EQ(expect_leases(w).size(), 1U);
  expect_results(c);
  expect<Settled>(c);
}

TEST_F(LeasesTest, OutcomesAreAcknowledgedSoon) {
  const Actor w = worker(1, 2);
  const Actor c = client();
  start_call(c, 1, 4);
  const Lease lease = expect_first_lease(w);
  finish(w, lease.lease, {0, 1});
  finish(w, lease.lease, {1, 2});
  EXPECT_EQ(acknowledged(w), 0U);
  pass(milliseconds(25));
  EXPECT_EQ(acknowledged(w), 2U);
  forget_unread();
}

TEST_F(LeasesTest, ManyBytesOfOutcomesAreAcknowledgedAtOnce) {
  const Actor w = worker(1, 1);
  const Actor c = client();
  start_call(c, 1, 1);
  Outcomes outcomes;
  outcomes.ack = 1;
  outcomes.lease = expect_first_lease(w).lease;
  outcomes.spans = {{0, 1, 1}};
  say(w, outcomes, {page_of_bytes(kAckEveryBytes)});
  EXPECT_EQ(acknowledged(w), 1U);
  forget_unread();
}

TEST_F(LeasesTest, OutcomesOutsideTheLeaseAreStale) {
  const Actor w = worker(1, 1);
  const Actor c = client();
  start_call(c, 1, 50);
  const Lease lease = expect_first_lease(w);
  finish(w, lease.lease, {60, 70});
  finish(w, LeaseId{12345}, {0, 1});
  EXPECT_EQ(counters().stale_outcomes, 2U);
  EXPECT_FALSE(has_message(c));
}

TEST_F(LeasesTest, AnItemIsDeliveredOnce) {
  const Actor w = worker(1, 2);
  const Actor c = client();
  start_call(c, 1, 4);
  const Lease lease = expect_first_lease(w);
  finish(w, lease.lease, {0, 1});
  finish(w, lease.lease, {0, 1});
  EXPECT_EQ(expect_results(c).size(), 1U);
  EXPECT_EQ(counters().stale_outcomes, 1U);
  forget_unread();
}

TEST_F(LeasesTest, AnImpossibleSpanIsAViolation) {
  const Actor w = worker(1, 1);
  const Actor c = client();
  start_call(c, 1, 1);
  Outcomes outcomes;
  outcomes.ack = 1;
  outcomes.lease = expect_first_lease(w).lease;
  outcomes.spans = {{~std::uint64_t{0}, ~std::uint64_t{0}, 1}};
  say(w, outcomes, {page_of_items(1)});
  EXPECT_THAT(expect<Refused>(w).text, HasSubstr("impossible"));
}

TEST_F(LeasesTest, AnItemThatRunsAloneIsNotStolen) {
  const Actor w2 = worker(2, 1);
  const Actor w1 = worker(1, 1);
  const Actor c = client();
  start_call(c, 1, 2);
  const Lease l1 = expect_first_lease(w1);
  const Lease l2 = expect_first_lease(w2);
  ASSERT_EQ(l1.range, (Range{0, 1}));
  finish(w2, l2.lease, {1, 2}, seconds(1));
  EXPECT_FALSE(has_message(w1)) << "its last item runs: there is nothing to take";
  forget_unread();
}

/// Worker 1 holds one lease of all 50 items of a call.
class StealingTest : public LeasesTest {
 public:
  StealingTest() : w1(worker(1, 1)), c(client()) {
    id = start_call(c, 1, 50);
    lease = expect_first_lease(w1);
    EXPECT_EQ(lease.range, (Range{0, 50}));
  }
  Actor w1, c;
  CallId id;
  Lease lease;
};

TEST_F(StealingTest, ANewWorkerGetsHalf) {
  const Actor w2 = worker(2, 1);
  const Revoke revoke = expect<Revoke>(w1);
  EXPECT_EQ(revoke.lease, lease.lease);
  EXPECT_EQ(revoke.count, 25U);
  say(w1, Released{lease.lease, {{25, 50}}});
  const Lease stolen = expect_first_lease(w2);
  EXPECT_EQ(stolen.range.begin, 25U);
  EXPECT_EQ(steals_of(w2, id), 1U);
  EXPECT_EQ(counters().leases_cut, 1U);
  forget_unread();
}

TEST_F(StealingTest, OneRevokeAtATime) {
  worker(2, 1);
  worker(3, 1);
  expect<Revoke>(w1);
  EXPECT_FALSE(has_message(w1));
}

TEST_F(StealingTest, NothingToGiveIsNotAskedForAgainUntilTheLeaseChanges) {
  worker(2, 1);
  expect<Revoke>(w1);
  say(w1, Released{lease.lease, {}});
  EXPECT_FALSE(has_message(w1));
  finish(w1, lease.lease, {0, 1}, milliseconds(10));
  EXPECT_EQ(expect<Revoke>(w1).count, 24U);
  expect_results(c);
}

TEST_F(StealingTest, OutcomesMayOvertakeARevoke) {
  const Actor w2 = worker(2, 1);
  expect<Revoke>(w1);
  finish(w1, lease.lease, {0, 50});
  expect_results(c);
  expect<Settled>(c);
  expect<DropCall>(w1);
  say(w1, Released{lease.lease, {}});
  EXPECT_FALSE(has_message(w2));
}

TEST_F(StealingTest, AThiefThatDiesLeavesTheLeaseToOthers) {
  Actor w2 = worker(2, 1);
  expect<Revoke>(w1);
  kill(w2);
  removed_sockets.clear();
  say(w1, Released{lease.lease, {{25, 50}}});
  const std::vector<Lease> again = expect_leases(w1);
  EXPECT_THAT(again, IsEmpty()) << "it has enough";
  EXPECT_EQ(core.state().calls.at(id).items.pending_items(), 25U);
}

TEST_F(StealingTest, ARevokeThatWasLostWithTheConnectionIsAskedAgain) {
  worker(2, 1);
  expect<Revoke>(w1);
  cut(w1);
  w1.hello.leases = {{lease.lease, {lease.range}}};
  greet(w1);
  EXPECT_EQ(expect<Revoke>(w1).count, 25U);
}

TEST_F(StealingTest, ShortWorkIsNotWorthARevoke) {
  finish(w1, lease.lease, {0, 40}, microseconds(10));
  expect_results(c);
  worker(2, 1);
  EXPECT_FALSE(has_message(w1));
}

TEST_F(LeasesTest, AnItemWhoseProcessDiesIsTriedAgain) {
  const Actor w = worker(1, 1);
  const Actor c = client();
  start_call(c, 1, 1);
  const Lease first = expect_first_lease(w);
  EXPECT_EQ(first.attempt, 0U);
  lose(w, first.lease, 0);
  const Lease second = expect<Lease>(w);
  EXPECT_EQ(second.attempt, 1U);
  finish(w, second.lease, {0, 1});
  expect_results(c);
  const CallStats stats = expect<Settled>(c).stats;
  EXPECT_EQ(stats.agents.at(0).retries, 1U);
  expect<DropCall>(w);
}

TEST_F(LeasesTest, AnItemThatKillsTooManyProcessesIsPoisoned) {
  const Actor w = worker(1, 1);
  const Actor c = client();
  start_call(c, 1, 1, 0, 2);
  lose(w, expect_first_lease(w).lease, 0);
  lose(w, expect<Lease>(w).lease, 0);
  lose(w, expect<Lease>(w).lease, 0);
  EXPECT_EQ(expect_results(c).size(), 1U);
  const LostItemView lost = expect_lost();
  EXPECT_EQ(lost.code, LostCode::kPoisoned);
  EXPECT_EQ(lost.index, 0U);
  EXPECT_EQ(lost.signal, 11);
  EXPECT_EQ(lost.pid, 77U);
  EXPECT_EQ(std::string(lost.stderr_tail), "Segmentation fault");
  expect<Settled>(c);
  expect<DropCall>(w);
}

TEST_F(LeasesTest, TheNeighboursOfAPoisonedItemGoOn) {
  const Actor w = worker(1, 1);
  const Actor c = client();
  start_call(c, 1, 10, 0, 0);
  const Lease lease = expect_first_lease(w);
  lose(w, lease.lease, 0);
  finish(w, lease.lease, {1, lease.range.end});
  EXPECT_EQ(expect_results(c).ranges(), (std::vector<Range>{{0, lease.range.end}}));
  forget_unread();
}

TEST_F(LeasesTest, ItemsOfALostWorkerRunElsewhere) {
  Actor w1 = worker(1, 1);
  const Actor c = client();
  const CallId id = start_call(c, 1, 10);
  const Lease lease = expect_first_lease(w1);
  const Actor w2 = worker(2, 4);
  forget_unread();
  kill(w1);
  removed_sockets.clear();
  const CallState& call = core.state().calls.at(id);
  EXPECT_EQ(call.deaths.size(), 1U) << "one process was lost: the first item of the gap is the suspect";
  EXPECT_TRUE(call.deaths.contains(lease.range.begin));
  EXPECT_TRUE(has_message(w2) || call.items.pending_items() > 0);
  forget_unread();
}

TEST_F(LeasesTest, EachGapOfALostLeaseHasItsSuspect) {
  Actor w = worker(1, 2);
  const Actor c = client();
  const CallId id = start_call(c, 1, 100);
  const Lease lease = expect_first_lease(w);
  finish(w, lease.lease, {0, 10}, seconds(1));
  finish(w, lease.lease, {50, 60}, seconds(1));
  kill(w);
  removed_sockets.clear();
  const auto& deaths = core.state().calls.at(id).deaths;
  ASSERT_EQ(deaths.size(), 2U);
  EXPECT_TRUE(deaths.contains(10) && deaths.contains(60));
  forget_unread();
}

TEST_F(LeasesTest, LosingAWorkerTooOftenPoisonsTheSuspect) {
  const Actor c = client();
  start_call(c, 1, 1, 0, 0);
  Actor w = worker(1, 1);
  expect_first_lease(w);
  kill(w);
  removed_sockets.clear();
  EXPECT_EQ(expect_results(c).size(), 1U);
  const LostItemView lost = expect_lost();
  EXPECT_EQ(lost.code, LostCode::kPoisoned);
  EXPECT_THAT(std::string(lost.detail), HasSubstr("peer-1"));
  expect<Settled>(c);
}

TEST_F(LeasesTest, AWorkerThatLeavesOnPurposeKillsNothing) {
  const Actor c = client();
  const CallId id = start_call(c, 1, 1, 0, 0);
  const Actor w = worker(1, 1);
  expect_first_lease(w);
  say(w, Bye{});
  EXPECT_EQ(core.state().calls.at(id).items.pending_items(), 1U);
  EXPECT_TRUE(core.state().calls.at(id).deaths.empty());
}

TEST_F(LeasesTest, AWorkerThatReturnsKeepsItsLease) {
  Actor w = worker(1, 2);
  const Actor c = client();
  open_call(c, 1);
  add_items(c, 1, {0, 4}, false);
  const std::vector<Lease> leases = expect_leases(w);
  ASSERT_EQ(leases.size(), 1U);
  cut(w);
  pass(seconds(2));
  w.hello.leases = {{leases[0].lease, {leases[0].range}}};
  const Welcome welcome = greet(w);
  EXPECT_THAT(welcome.dropped_leases, IsEmpty());
  EXPECT_FALSE(has_message(w));
  finish(w, leases[0].lease, leases[0].range, seconds(1));
  EXPECT_EQ(expect_results(c).size(), leases[0].range.size());
  add_items(c, 1, {4, 5}, false);
  EXPECT_EQ(expect_leases(w).size(), 1U) << "and the context is not sent again";
}

TEST_F(LeasesTest, WhatAReturningWorkerDoesNotHoldIsGrantedAgain) {
  Actor w = worker(1, 2);
  const Actor c = client();
  start_call(c, 1, 2);
  expect_leases(w);
  cut(w);
  greet(w);
  const Lease again = expect_first_lease(w);
  EXPECT_EQ(again.range, (Range{0, 2}));
  EXPECT_EQ(again.attempt, 0U) << "it never arrived, nobody died";
}

TEST_F(LeasesTest, TheTailThatAReturningWorkerGaveAwayIsGrantedAgain) {
  Actor w = worker(1, 4);
  const Actor c = client();
  start_call(c, 1, 4);
  const Lease lease = expect_leases(w).at(0);
  ASSERT_EQ(lease.range, (Range{0, 4}));
  cut(w);
  w.hello.leases = {{lease.lease, {{0, 2}}}};  // its Released was lost with the connection
  greet(w);
  EXPECT_EQ(expect<Lease>(w).range, (Range{2, 4}));
}

TEST_F(LeasesTest, LeasesThatAreNotWantedAnyMoreAreDropped) {
  Actor w = worker(1, 2);
  const Actor c = client();
  start_call(c, 1, 2);
  const Lease lease = expect_leases(w).at(0);
  cut(w);
  say(c, Forget{1});
  w.hello.leases = {{lease.lease, {{0, 2}}}, {LeaseId{99}, {{0, 5}}}};
  EXPECT_THAT(greet(w).dropped_leases, ::testing::ElementsAre(lease.lease, LeaseId{99}));
}

TEST_F(LeasesTest, ItemsCancelledWhileTheWorkerWasAwayAreAbandoned) {
  Actor w = worker(1, 4);
  const Actor c = client();
  start_call(c, 1, 4);
  const Lease lease = expect_leases(w).at(0);
  ASSERT_EQ(lease.range, (Range{0, 4}));
  cut(w);
  say(c, Cancel{1, {1, 2}});
  expect_results(c);
  w.hello.leases = {{lease.lease, {{0, 4}}}};
  greet(w);
  EXPECT_EQ(expect<Abandon>(w).range, (Range{1, 2}));
}

TEST_F(LeasesTest, OutcomesSentAgainAfterAReturnCountOnce) {
  Actor w = worker(1, 2);
  const Actor c = client();
  start_call(c, 1, 4);
  const Lease lease = expect_leases(w).at(0);
  finish(w, lease.lease, {0, 1});
  expect_results(c);
  cut(w);
  w.hello.leases = {{lease.lease, {lease.range}}};
  greet(w);
  EXPECT_EQ(acknowledged(w), 1U);
  Outcomes again;
  again.ack = 1;
  again.lease = lease.lease;
  again.spans = {{0, 1, 1}};
  forget_unread();
  say(w, again, {page_of_items(1)});
  EXPECT_FALSE(has_message(c));
  EXPECT_EQ(counters().stale_outcomes, 0U);
  forget_unread();
}

TEST_F(LeasesTest, AFoldOfSeveralItemsIsOnePage) {
  const Actor w = worker(1, 4);
  const Actor c = client();
  Call call;
  call.serial = 1;
  call.fold = true;
  say(c, call, {Frame("context")});
  say(c, Items{1, {{0, 4}}, true}, {page_of_items(4)});
  const Lease lease = expect_first_lease(w);
  Outcomes outcomes;
  outcomes.ack = 1;
  outcomes.lease = lease.lease;
  outcomes.spans = {{0, 4, 4}};
  say(w, outcomes, {make_single_page(std::as_bytes(std::span("\x01", 1)), PageKind::kFold)});
  const Results results = expect<Results>(c);
  ASSERT_EQ(results.spans.size(), 1U);
  EXPECT_EQ(results.spans[0].count, 4U);
  expect<Settled>(c);
  expect<DropCall>(w);
}

TEST_F(LeasesTest, AFoldThatHoldsACancelledItemIsMadeAgain) {
  const Actor w = worker(1, 4);
  const Actor c = client();
  Call call;
  call.serial = 1;
  call.fold = true;
  say(c, call, {Frame("context")});
  say(c, Items{1, {{0, 4}}, true}, {page_of_items(4)});
  const Lease lease = expect_first_lease(w);
  say(c, Cancel{1, {1, 2}});
  expect<Abandon>(w);
  expect_results(c);
  Outcomes outcomes;
  outcomes.ack = 1;
  outcomes.lease = lease.lease;
  outcomes.spans = {{0, 4, 4}};
  say(w, outcomes, {make_single_page(std::as_bytes(std::span("\x01", 1)), PageKind::kFold)});
  EXPECT_FALSE(has_message(c));
  std::vector<Range> again;
  for (const Lease& l : expect_leases(w)) again.push_back(l.range);
  EXPECT_EQ(again, (std::vector<Range>{{0, 1}, {2, 4}}));
}

TEST_F(LeasesTest, AReleaseWithoutARevokeIsPutBack) {
  Actor w = worker(1, 1);
  const Actor c = client();
  const CallId id = start_call(c, 1, 1);
  const Lease lease = expect_first_lease(w);
  say(w, Released{lease.lease, {{0, 1}}});
  EXPECT_EQ(expect<Lease>(w).range, (Range{0, 1}));
  EXPECT_EQ(steals_of(w, id), 0U);
}

}  // namespace
}  // namespace betterbox::scheduler
