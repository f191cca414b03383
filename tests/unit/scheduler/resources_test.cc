// What items need and agents have; how agents are: overload and pauses.
#include "tests/unit/scheduler/bus_fixture.h"

namespace betterbox::scheduler {
namespace {

using ::testing::HasSubstr;

constexpr Resources cpus(std::uint64_t n) { return {n * 1000, kAnyMemory, 0, {}}; }

class ResourcesTest : public BusTest {
 public:
  CallId start_needy(const Actor& client, std::uint64_t serial, std::uint64_t items, const Resources& needs) {
    Call call;
    call.serial = serial;
    call.method = "f";
    call.needs = needs;
    const CallId id = open(client, call);
    add_items(client, serial, {0, items}, true);
    return id;
  }
  std::string waiting(const Actor& client, std::uint64_t serial) {
    say(client, Explain{serial});
    return expect<Explanation>(client).stats.waiting;
  }
};

TEST_F(ResourcesTest, AnAgentIsTakenForAsManySlotsAsItsResourcesAllow) {
  const Actor w = worker(1, 8, cpus(8));
  const Actor c = client();
  const CallId id = start_needy(c, 1, 100, {4000, 0, 0, {}});
  const CallState& call = core.state().calls.at(id);
  EXPECT_EQ(slots_for(call, core.state().peers.at(w.hello.peer).agent.memberships.at(kFunctionPool)), 2U);
  const Context context = expect<Context>(w);
  EXPECT_EQ(context.needs.cpus_milli, 4000U);
  EXPECT_EQ(context.policy, "auto");
  forget_unread();
}

TEST_F(ResourcesTest, ItemsGoOnlyWhereTheirNeedsAreMet) {
  const Actor small = worker(1, 2, cpus(2));
  const Actor large = worker(2, 2, {2000, kAnyMemory, 1000, {{"licence", 1000}}});
  const Actor c = client();
  start_needy(c, 1, 1, {1000, 0, 1000, {{"licence", 1000}}});
  expect_first_lease(large);
  EXPECT_FALSE(has_message(small));
}

TEST_F(ResourcesTest, ItemsThatTakeAWholeWorkerMoveToAnotherThoughSlotsAreFree) {
  const Actor w1 = worker(1, 4, cpus(4));
  const Actor c = client();
  start_needy(c, 1, 1, {4000, 0, 0, {}});
  start_needy(c, 2, 1, {4000, 0, 0, {}});
  const std::vector<Lease> leases = expect_leases(w1);
  ASSERT_EQ(leases.size(), 2U);
  worker(2, 2, cpus(2));
  pass(seconds(1));
  EXPECT_FALSE(has_message(w1)) << "worker 2 is too small";
  worker(3, 4, cpus(4));
  pass(seconds(1));
  EXPECT_EQ(expect<Revoke>(w1).lease, leases[1].lease);
}

TEST_F(ResourcesTest, WhatNoWorkerOfASettledBusCanGiveIsLostAtOnceWithTheReason) {
  const Actor w1 = worker(1, 2, cpus(1));
  const Actor w2 = worker(2, 2, {2000, std::uint64_t{7} << 30, 0, {}});
  const Actor c = client();
  pass(kNoBoxGrace);
  start_needy(c, 1, 10, {4000, 0, 0, {}});
  EXPECT_EQ(expect_results(c).size(), 10U);
  EXPECT_EQ(expect_lost().code, LostCode::kUnsatisfiable);
  EXPECT_EQ(std::string(expect_lost().detail),
            "it needs 4 cpus; the worker with most has 2 cpus, 7 GiB of memory (peer-2)");
  expect<Settled>(c);
}

TEST_F(ResourcesTest, WhileWorkersStillJoinTheyAreWaitedFor) {
  const Actor w1 = worker(1, 2, cpus(2));
  const Actor c = client();
  start_needy(c, 1, 1, {4000, 0, 0, {}});
  EXPECT_FALSE(has_message(c));
  EXPECT_THAT(waiting(c, 1), HasSubstr("it needs 4 cpus"));
  pass(seconds(1));
  const Actor w2 = worker(2, 4, cpus(4));
  expect_first_lease(w2);
  pass(kNoBoxGrace + seconds(1));
  EXPECT_FALSE(has_message(c));
}

TEST_F(ResourcesTest, WithoutAnyWorkerNothingIsImpossible) {
  const Actor c = client();
  start_needy(c, 1, 1, {4000, 0, 0, {}});
  pass(seconds(100));
  EXPECT_FALSE(has_message(c));
  const Actor w = worker(1, 1, cpus(1));
  pass(kNoBoxGrace + milliseconds(1));
  EXPECT_EQ(expect_results(c).size(), 1U);
  EXPECT_EQ(expect_lost().code, LostCode::kUnsatisfiable);
  expect<Settled>(c);
}

TEST_F(ResourcesTest, WhenTheOnlyAbleWorkerLeavesItIsWaitedForBeforeItemsAreLost) {
  const Actor small = worker(1, 1, cpus(1));
  Actor large = worker(2, 4, cpus(4));
  const Actor c = client();
  start_needy(c, 1, 2, {4000, 0, 0, {}});
  forget_unread();
  say(large, Bye{});
  EXPECT_FALSE(has_message(c));
  pass(kNoBoxGrace + milliseconds(1));
  EXPECT_EQ(expect_results(c).size(), 2U);
  EXPECT_THAT(std::string(expect_lost().detail), HasSubstr("(peer-1)"));
  expect<Settled>(c);
}

TEST_F(ResourcesTest, AWorkerThatOffersMoreIsAskedAgain) {
  const Actor w = worker(1, 4, cpus(1));
  const Actor c = client();
  start_needy(c, 1, 1, {2000, 0, 0, {}});
  say(w, Offer{4, {}, {}, cpus(2)});
  expect_first_lease(w);
  say(w, Offer{4, {}, {}, cpus(1)});
  pass(seconds(20));
}

TEST_F(ResourcesTest, NoLeaseOutlivesItsWorker) {
  const Actor w1 = worker(1, 2);
  const Actor c = client();
  say(w1, Load{0, 0, 0, false, false, 60'000});
  start_call(c, 1, 100);
  const Lease probe = expect_first_lease(w1);
  finish(w1, probe.lease, probe.range, seconds(40));
  const Lease lease = expect<Lease>(w1);
  EXPECT_LE(lease.range.size(), 2U) << "each slot can run one more";
  finish(w1, lease.lease, lease.range, seconds(400));
  EXPECT_FALSE(has_message(w1)) << "an item takes longer than what is left";
  for (int i = 0; i < 2; ++i) expect<Results>(c);
  EXPECT_THAT(waiting(c, 1), HasSubstr("the only worker for it is about to end"));
  const Actor w2 = worker(2, 2);
  EXPECT_EQ(expect_first_lease(w2).range.begin, lease.range.end);
  forget_unread();
}

TEST_F(ResourcesTest, APausedWorkerGivesBackWhatItHasNotBegunAndGetsNothing) {
  const Actor w1 = worker(1, 2);
  const Actor c = client();
  start_call(c, 1, 100);
  const Lease lease = expect_first_lease(w1);
  say(w1, Load{2, 0, 0, true});
  EXPECT_EQ(expect<Revoke>(w1).count, lease.range.size());
  say(w1, Released{lease.lease, {{2, lease.range.end}}});
  EXPECT_FALSE(has_message(w1));
  EXPECT_THAT(waiting(c, 1), HasSubstr("paused"));
  const Actor w2 = worker(2, 2);
  EXPECT_EQ(expect_first_lease(w2).range.begin, 2U);
  forget_unread();
}

TEST_F(ResourcesTest, ARecoveredWorkerIsFilledAtOnce) {
  const Actor w = worker(1, 2);
  say(w, Load{0, 0, 0, true});
  const Actor c = client();
  start_call(c, 1, 100);
  EXPECT_FALSE(has_message(w));
  say(w, Load{0, 0, 0, false});
  expect_first_lease(w);
}

TEST_F(ResourcesTest, ALeaseThatIsCutForAThiefWhileItsWorkerPausesIsAskedForAgain) {
  const Actor w1 = worker(1, 1);
  const Actor c = client();
  start_call(c, 1, 100);
  const Lease lease = expect_first_lease(w1);
  const Actor w2 = worker(2, 1);
  if (!has_message(w1)) GTEST_SKIP() << "nothing was cut";
  expect<Revoke>(w1);
  say(w1, Load{1, 0, 0, true});
  EXPECT_FALSE(has_message(w1)) << "one Revoke at a time";
  say(w1, Released{lease.lease, {{lease.range.end / 2, lease.range.end}}});
  EXPECT_EQ(expect<Revoke>(w1).lease, lease.lease);
  forget_unread();
}

TEST_F(ResourcesTest, OfIdleWorkersTheOneWithAFreeHostComesFirst) {
  const Actor w1 = worker(1, 2, cpus(2));
  const Actor w2 = worker(2, 2, cpus(2));
  say(w1, Load{0, 1500, 0, false});
  const Actor c = client();
  start_call(c, 1, 1);
  expect_first_lease(w2);
  EXPECT_FALSE(has_message(w1));
}

TEST_F(ResourcesTest, AnOverloadedWorkerBeginsWithLess) {
  const Actor w = worker(1, 8, cpus(8));
  const Actor c = client();
  const CallId id = start_call(c, 1, 1000);
  const CallState& call = core.state().calls.at(id);
  const Member& member = core.state().peers.at(w.hello.peer).agent.memberships.at(kFunctionPool);
  EXPECT_EQ(slots_to_begin_with(call, member), 8U);
  say(w, Load{8, 4000, 0, false});
  EXPECT_EQ(slots_to_begin_with(call, member), 4U);
  say(w, Load{8, 80'000, 0, false});
  EXPECT_EQ(slots_to_begin_with(call, member), 1U);
  EXPECT_EQ(slots_for(call, member), 8U) << "what was measured says the rest";
  forget_unread();
}

TEST_F(ResourcesTest, NamesOfResourcesAscend) {
  const Actor c = client();
  Call call;
  call.serial = 1;
  call.needs.named = {{"b", 1000}, {"a", 1000}};
  open(c, call);
  EXPECT_THAT(expect<Refused>(c).text, HasSubstr("ascend"));
  Actor w = stranger(Role::kWorker, 5);
  greet(w);
  say(w, Offer{1, {}, {}, {0, 0, 0, {{"a", 1}, {"a", 1}}}});
  EXPECT_THAT(expect<Refused>(w).text, HasSubstr("ascend"));
}

TEST_F(ResourcesTest, StatusShowsCapacityAndLoad) {
  const Actor w = worker(1, 2, cpus(2));
  say(w, Load{1, 500, 4096, false});
  const Actor c = client();
  say(c, Status{});
  const StatusReport report = expect<StatusReport>(c);
  ASSERT_EQ(report.peers.size(), 2U);
  EXPECT_EQ(report.peers[0].capacity.cpus_milli, 2000U);
  EXPECT_EQ(report.peers[0].load.busy_slots, 1U);
  EXPECT_EQ(report.peers[0].load.memory_bytes, 4096U);
}

}  // namespace
}  // namespace betterbox::scheduler
