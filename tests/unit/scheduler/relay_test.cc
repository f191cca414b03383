// Links between a client and an agent that cannot reach each other: the scheduler passes their messages on.
#include "tests/unit/scheduler/bus_fixture.h"

namespace betterbox::scheduler {
namespace {

class RelayTest : public BusTest {
 public:
  RelayTest() : w(worker(1, 1)), c(client()) {}
  void relay(const Actor& from, const Actor& to, bool over = false) {
    Frames frames;
    if (!over) frames = {Frame("a"), Frame("b")};
    say(from, Relay{to.hello.peer, over}, std::move(frames));
  }
  /// Result: true if it was told that the link is over.
  bool expect_relay(const Actor& at, const Actor& from) {
    const Relay relay = expect<Relay>(at);
    EXPECT_EQ(relay.peer, from.hello.peer);
    return relay.over;
  }
  Actor w, c;
};

TEST_F(RelayTest, WhatAClientSaysReachesTheAgentAndItsAnswersTheClient) {
  relay(c, w);
  EXPECT_FALSE(expect_relay(w, c));
  relay(w, c);
  EXPECT_FALSE(expect_relay(c, w));
  EXPECT_EQ(counters().messages_relayed, 2U);
}

TEST_F(RelayTest, AnAgentBeginsNoLink) {
  relay(w, c);
  EXPECT_TRUE(expect_relay(w, c));
  EXPECT_FALSE(has_message(c));
}

TEST_F(RelayTest, ClientsHaveNoLinksWithEachOther) {
  const Actor other = client(20);
  relay(c, other);
  EXPECT_TRUE(expect_relay(c, other));
  EXPECT_FALSE(has_message(other));
}

TEST_F(RelayTest, WhoSpeaksToSomebodyWhoIsNotThereIsToldSo) {
  const Actor nobody = stranger(Role::kWorker, 99);
  relay(c, nobody);
  EXPECT_TRUE(expect_relay(c, nobody));
}

TEST_F(RelayTest, EitherEndMayEndALink) {
  relay(c, w);
  expect_relay(w, c);
  relay(c, w, true);
  EXPECT_TRUE(expect_relay(w, c));
  relay(w, c);
  EXPECT_TRUE(expect_relay(w, c)) << "it is over: an agent begins none";
  relay(c, w, true);
  EXPECT_FALSE(has_message(w)) << "said of no link, it is for nobody";
}

TEST_F(RelayTest, TheOtherEndIsToldWhenASessionEnds) {
  relay(c, w);
  expect_relay(w, c);
  cut(c);
  EXPECT_TRUE(expect_relay(w, c));
  greet(c);
  relay(c, w);
  EXPECT_FALSE(expect_relay(w, c));
  cut(w);
  EXPECT_TRUE(expect_relay(c, w));
}

}  // namespace
}  // namespace betterbox::scheduler
