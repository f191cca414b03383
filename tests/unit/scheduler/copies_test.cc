// Copies of what runs longest near the end of a call.
#include "tests/unit/scheduler/bus_fixture.h"

namespace betterbox::scheduler {
namespace {

/// Two workers of one slot; a call of ten items of which the first nine took 10 ms each, and item 9 runs at w1.
class CopiesTest : public BusTest {
 public:
  void start(std::uint32_t permille = 1000, bool idempotent = true, bool fold = false,
             std::uint32_t retries = 2) {
    Call call;
    call.serial = 1;
    call.idempotent = idempotent;
    call.fold = fold;
    call.copies_permille = permille;
    call.retries = retries;
    run_nine(call);
    add_items(c, 1, {9, 10}, true);
    original = expect<Lease>(w1);
    expect_results(c);
    w2 = worker(2, 1);
  }

  /// The first nine items of the call, one after the other.
  void run_nine(const Call& call) {
    w1 = worker(1, 1);
    c = client();
    id = open(c, call);
    for (std::uint64_t i = 0; i < 9; ++i) {
      add_items(c, 1, {i, i + 1}, false);
      const Lease lease = i == 0 ? expect_first_lease(w1) : expect<Lease>(w1);
      now = now + milliseconds(10);
      finish(w1, lease.lease, {i, i + 1}, milliseconds(10));
    }
  }

  /// Time passes until item 9 is worth a copy.
  void start_copy(std::uint32_t permille = 1000, std::uint32_t retries = 2) {
    start(permille, true, false, retries);
    pass(milliseconds(30));
    copied = expect_first_lease(w2);
    ASSERT_EQ(copied.range, (Range{9, 10}));
  }

  const CallState& call() const { return core.state().calls.at(id); }

  Actor w1, w2, c;
  CallId id;
  Lease original, copied;
};

TEST_F(CopiesTest, AnItemThatRunsLongIsRunASecondTimeByAnIdleSlot) {
  start();
  pass(milliseconds(9));
  EXPECT_FALSE(has_message(w2)) << "it has not run longer than others";
  pass(milliseconds(3));
  const Lease lease = expect_first_lease(w2);
  EXPECT_EQ(lease.range, (Range{9, 10}));
  EXPECT_NE(lease.lease, original.lease);
  EXPECT_EQ(call().copies, 1U);
  pass(milliseconds(500));
  EXPECT_EQ(call().copies, 1U) << "at most one copy of an item";
}

TEST_F(CopiesTest, TheFirstOutcomeWinsAndTheOriginalIsStopped) {
  start_copy();
  now = now + milliseconds(5);
  finish(w2, copied.lease, {9, 10}, milliseconds(5));
  EXPECT_EQ(expect_results(c).ranges(), (std::vector<Range>{{9, 10}}));
  EXPECT_EQ(expect<Abandon>(w1).lease, original.lease);
  const CallStats stats = expect<Settled>(c).stats;
  EXPECT_EQ(stats.copies, 1U);
  EXPECT_EQ(stats.copies_won, 1U);
  EXPECT_GT(stats.wasted_ns, 0);
  expect<DropCall>(w1);
  expect<DropCall>(w2);
  finish(w1, original.lease, {9, 10});
  EXPECT_FALSE(has_message(c)) << "the late one is stale";
  EXPECT_EQ(counters().stale_outcomes, 1U);
}

TEST_F(CopiesTest, ACopyThatLosesIsStoppedAndItsTimeCounted) {
  start_copy();
  now = now + milliseconds(5);
  const std::int64_t since = (now - core.state().leases.at(copied.lease).granted).ns;
  finish(w1, original.lease, {9, 10}, milliseconds(40));
  EXPECT_EQ(expect<Abandon>(w2).lease, copied.lease);
  expect_results(c);
  const CallStats stats = expect<Settled>(c).stats;
  EXPECT_EQ(stats.copies_won, 0U);
  EXPECT_EQ(stats.wasted_ns, since);
  expect<DropCall>(w1);
  expect<DropCall>(w2);
}

TEST_F(CopiesTest, AnItemThatNobodyCanHelpKeepsNoHelpFromOthers) {
  Call call;
  call.serial = 1;
  call.idempotent = true;
  call.copies_permille = 1000;
  run_nine(call);
  add_items(c, 1, {9, 10}, false);
  const Lease ninth = expect<Lease>(w1);
  expect_results(c);
  w2 = worker(2, 2);
  add_items(c, 1, {10, 11}, false);
  EXPECT_EQ(expect_first_lease(w2).range, (Range{10, 11}));
  now = now + milliseconds(1);
  finish(w1, ninth.lease, {9, 10}, milliseconds(10));
  expect_results(c);
  add_items(c, 1, {11, 12}, true);
  EXPECT_EQ(expect<Lease>(w1).range, (Range{11, 12}));
  pass(milliseconds(13));  // w2's other slot helps with w2's own item only when that seems to hang
  EXPECT_EQ(expect<Lease>(w2).range, (Range{11, 12}));
}

TEST_F(CopiesTest, OnlyIdempotentFunctionsAreCopied) {
  start(1000, false);
  pass(seconds(10));
  EXPECT_FALSE(has_message(w2));
}

TEST_F(CopiesTest, FoldsAreNotCopied) {
  start(1000, true, true);
  pass(seconds(10));
  EXPECT_FALSE(has_message(w2));
}

TEST_F(CopiesTest, WithoutABudgetThereAreNoCopies) {
  start(0);
  pass(seconds(10));
  EXPECT_FALSE(has_message(w2));
}

TEST_F(CopiesTest, CopiesStayWithinTheirPartOfTheCallsWork) {
  start(100);  // 9 ms of 90 ms: less than one item
  pass(seconds(10));
  EXPECT_FALSE(has_message(w2));
}

TEST_F(CopiesTest, WhenTheOriginalsProcessDiesTheCopyGoesOnAlone) {
  start_copy(1000, 0);
  lose(w1, original.lease, 9);
  EXPECT_FALSE(has_message(c)) << "not poisoned: the other one runs";
  EXPECT_EQ(call().items.pending_items(), 0U) << "and it does not wait again";
  finish(w2, copied.lease, {9, 10});
  expect_results(c);
  forget_unread();
}

TEST_F(CopiesTest, WhenBothDieTheItemIsPoisoned) {
  start_copy(1000, 1);
  lose(w1, original.lease, 9);
  lose(w2, copied.lease, 9);
  expect_results(c);
  EXPECT_EQ(expect_lost().code, LostCode::kPoisoned);
  forget_unread();
}

TEST_F(CopiesTest, WhenAWorkerIsLostTheOtherTwinGoesOn) {
  start_copy();
  kill(w1);
  EXPECT_EQ(call().items.pending_items(), 0U);
  EXPECT_TRUE(call().twins.empty());
  finish(w2, copied.lease, {9, 10});
  EXPECT_EQ(expect_results(c).size(), 1U);
  removed_sockets.clear();
  forget_unread();
}

TEST_F(CopiesTest, AReleasedOriginalLeavesTheItemToTheCopy) {
  start_copy();
  say(w1, Released{original.lease, {{9, 10}}});
  EXPECT_EQ(call().items.pending_items(), 0U);
  EXPECT_FALSE(has_message(w1));
  finish(w2, copied.lease, {9, 10});
  EXPECT_EQ(expect_results(c).size(), 1U);
  forget_unread();
}

TEST_F(CopiesTest, CancellingStopsBothTwins) {
  start_copy();
  say(c, Cancel{1, {9, 10}});
  EXPECT_EQ(expect<Abandon>(w1).lease, original.lease);
  EXPECT_EQ(expect<Abandon>(w2).lease, copied.lease);
  EXPECT_EQ(expect_results(c).size(), 1U);
  forget_unread();
}

TEST_F(CopiesTest, AReturningWorkerThatHasLostTheItemLeavesItToTheCopy) {
  start_copy();
  cut(w1);
  greet(w1);
  EXPECT_EQ(call().items.pending_items(), 0U);
  EXPECT_TRUE(call().twins.empty());
  forget_unread();
}

TEST_F(CopiesTest, WhileOthersWaitThereAreNoCopies) {
  start();
  const CallId other = start_call(c, 2, 100);
  expect_leases(w2);
  pass(seconds(1));
  EXPECT_EQ(call().copies, 0U);
  EXPECT_GT(core.state().calls.at(other).outstanding, 0U);
  forget_unread();
}

TEST_F(CopiesTest, TheSameWorkerHelpsLaterIfThereIsNoOther) {
  const Actor w = worker(1, 2);
  c = client();
  Call message;
  message.serial = 1;
  message.idempotent = true;
  message.copies_permille = 1000;
  id = open(c, message);
  for (std::uint64_t i = 0; i < 3; ++i) {
    add_items(c, 1, {i, i + 1}, false);
    const Lease lease = i == 0 ? expect_first_lease(w) : expect<Lease>(w);
    if (i == 2) break;
    now = now + milliseconds(10);
    finish(w, lease.lease, {i, i + 1}, milliseconds(10));
  }
  pass(milliseconds(15));
  EXPECT_EQ(call().copies, 0U);
  pass(milliseconds(20));
  EXPECT_EQ(call().copies, 1U);
  EXPECT_EQ(expect<Lease>(w).range, (Range{2, 3}));
  forget_unread();
}

TEST_F(CopiesTest, AnItemThatCostsMoreMayRunLonger) {
  w1 = worker(1, 1);
  c = client();
  Call message;
  message.serial = 1;
  message.idempotent = true;
  message.copies_permille = 1000;
  id = open(c, message);
  for (std::uint64_t i = 0; i < 10; ++i) {
    say(c, Items{1, {{i, 1}}, false, {i == 9 ? 91.0F : 1.0F}}, {page_of_items(1)});
    const Lease lease = i == 0 ? expect_first_lease(w1) : expect<Lease>(w1);
    if (i == 9) break;
    now = now + milliseconds(10);
    finish(w1, lease.lease, {i, i + 1}, milliseconds(10));
  }
  w2 = worker(2, 1);
  pass(milliseconds(600));
  EXPECT_EQ(call().copies, 0U) << "910 ms are expected of it";
  pass(milliseconds(400));
  EXPECT_EQ(call().copies, 1U);
  forget_unread();
}

TEST_F(CopiesTest, NothingIsWatchedWithoutSuchCalls) {
  const Actor w = worker(1, 2);
  const Actor client_ = client(77);
  start_call(client_, 1, 1);
  EXPECT_TRUE(core.state().pools.at(kFunctionPool).copying.empty());
  EXPECT_EQ(core.next_deadline(), TimePoint::never());
  forget_unread();
}

}  // namespace
}  // namespace betterbox::scheduler
