// Who holds a value, who keeps copies of it, and who gets it from whom.
#include "tests/unit/scheduler/bus_fixture.h"

namespace betterbox::scheduler {
namespace {

using ::testing::HasSubstr;

const ValueId kValue{"betterbox-0-a-1", 1, 1U << 20};

class ValuesTest : public BusTest {
 public:
  Actor in_store(Role role, std::uint64_t id, const std::string& store) {
    Actor actor = stranger(role, id);
    actor.hello.store = store;
    if (role != Role::kClient) actor.hello.endpoint = "ipc:///run/bus/w-" + std::to_string(id);
    greet(actor);
    if (role != Role::kClient) say(actor, Offer{1, {}, {}, {}});
    return actor;
  }
  Actor worker_in(std::uint64_t id, const std::string& store) { return in_store(Role::kWorker, id, store); }
  Actor client_in(std::uint64_t id, const std::string& store) { return in_store(Role::kClient, id, store); }

  void put(const Actor& owner, std::uint32_t replicas = 1) {
    say(owner, Hold{kValue, owner.hello.store, "ndarray", replicas});
  }
  /// The worker is asked, and does.
  void keep(const Actor& worker) {
    EXPECT_EQ(expect<Keep>(worker).value, kValue);
    say(worker, Kept{kValue, true, {}});
  }
  void locate(const Actor& peer, PeerId avoid = {}) { say(peer, Locate{kValue, "A", avoid}); }
  std::size_t known() const { return core.state().values.by_name.size(); }
};

TEST_F(ValuesTest, AValueIsKnownWhileSomebodyHoldsIt) {
  const Actor owner = client_in(10, "A"), other = client_in(11, "B");
  put(owner);
  say(other, Hold{kValue, "A", "", 0});
  say(owner, Drop{kValue.name});
  EXPECT_EQ(known(), 1U);
  say(other, Drop{kValue.name});
  EXPECT_EQ(known(), 0U);
}

TEST_F(ValuesTest, AValueGoesWithTheLastProcessThatHoldsIt) {
  Actor owner = client_in(10, "A");
  put(owner);
  kill(owner);
  EXPECT_EQ(known(), 0U);
}

TEST_F(ValuesTest, ReplicasGoToDifferentStoresFirst) {
  const Actor owner = client_in(10, "A");
  const Actor a = worker_in(1, "A"), b = worker_in(2, "B"), c = worker_in(3, "B"), d = worker_in(4, "C");
  put(owner, 3);
  keep(b), keep(d), keep(a);  // the owner's copy is in A: B and C come first
  EXPECT_FALSE(has_message(c));
  say(owner, Drop{kValue.name});
  for (const Actor* each : {&a, &b, &d}) expect<Discard>(*each);
}

TEST_F(ValuesTest, ALostKeeperIsReplaced) {
  const Actor owner = client_in(10, "A");
  Actor b = worker_in(2, "B");
  const Actor c = worker_in(3, "C"), d = worker_in(4, "D");
  put(owner, 2);
  keep(b), keep(c);
  kill(b);
  removed_sockets.clear();
  keep(d);
}

TEST_F(ValuesTest, ReplicasThatFindNoWorkerWaitForOne) {
  const Actor owner = client_in(10, "A");
  put(owner, 2);
  const Actor b = worker_in(2, "B");
  keep(b);
  const Actor c = worker_in(3, "C");
  expect<Keep>(c);
  say(c, Kept{kValue, false, "no room"});
  const Actor d = worker_in(4, "D");
  keep(d);
  EXPECT_FALSE(has_message(c));
}

TEST_F(ValuesTest, AStoreThatLacksAValueGetsItFromOneThatHasIt) {
  const Actor owner = client_in(10, "A"), a = worker_in(1, "A"), b = worker_in(2, "B");
  put(owner);
  locate(b);
  const Source source = expect<Source>(b);
  EXPECT_EQ(source.source, a.hello.peer);
  EXPECT_EQ(source.endpoint, a.hello.endpoint);
  say(b, Fetch{source.source, kValue, 0, 4096});
  const Fetch fetch = expect<Fetch>(a);
  EXPECT_EQ(fetch.peer, b.hello.peer);
  say(a, Chunk{fetch.peer, kValue.name, 0}, {Frame("bytes")});
  Frames frames;
  EXPECT_EQ(expect<Chunk>(b, &frames).peer, a.hello.peer);
  ASSERT_EQ(frames.size(), 1U);
  EXPECT_EQ(frames[0].view(), "bytes");
  say(b, Kept{kValue, true, {}});
}

TEST_F(ValuesTest, AClientLetsTheWorkerOfItsStoreGetTheValue) {
  const Actor owner = client_in(10, "A"), slot = client_in(11, "B"), b = worker_in(2, "B");
  put(owner);
  locate(slot);
  keep(b);
  EXPECT_TRUE(expect<Source>(slot).here);
}

TEST_F(ValuesTest, ACallGoesToAWorkerThatHasItsValues) {
  const Actor owner = client_in(10, "A"), a = worker_in(1, "A"), b = worker_in(2, "B"), c = worker_in(3, "C");
  put(owner);
  Call call;
  call.serial = 1;
  call.method = "f";
  call.values = {{kValue, "A"}};
  open(owner, call);
  add_items(owner, 1, {0, 1}, true);
  const Context context = expect<Context>(a);
  EXPECT_EQ(context.values, call.values);
  expect<Lease>(a);
  call.serial = 2;  // it has no free slot now: better elsewhere than not at all
  open(owner, call);
  add_items(owner, 2, {0, 1}, true);
  EXPECT_TRUE(has_message(b) || has_message(c));
  forget_unread();
}

TEST_F(ValuesTest, AStoreGivesToTwoAtATimeAndThoseThatHaveItGiveToo) {
  const Actor owner = client_in(10, "A"), a = worker_in(1, "A");
  put(owner);
  std::vector<Actor> workers;
  for (std::uint64_t i = 0; i < 5; ++i) workers.push_back(worker_in(20 + i, "S" + std::to_string(i)));
  for (const Actor& each : workers) locate(each);
  EXPECT_EQ(expect<Source>(workers[0]).source, a.hello.peer);
  EXPECT_EQ(expect<Source>(workers[1]).source, a.hello.peer);
  EXPECT_FALSE(has_message(workers[2]));
  say(workers[0], Kept{kValue, true, {}});  // two places more: its own
  std::map<PeerId, int> giving;
  for (int i = 2; i < 5; ++i) ++giving[expect<Source>(workers[static_cast<std::size_t>(i)]).source];
  EXPECT_EQ(giving[a.hello.peer], 1);
  EXPECT_EQ(giving[workers[0].hello.peer], 2);
}

TEST_F(ValuesTest, ASourceThatIsLostIsReplaced) {
  const Actor owner = client_in(10, "A"), b = worker_in(2, "B");
  Actor a = worker_in(1, "A");
  put(owner);
  locate(b);
  EXPECT_EQ(expect<Source>(b).source, a.hello.peer);
  kill(a);
  removed_sockets.clear();
  EXPECT_EQ(expect<Source>(b).source, owner.hello.peer);
  locate(b, owner.hello.peer);
  EXPECT_THAT(expect<Source>(b).error, HasSubstr("nobody"));
}

TEST_F(ValuesTest, TheSchedulerGivesWhatIsInItsOwnStore) {
  Config config = test_config();
  config.store = "A";
  incarnation_.emplace(config, now);
  const Actor b = worker_in(2, "B");
  locate(b);
  EXPECT_EQ(expect<Source>(b).source, config.peer);
  say(b, Fetch{config.peer, kValue, 0, 4096});
  ASSERT_EQ(reads.size(), 1U);
  EXPECT_EQ(reads[0].count, 4096U);
  EXPECT_EQ(reads[0].connection, b.connection);
}

TEST_F(ValuesTest, CopiesWithoutAKnownHolderGoAfterAWhile) {
  const Actor a = worker_in(1, "A"), b = worker_in(2, "B"), slot = client_in(11, "B");
  locate(slot);
  keep(b);
  EXPECT_TRUE(expect<Source>(slot).here);
  pass(kUnheldValueLife);
  expect<Discard>(b);
  EXPECT_EQ(known(), 0U);
}

TEST_F(ValuesTest, AnotherSchedulerHearsOfWhatIsKeptAndHeld) {
  const Actor b = worker_in(2, "B");
  say(b, Kept{kValue, true, {}});  // when its session begins
  const Actor owner = client_in(10, "A");
  put(owner, 1);
  pass(kUnheldValueLife * 2);
  EXPECT_EQ(known(), 1U);
  say(owner, Drop{kValue.name});
  expect<Discard>(b);
}

TEST_F(ValuesTest, WhoHadAPartInAValueThatIsForgottenForgetsItToo) {
  const Actor owner = client_in(10, "A");
  put(owner);
  say(owner, Drop{kValue.name});
  EXPECT_TRUE(core.state().values.touched.empty()) << "else its holder comes to the bound of values";
  Actor worker = worker_in(2, "B");
  put(owner, 2);
  expect<Keep>(worker);
  say(worker, Kept{kValue, false, "no room"});
  say(owner, Drop{kValue.name});
  EXPECT_TRUE(core.state().values.touched.empty());
  cut(worker);
  greet(worker);
  say(worker, Offer{1, {}, {}, {}});  // it is asked for what it kept
  EXPECT_FALSE(has_message(worker));
}

TEST_F(ValuesTest, WhoIsCutOffWhileItGetsAValueAsksAgain) {
  const Actor owner = client_in(10, "A");
  Actor worker = worker_in(2, "B");
  put(owner);
  locate(worker);
  EXPECT_EQ(expect<Source>(worker).source, owner.hello.peer);
  cut(worker);
  EXPECT_TRUE(core.state().values.giving.empty()) << "its place is free for others";
  greet(worker);
  EXPECT_FALSE(has_message(worker));
  locate(worker);
  EXPECT_EQ(expect<Source>(worker).source, owner.hello.peer);
  say(worker, Fetched{kValue.name});
}

TEST_F(ValuesTest, AnotherValueOfTheSameNameIsRefused) {
  const Actor owner = client_in(10, "A"), liar = client_in(11, "A");
  put(owner);
  ValueId other = kValue;
  ++other.bytes;
  say(liar, Hold{other, "A", "", 1});
  EXPECT_THAT(expect<Refused>(liar).text, HasSubstr("name"));
  say(owner, Drop{"unknown"});
}

}  // namespace
}  // namespace betterbox::scheduler
