// Items that wait for calls of their own lend their places.
#include <algorithm>

#include "tests/unit/worker/worker_fixture.h"

namespace betterbox {
namespace {

class Lending : public WorkerFixture {
 protected:
  void SetUp() override { unread_allowed_ = true; }
  void nested(std::uint64_t lease_id, CallId call, std::uint32_t depth, std::uint64_t items) {
    Context context{call, kFunctionPool, "f", false, policy_, priority_, needs_};
    context.depth = depth;
    feed(ContextArrived{std::move(context), Frame(std::string("context"))});
    lease(lease_id, call, {0, items});
  }
  void waits(std::uint32_t id, bool on = true) { feed(SeatWaits{{id}, seat(id).life, on}); }
  std::uint32_t seats() const { return core_->next_seat().value; }

  // --- items that call others, and wait for these ---

  struct Item {
    CallId call;
    bool waiting = false;
  };
  struct Calling {
    std::uint32_t depth = 0, left = 0;
    std::optional<std::uint32_t> caller;  // the seat that waits for it
  };
  void open(std::uint32_t depth, std::uint32_t items, std::optional<std::uint32_t> caller) {
    const CallId call = call_of(caller ? 1000 + 1000 * seat(*caller).life + *caller : 10, ++calls_made_);
    calls_[call] = {depth, items, caller};
    nested(calls_made_, call, depth, items);
    deepest_ = std::max(deepest_, depth);
  }
  /// Runs until nothing does any more; an item of depth d makes `fan(d)` others and waits for them.
  template <class Fan> void run_nested(Fan fan) {
    for (int idle = 0; idle < 3;) {
      bool any = false;
      for (std::uint32_t id = 0; id < seats(); ++id) any = step(id, fan) || any;
      read_outcomes();
      pass(milliseconds(1));
      idle = any ? 0 : idle + 1;
    }
  }
  template <class Fan> bool step(std::uint32_t id, Fan fan) {
    if (!seats_.contains({id}) || !seat(id).alive) return false;
    const auto at = items_.find(id);
    if (at == items_.end()) {
      if (!start(id)) return false;
      Item& item = items_[id];
      item.call = seat(id).stations[seat(id).queue.front()].call;
      const std::uint32_t depth = calls_.at(item.call).depth;
      if (const std::uint32_t items = fan(depth); items > 0) {
        item.waiting = true;
        open(depth + 1, items, id);
        waits(id);
        most_waiting_ = std::max(most_waiting_, ++waiting_);
      }
      return true;
    }
    if (at->second.waiting) return false;
    const CallId call = at->second.call;
    items_.erase(at);
    finish(id);
    ++finished_;
    Calling& calling = calls_.at(call);
    if (--calling.left > 0) return true;
    feed(CallDropped{call});
    if (!calling.caller) return true;
    waits(*calling.caller, false);
    items_.at(*calling.caller).waiting = false;
    --waiting_;
    return true;
  }

  std::map<CallId, Calling> calls_;
  std::map<std::uint32_t, Item> items_;
  std::uint64_t calls_made_ = 0, finished_ = 0;
  std::uint32_t waiting_ = 0, most_waiting_ = 0, deepest_ = 0;
};

TEST_F(Lending, AThousandItemsThatEachMapTenFinishOnTwoSlotsWithFewSeats) {
  make(2);
  open(0, 1000, std::nullopt);
  run_nested([](std::uint32_t depth) { return depth == 0 ? 10U : 0U; });
  EXPECT_EQ(finished_, 11'000u);
  EXPECT_LE(most_waiting_, 2u);
  EXPECT_LE(seats(), 6u);
}

TEST_F(Lending, ARecursionTakesASeatForEachLevelAndSlot) {
  for (const std::uint32_t slots : {1U, 2U}) {
    make(slots);
    finished_ = 0, most_waiting_ = 0;
    open(0, 1, std::nullopt);
    run_nested([](std::uint32_t depth) { return depth < 50 ? 1U : 0U; });
    EXPECT_EQ(finished_, 51u);
    EXPECT_EQ(most_waiting_, 50u);
    seats_.clear(), calls_.clear(), items_.clear(), landed_.clear();
  }
}

TEST_F(Lending, ATreeIsGoneThroughDepthFirst) {
  make(2);
  open(0, 3, std::nullopt);
  run_nested([](std::uint32_t depth) { return depth < 5 ? 3U : 0U; });
  EXPECT_EQ(finished_, 1092u);
  EXPECT_LE(most_waiting_, 2u * 5);
}

TEST_F(Lending, NestedItemsRunInThePlaceAndAnotherSeat) {
  make(1);
  begin(1, call_of(10), {0, 3});
  start(0);
  waits(0);
  turn();
  EXPECT_EQ(spawns_, 1) << "nobody wants the place";
  nested(2, call_of(20), 1, 2);
  turn();
  EXPECT_EQ(spawns_, 2);
  EXPECT_EQ(run(1), 0u);
  turn();
  EXPECT_EQ(run(1), 1u);
  waits(0, false);
  finish(0);
  run_all(2);
  EXPECT_EQ(landed(1), (std::vector<Range>{{0, 3}}));
  EXPECT_EQ(landed(2), (std::vector<Range>{{0, 2}}));
}

TEST_F(Lending, WhatWaitsBehindTheItemGoesToOthersWhateverThePolicy) {
  make(2);
  policy_ = "static";
  begin(1, call_of(10), {0, 10});
  EXPECT_EQ(held(0), 5u);
  start(0);
  waits(0);
  EXPECT_EQ(held(0), 0u);
  for (int i = 0; i < 20; ++i) {
    while (run(1)) {}
    pass(milliseconds(20));
  }
  read_outcomes();
  EXPECT_EQ(landed(1), (std::vector<Range>{{1, 10}}));
  waits(0, false);
  finish(0);
  run_all(2);
}

TEST_F(Lending, ItemsOfOneDepthWaitUntilNothingElseHasWantedThePlaceForLong) {
  make(1);
  begin(1, call_of(10), {0, 5});
  start(0);
  waits(0);
  turn();
  pass(milliseconds(900));
  EXPECT_EQ(spawns_, 1);
  EXPECT_LE(core_->next_deadline(), now_ + milliseconds(100));
  pass(milliseconds(100));
  EXPECT_EQ(spawns_, 2) << "it may be the one that the other waits for";
  start(1);
  waits(1);
  turn();
  pass(milliseconds(1900));
  EXPECT_EQ(spawns_, 2) << "each further one later";
  pass(milliseconds(100));
  EXPECT_EQ(spawns_, 3);
  waits(0, false), waits(1, false);
  finish(0), finish(1);
  run_all(3);
  EXPECT_EQ(landed(1), (std::vector<Range>{{0, 5}}));
  take_messages();
}

TEST_F(Lending, AnItemThatGoesOnIsOneTooManyUntilASeatIsFree) {
  make(1);
  begin(1, call_of(10), {0, 2});
  start(0);
  waits(0);
  nested(2, call_of(20), 1, 3);
  turn();
  start(1);
  waits(0, false);
  turn();
  finish(1);
  EXPECT_FALSE(start(1));
  turn();
  EXPECT_FALSE(start(1)) << "the place is the first one's again";
  finish(0);
  turn();
  run_all(2);
  EXPECT_EQ(landed(2), (std::vector<Range>{{0, 3}}));
}

TEST_F(Lending, AllPlacesAreUsedWhileSomeItemsWait) {
  make(3);
  begin(1, call_of(10), {0, 9});
  start(0), start(1), start(2);
  waits(0);
  nested(2, call_of(20), 1, 1);
  turn();
  EXPECT_TRUE(start(3)) << "three run, and one waits";
  finish(1);
  EXPECT_FALSE(start(1));
  turn();
  EXPECT_TRUE(start(1)) << "not more than three of this depth have begun";
  waits(0, false);
  run_all(4);
  EXPECT_EQ(landed(1), (std::vector<Range>{{0, 9}}));
}

TEST_F(Lending, CpusAreGivenBackAndMemoryIsKept) {
  core_.emplace(WorkerCore::Options{kSelf, 2, false, Resources{2000, 100, 0, {}}, {}});
  feed(SessionBegan{kScheduler, {}});
  take_messages();
  needs_ = Resources{2000, 60, 0, {}};
  begin(1, call_of(10), {0, 1});
  start(0);
  waits(0);
  needs_ = Resources{2000, 40, 0, {}};
  nested(2, call_of(20), 1, 1);
  turn();
  EXPECT_TRUE(start(1));
  finish(1);
  start(1);
  needs_ = Resources{1000, 60, 0, {}};
  nested(3, call_of(30), 1, 1);
  turn();
  EXPECT_EQ(held(1), 0u) << "memory is not there";
  waits(0, false);
  finish(0);
  run_all(3);
  EXPECT_EQ(landed(3), (std::vector<Range>{{0, 1}}));
}

TEST_F(Lending, ASeatThatDiesWhileItWaitsLeavesItsPlace) {
  make(1);
  begin(1, call_of(10), {0, 1});
  ready(0);
  start(0);
  waits(0);
  turn();
  die(0);
  turn();
  read_outcomes();
  EXPECT_EQ(lost_[{1}].size(), 1u);
  begin(2, call_of(10, 2), {0, 1});
  run_all(2);
  EXPECT_EQ(landed(2), (std::vector<Range>{{0, 1}}));
}

TEST_F(Lending, AModuleThatCallsWhileItIsImportedLendsThePlace) {
  make(1);
  begin(1, call_of(10), {0, 2});
  waits(0);  // nothing is claimed yet
  nested(2, call_of(20), 1, 1);
  turn();
  EXPECT_EQ(run(1), 0u);
  start(1);
  waits(0, false);
  run_all(2);
  EXPECT_EQ(landed(1), (std::vector<Range>{{0, 2}}));
}

TEST_F(Lending, TheSchedulerHearsHowManyWait) {
  make(2);
  pass(seconds(1));
  begin(1, call_of(10), {0, 4});
  start(0), start(1);
  waits(0), waits(1);
  turn();
  const auto loads = take<Load>();
  ASSERT_EQ(loads.size(), 1u);
  EXPECT_EQ(loads[0].waiting_slots, 2u);
  EXPECT_TRUE(loads[0].lends);
  waits(0, false), waits(1, false);
  turn();
  EXPECT_TRUE(take<Load>().empty()) << "not at once again";
  pass(milliseconds(100));
  EXPECT_EQ(take<Load>().at(0).waiting_slots, 0u);
  finish(0), finish(1);
  run_all(2);
}

TEST_F(Lending, AThreadHasNoPlaceToLend) {
  make(1, true);
  pass(seconds(1));
  begin(1, call_of(10), {0, 1});
  start(0);
  waits(0);
  nested(2, call_of(20), 1, 1);
  turn();
  EXPECT_EQ(spawns_, 1);
  EXPECT_FALSE(take<Load>().at(0).lends);
  waits(0, false);
  finish(0);
  pass(milliseconds(200));
  run_all(1);
  EXPECT_EQ(landed(2), (std::vector<Range>{{0, 1}}));
  take_messages();
}

TEST_F(Lending, NoMoreSeatsAreMadeThanTheBound) {
  make(1);
  checks_each_event_ = false;
  open(0, 1, std::nullopt);
  run_nested([](std::uint32_t) { return 1U; });
  EXPECT_EQ(seats(), 1 + kMaxWaitingSeats);
  EXPECT_EQ(waiting_, 1 + kMaxWaitingSeats);
  pass(seconds(1));
  bool told = false;
  for (const Load& load : take<Load>()) told = !load.lends;
  EXPECT_TRUE(told);
}

}  // namespace
}  // namespace betterbox
