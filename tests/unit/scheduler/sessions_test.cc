// Who is on the bus: greetings, refusals, returns, losses, and the end of an idle scheduler.
#include "tests/unit/scheduler/bus_fixture.h"

namespace betterbox::scheduler {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class SessionsTest : public BusTest {
 public:
  void expect_refused(const Actor& actor, RefusalCode code, const std::string& text) {
    const Refused refused = expect<Refused>(actor);
    EXPECT_EQ(refused.code, code);
    EXPECT_THAT(refused.text, HasSubstr(text));
    EXPECT_TRUE(was_closed(actor.connection));
  }
};

TEST_F(SessionsTest, AHelloIsAnsweredWithAWelcome) {
  Actor actor = stranger(Role::kClient, 10);
  const Welcome welcome = greet(actor);
  EXPECT_EQ(welcome.peer, PeerId{0x5EED});
  EXPECT_EQ(welcome.session, 1U);
  EXPECT_EQ(welcome.host, "here");
}

TEST_F(SessionsTest, ABusHasPeersOfSeveralPythons) {
  std::uint64_t peer = 10;
  for (const char* python : {"3.11", "3.12", ""}) {
    Actor actor = stranger(Role::kClient, peer++);
    actor.hello.python = python;
    EXPECT_EQ(greet(actor).session, 1U);
  }
}

TEST_F(SessionsTest, ASecondSchedulerIsNoPeer) {
  Actor actor = stranger(Role::kScheduler, 1);
  actor.hello.session = 1;
  say(actor, actor.hello);
  expect_refused(actor, RefusalCode::kIdentity, "role");
}

TEST_F(SessionsTest, ASessionBeginsWithHello) {
  Actor actor = stranger(Role::kClient, 1);
  say(actor, Watch{Port{1}});
  expect_refused(actor, RefusalCode::kProtocol, "begins with Hello, not Watch");
  EXPECT_EQ(counters().refused_messages, 1U);
}

TEST_F(SessionsTest, AMessageOfTheWrongRoleDropsItsSender) {
  const Actor c = client();
  say(c, Offer{4, {}, {}});
  expect_refused(c, RefusalCode::kProtocol, "a client may not send Offer");
  const Actor w = worker(1, 2);
  say(w, Watch{Port{1}});
  expect_refused(w, RefusalCode::kProtocol, "an agent may not send Watch");
  EXPECT_TRUE(core.state().peers.empty());
  EXPECT_EQ(counters().refused_messages, 2U);
}

TEST_F(SessionsTest, AnIdInUseByAnotherProcessIsRefused) {
  client(10);
  Actor other = stranger(Role::kClient, 10);
  other.hello.pid = 999;
  other.hello.session = 5;
  say(other, other.hello);
  expect_refused(other, RefusalCode::kIdentity, "another process");
}

TEST_F(SessionsTest, ANewerSessionReplacesTheOldConnection) {
  Actor c = client(10);
  const ConnectionId old = c.connection;
  c.connection = new_connection();
  greet(c);
  EXPECT_TRUE(was_closed(old));
  EXPECT_EQ(core.state().peers.size(), 1U);
  say(c, Status{});
  EXPECT_EQ(expect<StatusReport>(c).peers.size(), 1U);
}

TEST_F(SessionsTest, AnOlderSessionIsRefused) {
  Actor c = client(10);
  Actor late = c;
  late.connection = new_connection();
  say(late, late.hello);
  expect_refused(late, RefusalCode::kIdentity, "newer session");
}

TEST_F(SessionsTest, WhoShowedAProofComesBackWithTheSameOneOnly) {
  Actor c = stranger(Role::kClient, 10);
  say(c, Proof{1, 2});
  greet(c);
  Actor thief = c;
  ++thief.hello.session;
  for (const Proof& proof : {Proof{}, Proof{1, 3}}) {
    thief.connection = new_connection();
    if (!proof.empty()) say(thief, proof);
    say(thief, thief.hello);
    expect_refused(thief, RefusalCode::kIdentity, "another process");
  }
  EXPECT_FALSE(was_closed(c.connection));
  cut(c);
  c.connection = new_connection();
  say(c, Proof{1, 2});
  greet(c);
  EXPECT_TRUE(core.state().proofs.empty());
}

TEST_F(SessionsTest, APeerShowsOneProofBeforeItsHello) {
  Actor twice = stranger(Role::kClient, 10);
  say(twice, Proof{1, 2});
  say(twice, Proof{1, 2});
  expect_refused(twice, RefusalCode::kProtocol, "one Proof");
  const Actor late = client(11);
  say(late, Proof{1, 2});
  expect_refused(late, RefusalCode::kProtocol, "may not send Proof");
  Actor rude = stranger(Role::kClient, 13);
  say(rude, Proof{1, 2});
  say(rude, Watch{Port{80}});
  expect_refused(rude, RefusalCode::kProtocol, "begins with Hello");
  EXPECT_TRUE(core.state().proofs.empty());
  Actor gone = stranger(Role::kClient, 12);
  say(gone, Proof{1, 2});
  cut(gone);
  EXPECT_TRUE(core.state().proofs.empty());
}

TEST_F(SessionsTest, NobodysSocketIsRemovedForAnotherPeer) {
  for (const char* claimed :
       {"ipc:///run/bus/s-0000000000005eed", "ipc:///run/bus/a-0000000000000002",
        "ipc:///run/bus/a-00000000000000010", "ipc:///run/bus/xa-0000000000000001", "ipc://", ""}) {
    Actor w = stranger(Role::kWorker, 1);
    w.hello.endpoint = claimed;
    greet(w);
    kill(w);
    EXPECT_TRUE(core.state().peers.empty());
    EXPECT_THAT(removed_sockets, ElementsAre()) << claimed;
  }
}

TEST_F(SessionsTest, ASecondHelloOnOneConnectionIsAViolation) {
  const Actor c = client(10);
  say(c, c.hello);
  expect_refused(c, RefusalCode::kProtocol, "may not send Hello");
}

TEST_F(SessionsTest, APeerThatIsAwayIsWaitedFor) {
  Actor c = client(10);
  cut(c);
  pass(kReconnectGrace - milliseconds(1));
  EXPECT_EQ(core.state().peers.size(), 1U);
  pass(milliseconds(2));
  EXPECT_TRUE(core.state().peers.empty());
  EXPECT_EQ(counters().peers_lost, 1U);
}

TEST_F(SessionsTest, APeerWhoseProcessDiedIsNotWaitedFor) {
  Actor c = client(10);
  handle(ProcessEnded{c.hello.peer});
  EXPECT_EQ(core.state().peers.size(), 1U) << "what it sent before may still come";
  cut(c);
  EXPECT_TRUE(core.state().peers.empty());
}

TEST_F(SessionsTest, TheProcessOfAPeerThatIsAwayMayDieLater) {
  Actor c = client(10);
  cut(c);
  handle(ProcessEnded{c.hello.peer});
  EXPECT_TRUE(core.state().peers.empty());
}

TEST_F(SessionsTest, AByeEndsEverythingAtOnce) {
  Actor c = client(10);
  start_call(c, 1, 5);
  say(c, Bye{});
  EXPECT_TRUE(core.state().peers.empty());
  EXPECT_TRUE(core.state().calls.empty());
  EXPECT_TRUE(was_closed(c.connection));
}

TEST_F(SessionsTest, MalformedBytesEndAPeerAndAreCounted) {
  Actor w = worker(1, 2);
  handle(ConnectionEnded{w.connection, "bad magic", true});
  EXPECT_TRUE(core.state().peers.empty());
  EXPECT_EQ(counters().malformed_messages, 1U);
  handle(ConnectionEnded{ConnectionId{777}, "bad magic", true});
  EXPECT_EQ(counters().malformed_messages, 2U);
}

TEST_F(SessionsTest, TheSocketOfAnAgentThatDiedHereIsRemoved) {
  Actor w = worker(1, 2);
  kill(w);
  EXPECT_THAT(removed_sockets, ElementsAre("/run/bus/a-0000000000000001"));
  removed_sockets.clear();
}

TEST_F(SessionsTest, TheSocketOfAnAgentElsewhereIsLeftAlone) {
  Actor w = stranger(Role::kWorker, 1);
  w.hello.host = "there";
  w.hello.endpoint = "ipc:///run/bus/a-0000000000000001";
  greet(w);
  cut(w);
  pass(kReconnectGrace + milliseconds(1));
  EXPECT_TRUE(core.state().peers.empty());
}

TEST_F(SessionsTest, AnAgentThatSaysByeRemovesItsSocketItself) {
  Actor w = worker(1, 2);
  say(w, Bye{});
  EXPECT_THAT(removed_sockets, ElementsAre());
}

TEST_F(SessionsTest, StoppingTellsEverybody) {
  const Actor c = client(10);
  const Actor w = worker(1, 2);
  handle(StopRequested{"it was asked to"});
  EXPECT_EQ(expect<Refused>(c).code, RefusalCode::kEnding);
  EXPECT_EQ(expect<Refused>(w).code, RefusalCode::kEnding);
  EXPECT_THAT(stopped, ElementsAre("it was asked to"));
  stopped.clear();
}

TEST_F(SessionsTest, StatusNamesEverythingAndCounts) {
  const Actor c = client(10);
  const Actor w = worker(1, 2);
  const Actor b = box_host(2, 8090);
  start_call(c, 1, 5);
  expect_leases(w);
  now = TimePoint{5'000'000};
  say(c, Status{});
  const StatusReport report = expect<StatusReport>(c);
  EXPECT_EQ(report.scheduler.role, Role::kScheduler);
  EXPECT_EQ(report.uptime_ns, 5'000'000);
  ASSERT_EQ(report.peers.size(), 3U);
  EXPECT_EQ(report.peers[0].function_slots, 2U);
  EXPECT_GT(report.peers[0].leased_items, 0U);
  ASSERT_EQ(report.boxes.size(), 1U);
  EXPECT_EQ(report.boxes[0].info.port, Port{8090});
  ASSERT_EQ(report.calls.size(), 1U);
  EXPECT_EQ(report.calls[0].total, 5U);
  EXPECT_EQ(report.calls[0].running, report.peers[0].leased_items);
  bool found = false;
  for (const Counter& counter : report.counters)
    found |= counter.name == "messages_received" && counter.value == 8;
  EXPECT_TRUE(found);
}

Config idle_config() {
  Config config = test_config();
  config.idle_life = seconds(60);
  return config;
}

class IdleSchedulerTest : public BusTest {
 public:
  IdleSchedulerTest() : BusTest(idle_config()) {}
  void expect_stop() {
    EXPECT_THAT(stopped, ElementsAre(HasSubstr("nobody")));
    stopped.clear();
  }
};

TEST_F(IdleSchedulerTest, EndsIfNobodyEverComes) {
  pass(seconds(59));
  EXPECT_TRUE(stopped.empty());
  pass(seconds(2));
  expect_stop();
}

TEST_F(IdleSchedulerTest, EndsAMinuteAfterTheLastPeer) {
  Actor c = client(10);
  pass(seconds(500));
  EXPECT_TRUE(stopped.empty());
  cut(c);
  pass(seconds(59));
  EXPECT_TRUE(stopped.empty());
  pass(seconds(2));
  expect_stop();
}

TEST_F(IdleSchedulerTest, APeerThatComesInTimeKeepsItAlive) {
  Actor c = client(10);
  cut(c);
  pass(seconds(59));
  client(11);
  pass(seconds(100));
  EXPECT_TRUE(stopped.empty());
}

TEST_F(IdleSchedulerTest, BackgroundPeersDoNotKeepItAlive) {
  Actor w = stranger(Role::kWorker, 1);
  w.hello.background = true;
  greet(w);
  pass(seconds(61));
  expect_stop();
  EXPECT_EQ(expect<Refused>(w).code, RefusalCode::kEnding);
}

class HastySchedulerTest : public BusTest {
 public:
  HastySchedulerTest() : BusTest(hasty_config()) {}
  static Config hasty_config() {
    Config config = test_config();
    config.idle_life = milliseconds(1);
    return config;
  }
};

TEST_F(HastySchedulerTest, WaitsForWhoeverHasStartedItAndEndsOnceThatOneIsGone) {
  pass(kFirstPeerPatience - seconds(1));
  EXPECT_TRUE(stopped.empty());
  Actor c = client(10);
  pass(seconds(100));
  EXPECT_TRUE(stopped.empty());
  cut(c);
  pass(milliseconds(2));
  EXPECT_THAT(stopped, ElementsAre(HasSubstr("nobody")));
  stopped.clear();
}

}  // namespace
}  // namespace betterbox::scheduler
