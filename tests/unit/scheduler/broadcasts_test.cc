// Which values are broadcast to which ranks, and what becomes of those that do not come.
#include "tests/unit/scheduler/bus_fixture.h"

namespace betterbox::scheduler {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

const ValueId kValue{"betterbox-0-a-1", 1, 64U << 20};

Config rank_0_in(const std::string& store) {
  Config config = test_config();
  config.store = store;
  config.rank = 0;
  return config;
}

/// The scheduler and a client are rank 0, with the store A.
class BroadcastsTest : public BusTest {
 public:
  BroadcastsTest() : BusTest(rank_0_in("A")), client(stranger(Role::kClient, 10)) {
    client.hello.store = "A";
    greet(client);
  }
  Actor rank(std::uint64_t number, const std::string& store) {
    Actor actor = stranger(Role::kWorker, 100 + number);
    actor.hello.store = store;
    actor.hello.endpoint = "mpi://" + std::to_string(number) + "/agent";
    greet(actor);
    say(actor, Offer{1, {}, {}, {}});
    return actor;
  }
  CallId start(std::uint64_t serial, std::uint64_t items, const ValueId& value = kValue) {
    Call call;
    call.serial = serial;
    call.method = "f";
    call.values = {{value, "A"}};
    const CallId id = open(client, call);
    add_items(client, serial, {0, items}, true);
    return id;
  }
  /// The agent gets items and is told of a broadcast.
  Broadcast expect_broadcast(const Actor& agent) {
    lease[agent.hello.peer] = expect_first_lease(agent).lease;
    return expect<Broadcast>(agent);
  }
  std::size_t known() const { return core.state().values.by_name.size(); }

  Actor client;
  std::map<PeerId, LeaseId> lease;
};

TEST_F(BroadcastsTest, AllRanksThatGetItemsInOneTurnAreToldTheSameNumber) {
  const Actor c = rank(2, "C"), b = rank(1, "B");
  start(1, 2);
  ASSERT_THAT(given, SizeIs(1));
  EXPECT_THAT(given[0].members, ElementsAre(0, 1, 2));
  for (const Actor* each : {&b, &c}) {
    const Broadcast told = expect_broadcast(*each);
    EXPECT_EQ(told.sequence, given[0].sequence);
    EXPECT_EQ(told.members, given[0].members);
    EXPECT_EQ(told.value, kValue);
  }
  const Actor late = rank(3, "D");
  start(2, 1, {"betterbox-0-a-2", 2, 64U << 20});
  EXPECT_THAT(given.back().members, ElementsAre(0, 3));
  EXPECT_GT(expect_broadcast(late).sequence, given[0].sequence);
}

TEST_F(BroadcastsTest, OneRankOfAStoreGetsTheValueAndTheOthersHearThatItIsThere) {
  const Actor near = rank(1, "A"), b1 = rank(2, "B"), b2 = rank(3, "B");
  start(1, 3);
  ASSERT_THAT(given, SizeIs(1));
  EXPECT_THAT(given[0].members, ElementsAre(0, 2));
  expect_first_lease(near);
  expect_broadcast(b1);
  expect_first_lease(b2);
  EXPECT_FALSE(has_message(b2));
  say(b1, Kept{kValue, true, {}});
  EXPECT_TRUE(expect<Source>(b2).here);
}

TEST_F(BroadcastsTest, WhatDoesNotComeIsFetched) {
  const Actor near = rank(1, "A"), b = rank(2, "B");
  start(1, 2);
  expect_first_lease(near);
  expect_broadcast(b);
  say(b, Locate{kValue, "A", {}});
  EXPECT_EQ(expect<Source>(b).source, core.state().config.peer);
}

TEST_F(BroadcastsTest, WithTheLastCallThatNamedItAValueIsDiscarded) {
  const Actor b = rank(1, "B");
  start(1, 1);
  expect_broadcast(b);
  say(b, Kept{kValue, true, {}});
  finish(b, lease.at(b.hello.peer), {0, 1});
  expect<DropCall>(b);
  expect<Discard>(b);
  EXPECT_EQ(known(), 0U);
  forget_unread();
}

TEST_F(BroadcastsTest, AValueThatAPeerHoldsOutlivesTheCall) {
  const Actor b = rank(1, "B");
  say(client, Hold{kValue, "A", "ndarray", 1});
  start(1, 1);
  expect_broadcast(b);
  say(b, Kept{kValue, true, {}});
  finish(b, lease.at(b.hello.peer), {0, 1});
  EXPECT_EQ(known(), 1U);
  say(client, Drop{kValue.name});
  EXPECT_EQ(known(), 0U);
  forget_unread();
}

TEST_F(BroadcastsTest, AClientNamesTheAgentsOfADirectCall) {
  const Actor b = rank(1, "B"), c = rank(2, "C");
  say(client, Broadcast{0, kValue, "A", {b.hello.peer.value, c.hello.peer.value, 4711}});
  EXPECT_THAT(given.at(0).members, ElementsAre(0, 1, 2));
  expect<Broadcast>(b), expect<Broadcast>(c);
}

TEST_F(BroadcastsTest, ARankThatKeepsAValueGivesItWhereTheSchedulersStoreLacksIt) {
  const Actor b = rank(1, "B"), c = rank(2, "C");
  say(b, Hold{kValue, "B", "ndarray", 1});
  say(client, Broadcast{0, kValue, "B", {c.hello.peer.value}});
  EXPECT_THAT(given, IsEmpty());
  EXPECT_THAT(expect<Broadcast>(b).members, ElementsAre(1, 2));
  EXPECT_THAT(expect<Broadcast>(c).members, ElementsAre(1, 2));
}

TEST_F(BroadcastsTest, SmallValuesAreNotBroadcast) {
  const Actor b = rank(1, "B");
  start(1, 1, {"betterbox-0-a-3", 3, kBroadcastMinBytes - 1});
  expect_first_lease(b);
  EXPECT_THAT(given, IsEmpty());
}

TEST_F(BroadcastsTest, ARankThatIsBehindIsTakenIntoTheNextOne) {
  const Actor b = rank(1, "B"), c = rank(2, "C");
  say(client, Broadcast{0, kValue, "A", {b.hello.peer.value}});
  expect<Broadcast>(b);
  say(client, Broadcast{0, kValue, "A", {b.hello.peer.value, c.hello.peer.value}});
  EXPECT_THAT(given.at(1).members, ElementsAre(0, 2));
  expect<Broadcast>(c);
  say(b, Kept{kValue, true, {}});
  EXPECT_TRUE(expect<Source>(b).here);  // it was told to wait for itself: no harm
}

}  // namespace
}  // namespace betterbox::scheduler
