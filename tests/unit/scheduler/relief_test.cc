// Relief: items of several calls that wait together at one worker move to another that is idle.
#include "tests/unit/scheduler/bus_fixture.h"

namespace betterbox::scheduler {
namespace {

using ::testing::SizeIs;

/// Worker 1, alone at first, holds the only items of two calls; it can run one at a time.
class ReliefTest : public BusTest {
 public:
  ReliefTest() : w1(worker(1, 1)), c(client()) {
    first = start_call(c, 1, 1);
    second = start_call(c, 2, 1);
    leases = expect_leases(w1);
    EXPECT_THAT(leases, SizeIs(2));
  }
  Actor w1, c;
  CallId first, second;
  std::vector<Lease> leases;
};

TEST_F(ReliefTest, AnIdleWorkerGetsWhatWaitsBehindAnotherCall) {
  pass(seconds(1));
  const Actor w2 = worker(2, 1);
  pass(milliseconds(5));
  const Revoke revoke = expect<Revoke>(w1);
  EXPECT_EQ(revoke.lease, leases[1].lease) << "the last one waits";
  EXPECT_EQ(revoke.count, 1U);
  pass(seconds(1));
  EXPECT_FALSE(has_message(w1)) << "one Revoke at a time";
  say(w1, Released{revoke.lease, {{0, 1}}});
  EXPECT_EQ(expect_first_lease(w2).call, second);
  pass(seconds(1));
}

class ReliefOfPolicyTest : public BusTest, public ::testing::WithParamInterface<std::string> {
 public:
  CallId start(const Actor& c, std::uint64_t serial, std::uint64_t items) {
    Call call;
    call.serial = serial;
    call.method = "f";
    call.policy = GetParam();
    say(c, call, {Frame("context")});
    add_items(c, serial, {0, items}, true);
    return {c.hello.peer, serial};
  }
};

TEST_P(ReliefOfPolicyTest, AnItemMovesWhateverThePolicyOfItsCall) {
  const Actor w1 = worker(1, 1), c = client();
  start(c, 1, 1);
  const CallId second = start(c, 2, 1);
  const std::vector<Lease> leases = expect_leases(w1);
  ASSERT_THAT(leases, SizeIs(2));
  pass(seconds(1));
  const Actor w2 = worker(2, 1);
  pass(milliseconds(5));
  const Revoke revoke = expect<Revoke>(w1);
  EXPECT_EQ(revoke.lease, leases[1].lease);
  say(w1, Released{revoke.lease, {{0, 1}}});
  EXPECT_EQ(expect_first_lease(w2).call, second);
  pass(seconds(1));
}

INSTANTIATE_TEST_SUITE_P(All, ReliefOfPolicyTest, ::testing::ValuesIn([] {
                           std::vector<std::string> names;
                           for (const Policy& policy : policies()) names.emplace_back(policy.name);
                           return names;
                         }()),
                         [](const auto& instance) { return instance.param; });

TEST_F(ReliefTest, WhatAStaticCallWasGivenStaysWhereItIs) {
  Call call;
  call.serial = 3;
  call.method = "f";
  call.policy = "static";
  say(c, call, {Frame("context")});
  add_items(c, 3, {0, 10}, true);
  ASSERT_THAT(expect_leases(w1), SizeIs(1));
  worker(2, 1);
  pass(milliseconds(5));
  EXPECT_EQ(expect<Revoke>(w1).lease, leases[1].lease) << "not the ten items";
  forget_unread();
}

TEST_F(ReliefTest, WhatRunsAlreadyStaysAndTheNextIsTried) {
  worker(2, 1);
  pass(milliseconds(5));
  say(w1, Released{expect<Revoke>(w1).lease, {}});
  pass(milliseconds(5));
  EXPECT_EQ(expect<Revoke>(w1).lease, leases[0].lease);
  say(w1, Released{leases[0].lease, {}});
  pass(seconds(10));
  EXPECT_FALSE(has_message(w1)) << "both are known to run";
}

TEST_F(ReliefTest, WhatWasGrantedJustNowMayBeginYet) {
  worker(2, 1);
  EXPECT_FALSE(has_message(w1));
  finish(w1, leases[0].lease, {0, 1});
  finish(w1, leases[1].lease, {0, 1});
  forget_unread();
  pass(seconds(1));
  EXPECT_EQ(counters().revokes_sent, 0U);
  forget_unread();
}

TEST_F(ReliefTest, NothingMovesWhileNoWorkerIsIdle) {
  pass(seconds(10));
  EXPECT_FALSE(has_message(w1));
  EXPECT_EQ(core.next_deadline(), TimePoint::never()) << "nobody looks in vain";
}

TEST_F(ReliefTest, AWorkerThatLeavesFirstIsForgotten) {
  Actor w2 = worker(2, 1);
  kill(w2);
  pass(seconds(10));
  EXPECT_FALSE(has_message(w1));
  forget_unread();
  removed_sockets.clear();
}

TEST_F(ReliefTest, ManyCrowdedWorkersAreLookedAtInTurns) {
  constexpr std::uint64_t kWorkers = 40;
  std::vector<Actor> workers{w1};
  for (std::uint64_t id = 1; id < kWorkers; ++id) workers.push_back(worker(100 + id, 1));
  for (std::uint64_t serial = 3; serial <= 4 * kWorkers; ++serial) start_call(c, serial, 1);
  forget_unread();
  pass(seconds(1));
  for (std::uint64_t id = 1; id <= kWorkers; ++id) worker(200 + id, 1);
  pass(seconds(1));
  std::size_t asked = 0;
  for (const Actor& each : workers) asked += has_message(each) ? 1 : 0;
  EXPECT_EQ(asked, kWorkers);
  forget_unread();
}

}  // namespace
}  // namespace betterbox::scheduler
