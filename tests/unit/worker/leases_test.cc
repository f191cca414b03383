// Leases, revocation, abandonment, sessions and outcomes of the worker core.
#include <algorithm>

#include "tests/unit/worker/worker_fixture.h"

namespace betterbox {
namespace {

using ::testing::Test;

class Leases : public WorkerFixture {};

TEST_F(Leases, DeliverEveryItemOnce) {
  make(2);
  begin(1, call_of(10), {0, 100});
  run_all(2);
  EXPECT_EQ(landed(1), (std::vector<Range>{{0, 100}}));
  EXPECT_TRUE(core_->idle());
}

TEST_F(Leases, SendTheFirstOutcomeAtOnceAndGatherTheNext) {
  make(1);
  begin(1, call_of(10), {0, 10});
  run(0);
  turn();
  EXPECT_EQ(take<Outcomes>().size(), 1u);
  run(0);
  run(0);
  turn();
  EXPECT_TRUE(take<Outcomes>().empty());
  EXPECT_LE(core_->next_deadline(), now_ + kOutcomeInterval);
  pass(kOutcomeInterval);
  const auto sent = take<Outcomes>();
  ASSERT_EQ(sent.size(), 1u);
  ASSERT_EQ(sent[0].spans.size(), 1u) << "neighbours are joined";
  EXPECT_EQ(sent[0].spans[0].count, 2u);
  EXPECT_EQ(sent[0].spans[0].busy_ns, 2 * item_time_.ns);
  EXPECT_EQ(sent[0].ack, 2u);
}

TEST_F(Leases, SendTheLastOutcomeAtOnce) {
  make(1);
  begin(1, call_of(10), {5, 7});
  run(0);
  turn();
  run(0);
  turn();
  read_outcomes();
  EXPECT_EQ(landed(1), (std::vector<Range>{{5, 7}}));
}

class ValuesOfCalls : public WorkerFixture {
 protected:
  void begin_with_value(std::uint64_t id, CallId call, Range range) {
    Context context;
    context.call = call;
    context.values = {{{"betterbox-0-a-1", 1, 1U << 20}, "store"}};
    feed(ContextArrived{context, Frame("context")});
    lease(id, call, range);
    turn();
  }
};

TEST_F(ValuesOfCalls, AreThereBeforeAnItemBegins) {
  make(2);
  begin_with_value(1, call_of(10), {0, 10});
  ASSERT_EQ(values_asked_.size(), 1u);
  EXPECT_EQ(values_asked_[0].values.size(), 1u);
  EXPECT_EQ(installs_, 0);
  begin(2, call_of(11), {0, 4});
  run_all(2);
  EXPECT_EQ(landed(2), (std::vector<Range>{{0, 4}})) << "other calls go on meanwhile";
  EXPECT_EQ(landed(1), std::vector<Range>());
  feed(ValuesArrived{call_of(10)});
  turn();
  run_all(2);
  EXPECT_EQ(landed(1), (std::vector<Range>{{0, 10}}));
}

TEST_F(ValuesOfCalls, DoNotKeepTheirItemsFromBeingTakenBack) {
  make(2);
  begin_with_value(1, call_of(10), {0, 10});
  feed(RevokeAsked{{1}, 6});
  const auto released = take<Released>();
  ASSERT_EQ(released.size(), 1u);
  EXPECT_EQ(released[0].ranges, (std::vector<Range>{{4, 10}}));
  feed(ItemsAbandoned{{1}, {0, 2}});
  feed(ValuesArrived{call_of(10)});
  turn();
  run_all(2);
  EXPECT_EQ(landed(1), (std::vector<Range>{{2, 4}}));
}

TEST_F(ValuesOfCalls, ThatComeAfterTheirCallAreNobodys) {
  make(1);
  begin_with_value(1, call_of(10), {0, 10});
  feed(CallDropped{call_of(10)});
  feed(ValuesArrived{call_of(10)});
  turn();
  EXPECT_TRUE(core_->idle());
}

class Reports : public WorkerFixture {
 protected:
  void begin(Range range, std::uint64_t low_water, Duration interval, std::uint64_t id = 1) {
    context(call_of(10));
    Lease granted{{id}, call_of(10), range, 1, {{range.begin, range.size()}}, {}, low_water, interval.ns};
    feed(LeaseGranted{std::move(granted), {make_int_range_page(0, 1, range.size())}});
    turn();
  }
  /// Runs one item. Result: how many messages left at the end of the turn.
  std::size_t messages_of(std::uint32_t id) {
    seat(id).running ? finish(id) : void(run(id));
    turn();
    const std::size_t count =
        static_cast<std::size_t>(std::count_if(messages_.begin(), messages_.end(), [](const Message& m) {
          return std::holds_alternative<Outcomes>(m.body);
        }));
    read_outcomes();
    return count;
  }
};

TEST_F(Reports, LeaveNoMoreOftenThanTheirLeaseSays) {
  make(1);
  begin({0, 100}, 0, milliseconds(40));
  EXPECT_EQ(messages_of(0), 1u);
  now_ = now_ + kOutcomeInterval;
  EXPECT_EQ(messages_of(0), 0u);
  EXPECT_EQ(core_->next_deadline(), now_ + milliseconds(30));
  pass(milliseconds(30));
  read_outcomes();
  EXPECT_EQ(landed(1), (std::vector<Range>{{0, 2}}));
  run_all(1);
}

TEST_F(Reports, OfAllLeasesOfACallShareOneInterval) {
  make(1);
  begin({0, 10}, 0, milliseconds(40), 1);
  EXPECT_EQ(messages_of(0), 1u);
  begin({10, 20}, 0, milliseconds(20), 2);
  EXPECT_EQ(messages_of(0), 0u);
  EXPECT_EQ(core_->next_deadline(), now_ + milliseconds(20));
  run_all(1);
}

TEST_F(Reports, TellAtOnceWhenFewItemsAreLeftButOnlyAtTheCrossing) {
  make(1);
  begin({0, 10}, 5, seconds(1));
  EXPECT_EQ(messages_of(0), 1u);
  for (int left = 9; left > 6; --left) EXPECT_EQ(messages_of(0), 0u) << left;
  EXPECT_EQ(messages_of(0), 1u) << "five are left";
  for (int left = 5; left > 1; --left) EXPECT_EQ(messages_of(0), 0u) << left;
  EXPECT_EQ(messages_of(0), 1u) << "the lease is over";
}

TEST_F(Reports, TellSoonOfASeatThatFindsNothingMoreToDo) {
  make(3);
  begin({0, 3}, 2, seconds(1));
  for (std::uint32_t id = 0; id < 3; ++id) start(id);
  EXPECT_EQ(messages_of(0), 1u) << "the first, and the crossing";
  finish(1);
  turn();
  EXPECT_TRUE(take<Outcomes>().empty());
  EXPECT_FALSE(start(1));
  turn();
  EXPECT_TRUE(take<Outcomes>().empty()) << "reports are rare here";
  EXPECT_EQ(core_->next_deadline(), now_ + Duration{seconds(1).ns / kSoonDivisor});
  pass(Duration{seconds(1).ns / kSoonDivisor});
  read_outcomes();
  EXPECT_EQ(landed_[{1}].size(), 2u);
  finish(2);
  run_all(3);
}

TEST_F(Reports, MakeLooksRarerWhenNoneIsAwaitedAndSoonerTowardsTheCrossing) {
  make(1);
  begin({0, 100'000}, 10, milliseconds(10));
  EXPECT_EQ(core_->drain_interval(), kDrainInterval);
  make(1);
  seats_.clear();
  begin({0, 100'000}, 10, seconds(1));
  EXPECT_EQ(core_->drain_interval(), kLongestDrainInterval);
  item_time_ = microseconds(1);
  messages_of(0);
  EXPECT_EQ(core_->drain_interval(), microseconds(99'989));
  feed(RevokeAsked{{1}, 99'000});
  take<Released>();
  EXPECT_LT(core_->drain_interval(), milliseconds(1));
  EXPECT_GE(core_->drain_interval(), kShortestDrainInterval);
  unread_allowed_ = true;
}

TEST_F(Leases, GiveAllBackWhenTheContextIsUnknown) {
  make(1);
  lease(1, call_of(10), {0, 5});
  const auto released = take<Released>();
  ASSERT_EQ(released.size(), 1u);
  EXPECT_EQ(released[0].ranges, (std::vector<Range>{{0, 5}}));
}

class HeldContexts : public WorkerFixture {
 protected:
  void context(std::uint64_t call, std::uint64_t held, std::string bytes,
               std::vector<std::uint64_t> dropped = {}) {
    feed(ContextArrived{
        {call_of(10, call), kFunctionPool, "f", false, "", 0, {}, {}, held, std::move(dropped)},
        bytes.empty() ? Frame() : Frame(std::move(bytes))});
  }
  /// What the slot runs that gets the call's one item; nothing if the item is given back.
  std::string run_call(std::uint64_t call) {
    given_.clear();
    lease(call, call_of(10, call), {0, 1});
    turn();
    if (given_.empty()) {
      EXPECT_EQ(take<Released>().size(), 1u);
      return "";
    }
    run_all(1);
    feed(AcknowledgeArrived{last_ack_});
    feed(CallDropped{call_of(10, call)});
    return given_;
  }
};

TEST_F(HeldContexts, ServeLaterCallsThatAreSentTheirNumberAlone) {
  make(1);
  context(10, 1, "code");
  EXPECT_EQ(run_call(10), "code");
  context(11, 1, "");
  EXPECT_EQ(run_call(11), "code");
  context(12, 0, "only this once");
  EXPECT_EQ(run_call(12), "only this once");
  context(13, 2, "other code");
  context(13, 2, "comes twice");
  EXPECT_EQ(run_call(13), "comes twice");
  context(14, 2, "");
  EXPECT_EQ(run_call(14), "other code");
}

TEST_F(HeldContexts, GoWhenTheSchedulerSaysSoAndWithTheSession) {
  make(1);
  context(10, 1, "one");
  context(11, 2, "two", {1});
  context(12, 1, "");
  EXPECT_EQ(run_call(12), "") << "dropped";
  context(10, 1, "one");
  context(13, 1, "");
  EXPECT_EQ(run_call(13), "") << "a Context that came again is not kept";
  context(14, 2, "");
  EXPECT_EQ(run_call(14), "two");
  feed(SessionEnded{});
  feed(SessionBegan{kScheduler, {}});
  context(15, 2, "");
  EXPECT_EQ(run_call(15), "") << "of another session";
  EXPECT_EQ(run_call(10), "one") << "open calls keep theirs";
  unread_allowed_ = true;
}

TEST_F(Leases, GiveAllBackWhenThePagesDoNotCoverTheRange) {
  make(1);
  context(call_of(10));
  feed(LeaseGranted{{{1}, call_of(10), {0, 5}, 1, {{0, 4}}}, {make_int_range_page(0, 1, 4)}});
  EXPECT_EQ(take<Released>().size(), 1u);
  feed(LeaseGranted{{{2}, call_of(10), {0, 5}, 1, {{0, 5}}}, {Frame(std::string("no page"))}});
  EXPECT_EQ(take<Released>().size(), 1u);
}

TEST_F(Leases, GiveBackTheUndividedTailFirst) {
  make(2);
  begin(1, call_of(10), {0, 100});
  feed(RevokeAsked{{1}, 10});
  const auto released = take<Released>();
  ASSERT_EQ(released.size(), 1u);
  EXPECT_EQ(released[0].ranges, (std::vector<Range>{{90, 100}}));
  EXPECT_EQ(cuts_, 0);
}

TEST_F(Leases, GiveBackWaitingPartsAndThenTailsButNeverARunningItem) {
  make(2);
  begin(1, call_of(10), {0, 16});
  start(0);
  start(1);
  feed(RevokeAsked{{1}, 1000});
  const auto released = take<Released>();
  ASSERT_EQ(released.size(), 1u);
  std::uint64_t items = 0;
  for (const Range& r : released[0].ranges) items += r.size();
  EXPECT_EQ(items, 14u);
  finish(0);
  finish(1);
  run_all(2);
  EXPECT_EQ(landed_[{1}].size(), 2u);
  EXPECT_TRUE(core_->idle());
}

TEST_F(Leases, AnswerARevokeOfAnUnknownLeaseWithNothing) {
  make(1);
  feed(RevokeAsked{{9}, 3});
  const auto released = take<Released>();
  ASSERT_EQ(released.size(), 1u);
  EXPECT_TRUE(released[0].ranges.empty());
}

TEST_F(Leases, KillTheSlotThatRunsAnAbandonedItem) {
  make(1);
  begin(1, call_of(10), {0, 8});
  ASSERT_EQ(start(0), 0u);
  feed(ItemsAbandoned{{1}, {0, 1}});
  EXPECT_TRUE(seat(0).killed);
  die(0, 9);
  turn();
  run_all(1);
  EXPECT_EQ(landed(1), (std::vector<Range>{{1, 8}}));
  EXPECT_TRUE(lost_[{1}].empty());
}

TEST_F(Leases, LeaveTheSlotAloneWhenOnlyUntouchedItemsAreAbandoned) {
  make(1);
  begin(1, call_of(10), {0, 8});
  ASSERT_EQ(start(0), 0u);
  feed(ItemsAbandoned{{1}, {4, 8}});
  EXPECT_FALSE(seat(0).killed);
  finish(0);
  run_all(1);
  EXPECT_EQ(landed(1), (std::vector<Range>{{0, 4}}));
}

TEST_F(Leases, NeverKillASlotInsideAScript) {
  make(0, true);
  feed(SeatOpened{{8090}, Frame()});
  ready(0);
  take<Offer>();
  begin(1, call_of(10), {0, 3}, {8090});
  ASSERT_EQ(start(0), 0u);
  feed(CallDropped{call_of(10)});
  EXPECT_FALSE(seat(0).killed);
  finish(0);
  run_all(1);
  EXPECT_TRUE(landed(1).empty());
}

TEST_F(Leases, DropACallWithItsContext) {
  make(1);
  begin(1, call_of(10), {0, 4});
  start(0);
  feed(CallDropped{call_of(10)});
  EXPECT_TRUE(seat(0).killed);
  EXPECT_FALSE(seat(0).contexts.contains(call_of(10)));
  die(0, 9);
  turn();
  EXPECT_TRUE(core_->idle());
}

TEST_F(Leases, BlameTheRunningItemForADeath) {
  make(1);
  begin(1, call_of(10), {0, 8});
  run(0);
  ASSERT_EQ(start(0), 1u);
  die(0);
  turn();
  run_all(1);
  ASSERT_EQ(lost_[{1}].size(), 1u);
  EXPECT_EQ(lost_[{1}][0].index, 1u);
  EXPECT_EQ(lost_[{1}][0].death.signal, 11);
  EXPECT_EQ(landed(1), (std::vector<Range>{{0, 1}, {2, 8}}));
}

TEST_F(Leases, BlameNobodyForADeathBetweenItems) {
  make(1);
  begin(1, call_of(10), {0, 8});
  run(0);
  die(0);
  turn();
  run_all(1);
  EXPECT_TRUE(lost_[{1}].empty());
  EXPECT_EQ(landed(1), (std::vector<Range>{{0, 8}}));
}

TEST_F(Leases, BlameTheFirstItemWhenAReadySlotDiesOverItsCode) {
  make(1);
  begin(1, call_of(10), {0, 8});
  ready(0);
  die(0);
  turn();
  run_all(1);
  ASSERT_EQ(lost_[{1}].size(), 1u);
  EXPECT_EQ(lost_[{1}][0].index, 0u);
}

TEST_F(Leases, WaitBeforeASlotIsForkedAgainThatNeverGotReady) {
  make(1);
  begin(1, call_of(10), {0, 2});
  die(0);
  turn();
  EXPECT_EQ(spawns_, 1);
  const TimePoint retry = core_->next_deadline();
  EXPECT_GT(retry, now_);
  now_ = retry;
  turn();
  EXPECT_EQ(spawns_, 2);
  run_all(1);
  EXPECT_TRUE(lost_[{1}].empty());
}

TEST_F(Leases, CutAFoldThatHoldsAnAbandonedItem) {
  make(1);
  context(call_of(10), kFunctionPool, true);
  lease(1, call_of(10), {0, 8});
  turn();
  EXPECT_TRUE(seat(0).stations[0].fold);
  start(0);
  seat(0).running.reset();
  start(0);  // both claimed, no outcome yet
  feed(ItemsAbandoned{{1}, {0, 1}});
  EXPECT_TRUE(seat(0).killed);
  die(0, 9);
  turn();
  run_all(1);
  EXPECT_EQ(landed(1), (std::vector<Range>{{1, 8}}));
}

TEST_F(Leases, IgnoreWhatAnEarlierLifeSays) {
  make(1);
  begin(1, call_of(10), {0, 4});
  start(0);
  const std::uint32_t life = seat(0).life, generation = seat(0).stations[0].generation;
  die(0);
  turn();
  feed(SubLeaseDone{{0}, life, 0, generation});
  const std::string none(1, '\0');
  feed(SeatProgressed{
      {0}, life, 0, generation, 0, 1, 1, 1, 1, make_single_page(std::as_bytes(std::span(none)))});
  now_ = core_->next_deadline();
  turn();
  run_all(1);
  EXPECT_EQ(landed_[{1}].size() + lost_[{1}].size(), 4u);
}

// --- sessions ---

class Sessions : public WorkerFixture {};

TEST_F(Sessions, KeepOutcomesUntilTheyAreAcknowledged) {
  make(1);
  begin(1, call_of(10), {0, 2});
  run_all(1);
  EXPECT_EQ(last_ack_, 2u);
  ASSERT_EQ(core_->held_leases().size(), 1u);
  EXPECT_EQ(core_->held_leases()[0].undelivered, (std::vector<Range>{{0, 2}}));
  feed(AcknowledgeArrived{1});
  EXPECT_EQ(core_->held_leases()[0].undelivered, (std::vector<Range>{{1, 2}}));
  feed(AcknowledgeArrived{2});
  EXPECT_TRUE(core_->held_leases().empty());
}

TEST_F(Sessions, WorkOnWithoutASchedulerAndDeliverAfterwards) {
  make(1);
  begin(1, call_of(10), {0, 6});
  feed(SessionEnded{});
  for (int i = 0; i < 6; ++i) run(0), pass(milliseconds(10));
  EXPECT_TRUE(messages_.empty());
  EXPECT_EQ(core_->held_leases()[0].undelivered, (std::vector<Range>{{0, 6}}));
  feed(SessionBegan{kScheduler, {}});
  EXPECT_EQ(take<Offer>().size(), 1u);
  read_outcomes();
  EXPECT_EQ(landed(1), (std::vector<Range>{{0, 6}}));
}

TEST_F(Sessions, DropLeasesThatTheSchedulerNoLongerWants) {
  make(1);
  begin(1, call_of(10), {0, 6});
  feed(SessionEnded{});
  feed(SessionBegan{kScheduler, {{1}}});
  take<Offer>();
  turn();
  EXPECT_EQ(start(0), std::nullopt);
  turn();
  EXPECT_TRUE(core_->held_leases().empty());
}

TEST_F(Sessions, ForgetEverythingOfAnotherScheduler) {
  make(1);
  begin(1, call_of(10), {0, 6});
  run(0);
  turn();
  feed(SessionEnded{});
  take_messages();
  feed(SessionBegan{{2}, {}});
  EXPECT_EQ(take<Offer>().size(), 1u);
  EXPECT_TRUE(core_->held_leases().empty());
  EXPECT_EQ(start(0), std::nullopt);
  begin(1, call_of(10), {0, 2});
  run_all(1);
  EXPECT_EQ(last_ack_, 2u);
}

TEST_F(Sessions, SurviveACallThatComesBackWhileItsItemStillRuns) {
  make(0, true);
  feed(SeatOpened{{8090}, Frame()});
  ready(0);
  begin(1, call_of(10), {0, 2}, {8090});
  start(0);
  feed(SessionEnded{});
  feed(SessionBegan{{2}, {}});
  begin(2, call_of(10), {0, 2}, {8090});
  finish(0);
  take<Offer>();
  run_all(1);
  EXPECT_EQ(landed(2), (std::vector<Range>{{0, 2}}));
  EXPECT_TRUE(landed(1).empty());
}

TEST_F(Sessions, StopEmptyingRingsAboveTheWindow) {
  make(1);
  begin(1, call_of(10), {0, 200});
  const std::string large(1 << 20, '\0');
  for (int i = 0; i < 70; ++i) {
    const auto item = start(0);
    ASSERT_TRUE(item);
    FakeSeat& s = seat(0);
    const std::uint32_t station = s.queue.front(), offset = *s.running;
    finish(0, false);
    feed(SeatProgressed{{0},
                        s.life,
                        station,
                        s.stations[station].generation,
                        offset,
                        1,
                        1,
                        1,
                        1,
                        make_single_page(std::as_bytes(std::span(large)))});
    turn();
  }
  pass(kOutcomeInterval);
  EXPECT_TRUE(core_->draining_paused());
  read_outcomes();
  feed(AcknowledgeArrived{last_ack_});
  EXPECT_FALSE(core_->draining_paused());
}

}  // namespace
}  // namespace betterbox
