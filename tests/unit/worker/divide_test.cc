// Who runs what: division, stealing, clients and turns.
#include <algorithm>

#include "tests/unit/worker/worker_fixture.h"

namespace betterbox {
namespace {

class Division : public WorkerFixture {};

TEST_F(Division, GivesIdleSeatsWorkBeforeOthersGetASecondPart) {
  make(4);
  begin(1, call_of(10), {0, 4});
  for (std::uint32_t id = 0; id < 4; ++id) EXPECT_EQ(held(id), 1u) << id;
}

TEST_F(Division, ProbesWithSingleItemsAndThenGivesPartsThatFallAsLessIsLeft) {
  make(2);
  begin(1, call_of(10), {0, 1000});
  EXPECT_EQ(held(0) + held(1), 2u) << "nothing is known";
  run(0);
  start(0);
  turn();
  const std::uint32_t first = held(0);
  EXPECT_GT(first, 100u);
  EXPECT_LT(first, 500u);
  run(1);
  start(1);
  turn();
  EXPECT_GT(held(1), 50u);
  EXPECT_LT(held(1), first);
  run_all(2);
  EXPECT_EQ(landed(1), (std::vector<Range>{{0, 1000}}));
}

TEST_F(Division, GivesTheNextPartBeforeTheLastOneEnds) {
  make(2);
  begin(1, call_of(10), {0, 1000});
  for (int i = 0; i < 20; ++i) {
    run(0), run(1);
    turn();
  }
  while (held(0) > 30) run(0);
  EXPECT_EQ(seat(0).queue.size(), 1u) << "30 ms of work are enough";
  while (held(0) > 10) run(0);
  turn();
  EXPECT_EQ(seat(0).queue.size(), 2u);
  run_all(2);
}

TEST_F(Division, KeepsLongItemsForWhoeverIsFreeFirst) {
  make(2);
  item_time_ = seconds(1);
  begin(1, call_of(10), {0, 4});
  run(0);
  turn();
  EXPECT_EQ(seat(0).queue.size(), 2u) << "the part that has ended, and one item";
  start(0);
  turn();
  EXPECT_EQ(held(0), 0u);
  ASSERT_TRUE(run(1));
  start(1);
  turn();
  ASSERT_TRUE(start(1)) << "the last item was nobody's";
  EXPECT_EQ(core_->steals(), 0u);
  finish(0), finish(1);
  run_all(2);
  EXPECT_EQ(landed(1), (std::vector<Range>{{0, 4}}));
}

TEST_F(Division, SpawnsNoMoreProcessesThanItNeeds) {
  make(8);
  begin(1, call_of(10), {0, 2});
  EXPECT_EQ(spawns_, 2);
}

TEST_F(Division, NeverLetsASeatIdleBetweenParts) {
  make(2);
  begin(1, call_of(10), {0, 400});
  for (int i = 0; i < 150; ++i) {
    for (std::uint32_t id = 0; id < 2; ++id) {
      ASSERT_TRUE(run(id)) << "seat " << id << " had nothing to run";
    }
    turn();
  }
  take_messages();
}

TEST_F(Division, StealsUntouchedItemsForAnIdleSeat) {
  make(2);
  begin(1, call_of(10), {0, 60});
  run(0), run(1);
  turn();
  ASSERT_TRUE(start(0));
  for (int i = 0; core_->steals() == 0; ++i) {
    ASSERT_LT(i, 1000);
    if (start(1)) finish(1);
    turn();
    ASSERT_GT(held(0), 0u);
  }
  EXPECT_GT(held(1), 0u) << "from what seat 0 had";
  run_all(2);
  EXPECT_EQ(landed(1), (std::vector<Range>{{0, 60}}));
  EXPECT_EQ(steals_, core_->steals());
}

TEST_F(Division, GivesAwayWhatWaitsBehindAnItemThatIsLongAmongShortOnes) {
  make(2);
  item_time_ = Duration{100};
  begin(1, call_of(10), {0, 2000});
  for (int i = 0; i < 100; ++i) run(0), run(1);
  turn();
  ASSERT_TRUE(start(0));  // and does not end
  for (int i = 0; i < 10'000 && held(0) + held(1) > 0; ++i) {
    if (start(1)) finish(1);
    pass(milliseconds(1));
  }
  EXPECT_EQ(held(0), 0u) << "beside what it runs";
  finish(0);
  run_all(2);
  EXPECT_EQ(landed(1), (std::vector<Range>{{0, 2000}}));
}

TEST_F(Division, NamedPoliciesNeitherStealNorGiveAheadOfTime) {
  make(2);
  policy_ = "gss";
  begin(1, call_of(10), {0, 100});
  EXPECT_EQ(held(0), 50u);
  EXPECT_EQ(held(1), 25u);
  while (start(1)) finish(1);
  turn();
  EXPECT_EQ(held(1), 13u);
  while (held(1) > 0) run(1);
  while (start(1) || held(1) > 0) {
    if (seat(1).running) finish(1);
    turn();
  }
  EXPECT_EQ(core_->steals(), 0u);
  EXPECT_EQ(held(0), 50u);
  run_all(2);
  EXPECT_EQ(landed(1), (std::vector<Range>{{0, 100}}));
}

TEST_F(Division, GivesPartsOfEqualCostWhereCostsAreKnown) {
  make(2);
  context(call_of(10));
  std::vector<float> costs;
  for (int i = 0; i < 200; ++i) costs.push_back(i < 100 ? 9.0F : 1.0F);
  feed(LeaseGranted{{{1}, call_of(10), {0, 200}, 1, {{0, 200}}, std::move(costs)},
                    {make_int_range_page(0, 1, 200)}});
  turn();
  run(0);
  start(0);
  turn();
  EXPECT_GT(held(0), 10u);
  EXPECT_LT(held(0), 50u) << "a quarter of the cost is less than a quarter of the items";
  run_all(2);
  EXPECT_EQ(landed(1), (std::vector<Range>{{0, 200}}));
}

TEST_F(Division, GivesAllBackWhoseCostsAreNone) {
  make(1);
  context(call_of(10));
  feed(LeaseGranted{{{1}, call_of(10), {0, 2}, 1, {{0, 2}}, {1.0F}}, {make_int_range_page(0, 1, 2)}});
  feed(LeaseGranted{{{2}, call_of(10), {0, 2}, 1, {{0, 2}}, {1.0F, -1.0F}}, {make_int_range_page(0, 1, 2)}});
  EXPECT_EQ(take<Released>().size(), 2u);
}

TEST_F(Division, StealsHalfOfARunningTail) {
  // A box at a port: the second instance comes while the first has everything.
  make(0, true);
  feed(SeatOpened{{8090}, Frame()});
  ready(0);
  begin(2, call_of(10), {0, 64}, {8090});
  start(0);
  EXPECT_EQ(held(0), 63u);
  feed(SeatOpened{{8090}, Frame()});
  ready(1);
  turn();
  EXPECT_GT(held(0) + held(1), 30u);
  EXPECT_GT(held(1), 0u);
  finish(0);
  run_all(2);
  EXPECT_EQ(landed(2), (std::vector<Range>{{0, 64}}));
  take<Offer>();
}

TEST_F(Division, DoesNotStealForeverFromASeatThatHasNothingLeft) {
  make(2);
  begin(1, call_of(10), {0, 2});
  start(0);
  finish(0, false);  // done, but nobody has heard of it
  run(1);
  start(1);
  turn();
  const int cuts = cuts_;
  turn();
  turn();
  EXPECT_EQ(cuts_, cuts);
  progress(0, 0, 0);
  run_all(2);
  EXPECT_EQ(landed(1), (std::vector<Range>{{0, 2}}));
}

TEST_F(Division, SendsAContextOncePerProcess) {
  make(1);
  begin(1, call_of(10), {0, 4});
  lease(2, call_of(10), {4, 8});
  run_all(1);
  EXPECT_EQ(landed(2), (std::vector<Range>{{4, 8}}));
  EXPECT_EQ(spawns_, 1);
}

TEST_F(Division, ForksAfreshForAnotherClient) {
  make(1);
  begin(1, call_of(10), {0, 1});
  run_all(1);
  feed(CallDropped{call_of(10)});
  begin(2, call_of(20), {0, 1});
  EXPECT_EQ(spawns_, 2);
  EXPECT_EQ(discards_, 1);
  EXPECT_EQ(seat(0).contexts, (std::set<CallId>{call_of(20)}));
  run_all(1);
  EXPECT_EQ(landed(2), (std::vector<Range>{{0, 1}}));
}

TEST_F(Division, KeepsTheProcessForTheSameClient) {
  make(1);
  begin(1, call_of(10, 1), {0, 1});
  run_all(1);
  feed(CallDropped{call_of(10, 1)});
  begin(2, call_of(10, 2), {0, 1});
  EXPECT_EQ(spawns_, 1);
  run_all(1);
}

TEST_F(Division, ForksAfreshForACallWhoseSlotsAreStartedWithOtherThings) {
  make(1);
  birth_ = 7;
  begin(1, call_of(10, 1), {0, 1});
  EXPECT_EQ(seat(0).payload.substr(24), "here") << "what the slot is to be at its start";
  run_all(1);
  begin(2, call_of(10, 2), {0, 1});
  run_all(1);
  EXPECT_EQ(spawns_, 1);
  birth_ = 8;
  begin(3, call_of(10, 3), {0, 1});
  EXPECT_EQ(spawns_, 2);
  EXPECT_EQ(seat(0).contexts, (std::set<CallId>{call_of(10, 3)}));
  run_all(1);
  EXPECT_EQ(landed(3), (std::vector<Range>{{0, 1}}));
  for (std::uint64_t serial = 1; serial < 4; ++serial) feed(CallDropped{call_of(10, serial)});
  core_->sanity_check();
}

TEST_F(Division, KeepsTheProcessForWhoMakesCallsInAnItemOfItsClient) {
  make(1);
  birth_ = 7;
  begin(1, call_of(10), {0, 1});
  run_all(1);
  begin(2, call_of(11), {0, 1});
  run_all(1);
  EXPECT_EQ(spawns_, 1) << "the same birth is the same family";
  feed(CallDropped{call_of(10)});
  begin(3, call_of(12), {0, 1});
  run_all(1);
  EXPECT_EQ(spawns_, 1);
  feed(CallDropped{call_of(11)});
  feed(CallDropped{call_of(12)});
  core_->sanity_check();
}

TEST_F(Division, TakesAContextWithABrokenHeadForOneWithout) {
  make(1);
  context(call_of(10));
  const std::uint64_t numbers[3] = {7, 0, ~std::uint64_t{0}};
  feed(ContextArrived{{call_of(11), kFunctionPool, "f"},
                      Frame(std::string(reinterpret_cast<const char*>(numbers), sizeof numbers))});
  lease(1, call_of(11), {0, 1});
  turn();
  EXPECT_EQ(seat(0).payload, "");
  run_all(1);
}

TEST_F(Division, GivesIdleProcessesUpAfterAWhile) {
  make(1);
  begin(1, call_of(10), {0, 1});
  run_all(1);
  pass(kIdleSeatLife);
  EXPECT_EQ(discards_, 1);
  begin(2, call_of(10), {1, 2});
  EXPECT_EQ(spawns_, 2);
  run_all(1);
}

TEST_F(Division, GivesACallOfTheSameClientTheNextPlace) {
  make(1);
  begin(1, call_of(10, 1), {0, 100});
  start(0);
  begin(2, call_of(10, 2), {0, 1});
  pass(kSwitchInterval);  // both places are taken by the first call: it has to yield
  finish(0);
  EXPECT_FALSE(start(0));
  turn();
  ASSERT_TRUE(start(0));
  EXPECT_EQ(seat(0).stations[seat(0).queue.front()].call, call_of(10, 2));
  finish(0);
  run_all(1);
  EXPECT_EQ(landed(1), (std::vector<Range>{{0, 100}}));
  EXPECT_EQ(landed(2), (std::vector<Range>{{0, 1}}));
}

TEST_F(Division, TakesASeatFromACallThatHasMoreThanItsShare) {
  make(2);
  begin(1, call_of(10), {0, 1000});
  start(0);
  start(1);
  begin(2, call_of(20), {0, 1000});
  EXPECT_EQ(core_->next_deadline(), now_ + kSwitchInterval);
  pass(kSwitchInterval);
  finish(0);
  finish(1);
  start(0);
  start(1);
  turn();
  std::set<CallId> running;
  for (std::uint32_t id = 0; id < 2; ++id) {
    start(id);
    ASSERT_FALSE(seat(id).queue.empty());
    running.insert(seat(id).stations[seat(id).queue.front()].call);
  }
  EXPECT_EQ(running.size(), 2u);
  for (std::uint32_t id = 0; id < 2; ++id) {
    if (seat(id).running) finish(id);
  }
  run_all(2);
  EXPECT_EQ(landed(1), (std::vector<Range>{{0, 1000}}));
  EXPECT_EQ(landed(2), (std::vector<Range>{{0, 1000}}));
}

TEST_F(Division, ChangesClientsOfASeatNoFasterThanTheInterval) {
  make(1);
  begin(1, call_of(10), {0, 100'000});
  begin(2, call_of(20), {0, 100'000});
  int switches = 0;
  CallId last{};
  for (int i = 0; i < 1000; ++i) {
    start(0);
    if (seat(0).running) {
      const CallId call = seat(0).stations[seat(0).queue.front()].call;
      switches += call != last;
      last = call;
      finish(0);
    }
    pass(milliseconds(1));
  }
  EXPECT_GE(switches, 5);
  EXPECT_LE(switches, 12);
  unread_allowed_ = true;
}

TEST_F(Division, NeverGivesWhatIsBeingGivenBack) {
  make(2);
  begin(1, call_of(10), {0, 1000});
  start(0);
  start(1);
  feed(RevokeAsked{{1}, 900});
  const auto released = take<Released>();
  ASSERT_EQ(released.size(), 1u);
  RangeSet back;
  for (const Range& r : released[0].ranges) back.insert(r);
  EXPECT_EQ(back.size(), 900u);
  finish(0);
  finish(1);
  run_all(2);
  EXPECT_EQ(landed_[{1}].size(), 100u);
  for (const Range& r : landed(1)) EXPECT_TRUE(back.intersection(r).empty());
}

TEST_F(Division, LimitsAPartByItsBytes) {
  make(1);
  context(call_of(10));
  const std::string large(kChunkBytes / 2, 'x');
  Lease lease{{1}, call_of(10), {0, 8}, 1, {}};
  Frames pages;
  for (std::uint64_t i = 0; i < 8; ++i) {
    lease.spans.push_back({i, 1});
    pages.push_back(make_single_page(std::as_bytes(std::span(large))));
  }
  feed(LeaseGranted{std::move(lease), std::move(pages)});
  turn();
  EXPECT_LE(seat(0).stations[0].word.position().end, 2u);
  run_all(1);
}

}  // namespace
}  // namespace betterbox
