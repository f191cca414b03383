// Boxes hosted on the workers that are there.
#include "tests/unit/scheduler/bus_fixture.h"

namespace betterbox::scheduler {
namespace {

using ::testing::HasSubstr;

class DeploymentsTest : public BusTest {
 public:
  void deploy(const Actor& c, std::uint64_t serial, std::uint32_t slots) {
    say(c, Deploy{serial, Port{8090}, slots, "boxes"}, {Frame("box")});
  }
};

TEST_F(DeploymentsTest, SlotsGoToTheWorkersWithFewestBoxes) {
  const Actor c = client();
  const Actor w1 = worker(1, 0);
  const Actor w2 = worker(2, 0);
  say(w1, Offer{0, {box_info(w1, 0, 7)}, {}});
  deploy(c, 1, 3);
  const Host h1 = expect<Host>(w1);
  EXPECT_EQ(h1.slots, 1U);
  EXPECT_EQ(h1.first, 0U);
  Frames frames;
  const Host h2 = expect<Host>(w2, &frames);
  EXPECT_EQ(h2.slots, 2U);
  EXPECT_EQ(h2.first, 1U);
  ASSERT_EQ(frames.size(), 1U);
  EXPECT_EQ(frames[0].view(), "box");
}

TEST_F(DeploymentsTest, IsUpWhenEveryWorkerSaysSo) {
  const Actor c = client();
  const Actor w1 = worker(1, 0);
  const Actor w2 = worker(2, 0);
  deploy(c, 1, 2);
  const CallId id = expect<Host>(w1).deployment;
  expect<Host>(w2);
  say(w1, Hosted{id, true});
  EXPECT_FALSE(has_message(c));
  say(w2, Hosted{id, true});
  EXPECT_TRUE(expect<Deployed>(c).ok);
}

TEST_F(DeploymentsTest, OneErrorTakesAllDown) {
  const Actor c = client();
  const Actor w1 = worker(1, 0);
  const Actor w2 = worker(2, 0);
  deploy(c, 1, 2);
  const CallId id = expect<Host>(w1).deployment;
  expect<Host>(w2);
  say(w1, Hosted{id, true});
  say(w2, Hosted{id, false}, {Frame("error")});
  Frames frames;
  EXPECT_FALSE(expect<Deployed>(c, &frames).ok);
  ASSERT_EQ(frames.size(), 1U);
  EXPECT_EQ(frames[0].view(), "error");
  expect<Undeploy>(w1);
  expect<Undeploy>(w2);
}

TEST_F(DeploymentsTest, WithoutWorkersThereIsAnError) {
  const Actor c = client();
  deploy(c, 1, 2);
  const Deployed deployed = expect<Deployed>(c);
  EXPECT_FALSE(deployed.ok);
  EXPECT_THAT(deployed.error, HasSubstr("betterbox worker"));
}

TEST_F(DeploymentsTest, AWorkerLostBeforeItsBoxesAreUpIsAnError) {
  const Actor c = client();
  Actor w1 = worker(1, 0);
  const Actor w2 = worker(2, 0);
  deploy(c, 1, 2);
  const CallId id = expect<Host>(w1).deployment;
  expect<Host>(w2);
  say(w2, Hosted{id, true});
  kill(w1);
  removed_sockets.clear();
  const Deployed deployed = expect<Deployed>(c);
  EXPECT_FALSE(deployed.ok);
  EXPECT_THAT(deployed.error, HasSubstr("peer-1"));
  expect<Undeploy>(w2);
  EXPECT_TRUE(core.state().deployments.empty());
}

TEST_F(DeploymentsTest, AConnectionThatBreaksMeanwhileIsAnError) {
  const Actor c = client();
  Actor w = worker(1, 0);
  deploy(c, 1, 1);
  expect<Host>(w);
  cut(w);
  greet(w);
  expect<Undeploy>(w);
  EXPECT_FALSE(expect<Deployed>(c).ok);
}

TEST_F(DeploymentsTest, UndeployReachesTheWorkers) {
  const Actor c = client();
  const Actor w = worker(1, 0);
  deploy(c, 1, 1);
  const CallId id = expect<Host>(w).deployment;
  say(w, Hosted{id, true});
  expect<Deployed>(c);
  say(c, Undeploy{id});
  EXPECT_EQ(expect<Undeploy>(w).deployment, id);
  EXPECT_TRUE(core.state().deployments.empty());
}

TEST_F(DeploymentsTest, UndeployOfSomebodyElsesIsAViolation) {
  const Actor c = client();
  say(c, Undeploy{{PeerId{11}, 1}});
  EXPECT_THAT(expect<Refused>(c).text, HasSubstr("somebody else"));
}

TEST_F(DeploymentsTest, StaysWhenItsClientLeaves) {
  const Actor c = client();
  const Actor w = worker(1, 0);
  deploy(c, 1, 1);
  const CallId id = expect<Host>(w).deployment;
  say(w, Hosted{id, true});
  expect<Deployed>(c);
  say(c, Bye{});
  EXPECT_FALSE(has_message(w));
  EXPECT_EQ(core.state().deployments.size(), 1U);
}

TEST_F(DeploymentsTest, AClientThatIsAwayIsToldWhenItReturns) {
  Actor c = client();
  const Actor w = worker(1, 0);
  deploy(c, 1, 1);
  const CallId id = expect<Host>(w).deployment;
  cut(c);
  say(w, Hosted{id, true});
  greet(c);
  EXPECT_TRUE(expect<Deployed>(c).ok);
}

}  // namespace
}  // namespace betterbox::scheduler
