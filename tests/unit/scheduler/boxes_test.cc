// Offers, watches, and items whose port has no box.
#include "tests/unit/scheduler/bus_fixture.h"

namespace betterbox::scheduler {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

class BoxesTest : public BusTest {};

TEST_F(BoxesTest, AWatchIsAnsweredWithASnapshotAtOnce) {
  const Actor b = box_host(1, 8090);
  const Actor c = client();
  say(c, Watch{Port{8090}});
  const Boxes boxes = expect<Boxes>(c);
  EXPECT_TRUE(boxes.snapshot);
  ASSERT_EQ(boxes.joined.size(), 1U);
  EXPECT_EQ(boxes.joined[0].info.class_name, "ABox");
  EXPECT_EQ(boxes.joined[0].endpoint, "ipc:///run/bus/a-0000000000000001");
  EXPECT_EQ(boxes.joined[0].joined, 1U);
  say(c, Watch{Port{9090}});
  EXPECT_THAT(expect<Boxes>(c).joined, IsEmpty());
}

TEST_F(BoxesTest, WatchersHearOfBoxesThatJoinAndLeave) {
  const Actor c = client();
  say(c, Watch{Port{8090}});
  expect<Boxes>(c);
  Actor b = box_host(1, 8090);
  Boxes boxes = expect<Boxes>(c);
  EXPECT_FALSE(boxes.snapshot);
  EXPECT_EQ(boxes.joined.size(), 1U);
  say(b, Offer{0, {}, {box_info(b, 0, 8090).box}});
  boxes = expect<Boxes>(c);
  ASSERT_EQ(boxes.left.size(), 1U);
  EXPECT_EQ(boxes.left[0].agent, PeerId{1});
}

TEST_F(BoxesTest, BoxesOfALostAgentLeave) {
  const Actor c = client();
  Actor b = box_host(1, 8090);
  say(c, Watch{Port{8090}});
  expect<Boxes>(c);
  kill(b);
  EXPECT_EQ(expect<Boxes>(c).left.size(), 1U);
  EXPECT_EQ(removed_sockets.size(), 1U);
  removed_sockets.clear();
}

TEST_F(BoxesTest, UnwatchedPortsAreSilent) {
  const Actor c = client();
  say(c, Watch{Port{8090}});
  expect<Boxes>(c);
  say(c, Unwatch{Port{8090}});
  box_host(1, 8090);
  EXPECT_FALSE(has_message(c));
  EXPECT_TRUE(core.state().watchers.empty());
}

TEST_F(BoxesTest, ABoxDescribedAnewKeepsItsPlace) {
  const Actor b = box_host(1, 8090);
  box_host(2, 8090);
  const Actor c = client();
  say(c, Watch{Port{8090}});
  expect<Boxes>(c);
  BoxInfo info = box_info(b, 0, 8090);
  info.methods.push_back({"injected", kPlainMethod});
  say(b, Offer{0, {info}, {}});
  const Boxes boxes = expect<Boxes>(c);
  ASSERT_EQ(boxes.joined.size(), 1U);
  EXPECT_EQ(boxes.joined[0].joined, 1U);
  EXPECT_EQ(boxes.joined[0].info.methods.size(), 2U);
}

TEST_F(BoxesTest, AReplacedBoxIsAnotherBox) {
  const Actor b = box_host(1, 8090);
  const Actor c = client();
  say(c, Watch{Port{8090}});
  expect<Boxes>(c);
  say(b, Offer{0, {box_info(b, 0, 8090, 1)}, {}});
  const Boxes boxes = expect<Boxes>(c);
  ASSERT_EQ(boxes.left.size(), 1U);
  EXPECT_EQ(boxes.left[0].life, 0U);
  ASSERT_EQ(boxes.joined.size(), 1U);
  EXPECT_EQ(boxes.joined[0].joined, 2U);
}

TEST_F(BoxesTest, TheFirstOfferAfterAReturnIsComplete) {
  Actor w = worker(1, 0);
  say(w, Offer{0, {box_info(w, 0, 8090), box_info(w, 1, 8090)}, {}});
  const Actor c = client();
  say(c, Watch{Port{8090}});
  expect<Boxes>(c);
  cut(w);
  greet(w);
  say(w, Offer{0, {box_info(w, 1, 8090)}, {}});
  const Boxes boxes = expect<Boxes>(c);
  ASSERT_EQ(boxes.left.size(), 1U);
  EXPECT_EQ(boxes.left[0].seat, SeatId{0});
}

TEST_F(BoxesTest, AClientThatReturnsGetsItsSnapshotsAgain) {
  Actor c = client();
  say(c, Watch{Port{8090}});
  expect<Boxes>(c);
  cut(c);
  box_host(1, 8090);
  greet(c);
  const Boxes boxes = expect<Boxes>(c);
  EXPECT_TRUE(boxes.snapshot);
  EXPECT_EQ(boxes.joined.size(), 1U);
}

TEST_F(BoxesTest, ABoxOfSomebodyElseIsAViolation) {
  const Actor w = worker(1, 1);
  BoxInfo info = box_info(w, 0, 8090);
  info.box.agent = PeerId{2};
  say(w, Offer{0, {info}, {}});
  EXPECT_THAT(expect<Refused>(w).text, HasSubstr("somebody else"));
}

TEST_F(BoxesTest, ABoxHostHasNoFunctionSlots) {
  const Actor b = box_host(1, 8090);
  say(b, Offer{1, {}, {}});
  EXPECT_THAT(expect<Refused>(b).text, HasSubstr("no worker"));
}

TEST_F(BoxesTest, ItemsAreSpreadOverTheBoxesOfTheirPort) {
  const Actor c = client();
  const Actor w = worker(1, 4);
  const Actor b1 = box_host(2, 8090);
  const Actor b2 = box_host(3, 8090);
  start_call(c, 1, 2, 8090);
  EXPECT_EQ(expect_first_lease(b2).range, (Range{0, 1}));
  EXPECT_EQ(expect_first_lease(b1).range, (Range{1, 2}));
  EXPECT_FALSE(has_message(w));
}

TEST_F(BoxesTest, ItemsWithoutAnyBoxAreLostAfterAWhile) {
  const Actor c = client();
  start_call(c, 1, 100, 8090);
  pass(kNoBoxGrace - milliseconds(1));
  EXPECT_FALSE(has_message(c));
  pass(milliseconds(2));
  EXPECT_EQ(expect_results(c).size(), 100U);
  const LostItemView lost = expect_lost();
  EXPECT_EQ(lost.code, LostCode::kBoxLost);
  EXPECT_THAT(std::string(lost.detail), HasSubstr("8090"));
  EXPECT_EQ(expect<Settled>(c).stats.settled, 100U);
}

TEST_F(BoxesTest, ABoxThatComesInTimeRunsWhatWaited) {
  const Actor c = client();
  start_call(c, 1, 1, 8090);
  pass(kNoBoxGrace - milliseconds(1));
  const Actor b = box_host(1, 8090);
  pass(seconds(100));
  finish(b, expect_first_lease(b).lease, {0, 1});
  EXPECT_EQ(expect_results(c).size(), 1U);
  expect<Settled>(c);
  expect<DropCall>(b);
}

TEST_F(BoxesTest, ItemsOfTheLastBoxThatDiedAreLostAfterAWhile) {
  const Actor c = client();
  Actor b = box_host(1, 8090);
  start_call(c, 1, 3, 8090);
  expect_leases(b);
  kill(b);
  removed_sockets.clear();
  pass(kNoBoxGrace + milliseconds(1));
  EXPECT_EQ(expect_results(c).size(), 3U);
  expect<Settled>(c);
}

TEST_F(BoxesTest, FunctionsWaitForAWorkerWithoutLimit) {
  const Actor c = client();
  start_call(c, 1, 1);
  pass(seconds(100'000));
  say(c, Explain{1});
  EXPECT_THAT(expect<Explanation>(c).stats.waiting, HasSubstr("betterbox worker"));
  EXPECT_FALSE(has_message(c));
}

TEST_F(BoxesTest, ABoxThatLeavesHandsBackItsItems) {
  const Actor c = client();
  const Actor b1 = box_host(1, 8090);
  start_call(c, 1, 1, 8090);
  const Lease lease = expect_first_lease(b1);
  const Actor b2 = box_host(2, 8090);
  say(b1, Offer{0, {}, {box_info(b1, 0, 8090).box}});
  EXPECT_EQ(expect<Abandon>(b1).lease, lease.lease);
  EXPECT_EQ(expect_first_lease(b2).range, (Range{0, 1}));
}

}  // namespace
}  // namespace betterbox::scheduler
