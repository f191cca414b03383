// Items that wait for calls of their own, and waits that can never end.
#include "tests/unit/scheduler/bus_fixture.h"

namespace betterbox::scheduler {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// --- cycles -----------------------------------------------------------------------------------------

BoxId box(std::uint64_t agent) { return {PeerId{agent}, SeatId{0}, 0}; }
WaitId wait_of(std::uint64_t client) { return {PeerId{client}, 1}; }
std::vector<const Waits*> cycle(const WaitTable& table, std::uint64_t client) {
  return table.cycle_through(wait_of(client), [](CallId) { return BoxId{}; });
}

TEST(WaitTableTest, ABoxThatWaitsForItselfIsACycleOfOne) {
  WaitTable table;
  table.put(wait_of(1), {1, box(1), {}, {box(2), box(1)}, {}});
  EXPECT_THAT(cycle(table, 1), SizeIs(1));
}

TEST(WaitTableTest, FindsTheShortestCycleWhoeverCloses) {
  WaitTable table;
  table.put(wait_of(1), {1, box(1), {}, {box(2), box(3)}, {}});
  table.put(wait_of(2), {1, box(2), {}, {box(3)}, {}});
  EXPECT_THAT(cycle(table, 1), IsEmpty());
  table.put(wait_of(3), {1, box(3), {}, {box(1)}, {}});
  const auto found = cycle(table, 3);
  ASSERT_THAT(found, SizeIs(2));
  EXPECT_EQ(found[0]->box, box(3));
  EXPECT_EQ(found[1]->box, box(1));
  EXPECT_THAT(cycle(table, 2), SizeIs(3));
}

TEST(WaitTableTest, AChainThatComesToNobodyWhoWaitsIsNone) {
  WaitTable table;
  table.put(wait_of(1), {1, box(1), {}, {box(2)}, {}});
  table.put(wait_of(2), {1, box(2), {}, {box(3)}, {}});
  EXPECT_THAT(cycle(table, 1), IsEmpty());
  table.put(wait_of(3), {1, box(3), {}, {box(1)}, {}});
  table.erase(wait_of(2));
  EXPECT_THAT(cycle(table, 3), IsEmpty());
  table.erase_client(PeerId{1});
  table.erase_client(PeerId{3});
  EXPECT_TRUE(table.empty());
}

TEST(WaitTableTest, GoesRoundOverCalls) {
  WaitTable table;
  table.put(wait_of(1), {1, box(1), {}, {}, {7}});
  table.put(wait_of(2), {1, {}, {PeerId{1}, 7}, {box(1)}, {}});
  EXPECT_THAT(cycle(table, 2), SizeIs(2));
  table.put(wait_of(2), {1, {}, {PeerId{5}, 7}, {box(1)}, {}});
  EXPECT_THAT(cycle(table, 2), IsEmpty()) << "another client's call 7";
}

TEST(WaitTableTest, TakesNoMoreOfAClientThanItMayHave) {
  WaitTable table;
  for (std::uint64_t i = 1; i <= 256; ++i)
    EXPECT_TRUE(table.put({PeerId{1}, i}, {i, box(1), {}, {box(2)}, {}}));
  EXPECT_TRUE(table.put({PeerId{1}, 256}, {256, box(1), {}, {box(3)}, {}})) << "a newer word of the same";
  EXPECT_FALSE(table.put({PeerId{1}, 257}, {257, box(1), {}, {box(2)}, {}}));
  EXPECT_TRUE(table.put({PeerId{2}, 1}, {1, box(1), {}, {box(2)}, {}}));
}

class WaitsTest : public BusTest {};

TEST_F(WaitsTest, ACycleThatLastsIsShownToWhoClosedIt) {
  const Actor a = box_host(1, 80), b = box_host(2, 81);
  const Actor of_a = client(11), of_b = client(12);
  say(of_a, Waits{1, box_info(a, 0, 80).box, {}, {box_info(b, 0, 81).box}, {}});
  say(of_b, Waits{4, box_info(b, 0, 81).box, {}, {box_info(a, 0, 80).box}, {}});
  EXPECT_FALSE(has_message(of_b)) << "a word that it is over may be on its way";
  pass(milliseconds(200));
  const Deadlock told = expect<Deadlock>(of_b);
  EXPECT_EQ(told.number, 4U);
  EXPECT_THAT(told.text,
              HasSubstr("box ABox at port 81 (pid 102 on here, slot 0) waits for box ABox at port 80 "));
  EXPECT_THAT(told.text, HasSubstr("which waits for box ABox at port 81"));
}

TEST_F(WaitsTest, NamesInAShownCycleAreOneVisibleLine) {
  const Actor a = box_host(1, 80);
  BoxInfo info = box_info(a, 1, 80);
  info.class_name = "Box\x1b[2J\nforged";
  say(a, Offer{0, {info}, {}});
  const Actor c = client(11);
  say(c, Waits{1, info.box, {}, {info.box}, {}});
  pass(milliseconds(200));
  EXPECT_THAT(expect<Deadlock>(c).text, HasSubstr("box Box\\x1b[2J\\nforged at port 80"));
}

TEST_F(WaitsTest, AWaitThatEndsInTimeWasNoCycle) {
  const Actor a = box_host(1, 80);
  const Actor c = client(11);
  say(c, Waits{1, box_info(a, 0, 80).box, {}, {box_info(a, 0, 80).box}, {}});
  pass(milliseconds(100));
  say(c, Waits{1, {}, {}, {}, {}});
  pass(seconds(1));
  EXPECT_FALSE(has_message(c));
}

TEST_F(WaitsTest, WaitsEndWithTheirSession) {
  const Actor a = box_host(1, 80);
  Actor c = client(11);
  say(c, Waits{1, box_info(a, 0, 80).box, {}, {box_info(a, 0, 80).box}, {}});
  cut(c);
  greet(c);
  pass(seconds(1));
  EXPECT_FALSE(has_message(c));
  EXPECT_TRUE(core.state().waits.empty());
}

TEST_F(WaitsTest, ABoxThatSpreadsOverItselfAloneWaitsForItself) {
  const Actor a = box_host(1, 80);
  const Actor c = client(11);
  start_call(c, 1, 1, 80);
  expect_leases(a);
  say(c, Waits{1, box_info(a, 0, 80).box, {}, {}, {1}});
  pass(milliseconds(200));
  EXPECT_THAT(expect<Deadlock>(c).text, HasSubstr("waits for itself"));
}

// --- places that are lent -----------------------------------------------------------------------------

TEST_F(WaitsTest, DeeperCallsAreGrantedFirst) {
  const Actor c = client(10), d = client(11);
  start_call(c, 1, 1);
  Call call;
  call.serial = 1;
  call.depth = 1;
  open(d, call);
  add_items(d, 1, {0, 1}, true);
  const Actor w = worker(1, 1);
  const auto context = expect<Context>(w);
  EXPECT_EQ(context.call.client, PeerId{11});
  EXPECT_EQ(context.depth, 1U);
  const Lease first = expect<Lease>(w);
  EXPECT_THAT(expect_leases(w), SizeIs(1));
  finish(w, first.lease, {0, 1});
  expect_results(d);
  expect<Settled>(d);
  expect<DropCall>(w);
}

TEST_F(WaitsTest, AWorkerWhoseItemsWaitTakesAsManyMoreLeases) {
  const Actor w = worker(1, 1);
  const Actor c = client();
  std::uint64_t serial = 0;
  for (std::size_t i = 0; i < kMinLeasesPerWorker + 10; ++i) start_call(c, ++serial, 1);
  EXPECT_THAT(expect_leases(w), SizeIs(kMinLeasesPerWorker));
  Load load;
  load.waiting_slots = 2;
  say(w, load);
  EXPECT_THAT(expect_leases(w), SizeIs(4));
  load.waiting_slots = 5;
  load.lends = false;
  say(w, load);
  EXPECT_THAT(expect_leases(w), IsEmpty());
}

TEST_F(WaitsTest, NestedCallsFailWhereEverySlotWaitsAndLendsNothing) {
  const Actor w = worker(1, 1), v = worker(2, 1);
  const Actor c = client(10), d = client(11);
  start_call(c, 1, 2);
  expect_leases(w), expect_leases(v);
  Call call;
  call.serial = 1;
  call.depth = 1;
  open(d, call);
  add_items(d, 1, {0, 1}, true);
  expect_leases(w), expect_leases(v);
  Load load;
  load.waiting_slots = 1;
  load.lends = false;
  say(w, load);
  pass(seconds(10));
  EXPECT_FALSE(has_message(d)) << "the other one may run it";
  say(v, load);
  pass(seconds(5));
  expect_results(d);
  EXPECT_EQ(expect_lost().code, LostCode::kDeadlock);
  forget_unread();
}

TEST_F(WaitsTest, ExplainsThatItemsWaitForCallsOfTheirOwn) {
  const Actor w = worker(1, 2);
  const Actor c = client();
  start_call(c, 1, 4);
  expect_leases(w);
  Load load;
  load.waiting_slots = 2;
  say(w, load);
  say(c, Explain{1});
  EXPECT_THAT(
      expect<Explanation>(c).stats.waiting,
      HasSubstr("2 items that have begun wait for calls of their own, which run in their places first"));
  load.lends = false;
  say(w, load);
  say(c, Explain{1});
  EXPECT_THAT(expect<Explanation>(c).stats.waiting, HasSubstr("no more places can be lent"));
}

}  // namespace
}  // namespace betterbox::scheduler
