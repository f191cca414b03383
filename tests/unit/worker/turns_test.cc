// Several calls at one worker: priorities, needs, and items that run twice at a time.
#include <algorithm>

#include "tests/unit/worker/worker_fixture.h"
#include "worker/slot_protocol.h"

namespace betterbox {
namespace {

class Turns : public WorkerFixture {
 protected:
  std::uint32_t running(CallId call, std::uint32_t seats) {
    std::uint32_t count = 0;
    for (std::uint32_t id = 0; id < seats; ++id) {
      if (!seats_.contains({id})) continue;
      start(id);
      count += seat(id).running && seat(id).stations[seat(id).queue.front()].call == call;
    }
    return count;
  }
  /// What runs ends, and the next things start.
  void one_round(std::uint32_t seats) {
    for (std::uint32_t id = 0; id < seats; ++id) {
      if (seats_.contains({id}) && seat(id).running) finish(id);
    }
    for (std::uint32_t id = 0; id < seats; ++id) {
      if (seats_.contains({id})) start(id);
    }
    now_ = now_ + milliseconds(1);
    turn();
  }
  void make_with(std::uint32_t slots, Resources capacity) {
    core_.emplace(WorkerCore::Options{kSelf, slots, false, std::move(capacity)});
    feed(SessionBegan{kScheduler, {}});
    take_messages();
  }
};

TEST_F(Turns, GiveAHigherPriorityEverySeatThatItCanUseAtOnce) {
  make(4);
  begin(1, call_of(10), {0, 1000});
  one_round(4), one_round(4);
  priority_ = 1;
  begin(2, call_of(20), {0, 3});
  one_round(4), one_round(4);
  EXPECT_EQ(running(call_of(20), 4), 3u) << "no 100 ms were waited for";
  one_round(4), one_round(4);
  EXPECT_EQ(running(call_of(10), 4), 4u);
  run_all(4);
  EXPECT_EQ(landed(1), (std::vector<Range>{{0, 1000}}));
  EXPECT_EQ(landed(2), (std::vector<Range>{{0, 3}}));
}

TEST_F(Turns, GiveALowerPriorityNothingWhileAHigherOneHasMore) {
  make(2);
  priority_ = 5;
  begin(1, call_of(10), {0, 1000});
  priority_ = -5;
  begin(2, call_of(20), {0, 10});
  for (int i = 0; i < 300; ++i) one_round(2);
  EXPECT_EQ(running(call_of(10), 2), 2u);
  run_all(2);
  EXPECT_EQ(landed(2), (std::vector<Range>{{0, 10}}));
}

TEST_F(Turns, RunNoMoreItemsThanTheirNeedsAllow) {
  make(4);
  needs_.cpus_milli = 2000;
  begin(1, call_of(10), {0, 20});
  EXPECT_EQ(running(call_of(10), 4), 2u);
  for (int i = 0; i < 5; ++i) {
    one_round(4);
    EXPECT_LE(running(call_of(10), 4), 2u);
  }
  run_all(4);
  EXPECT_EQ(landed(1), (std::vector<Range>{{0, 20}}));
}

TEST_F(Turns, CountMemoryAndNamedResources) {
  make_with(4, {4000, 10U << 20, 0, {{"licence", 1000}}});
  needs_ = {1000, 4U << 20, 0, {}};
  begin(1, call_of(10), {0, 3});
  EXPECT_EQ(running(call_of(10), 4), 2u);
  needs_ = {1000, 0, 0, {{"licence", 500}}};
  begin(2, call_of(10, 2), {0, 8});
  EXPECT_EQ(running(call_of(10, 2), 4), 2u) << "two halves of a licence";
  run_all(4);
  EXPECT_EQ(landed(1), (std::vector<Range>{{0, 3}}));
  EXPECT_EQ(landed(2), (std::vector<Range>{{0, 8}}));
}

TEST_F(Turns, GiveBackWhatNeedsMoreThanThereIs) {
  make(2);
  needs_.cpus_milli = 3000;
  begin(1, call_of(10), {0, 4});
  const auto released = take<Released>();
  ASSERT_EQ(released.size(), 1u);
  EXPECT_EQ(released[0].ranges, (std::vector<Range>{{0, 4}}));
}

TEST_F(Turns, MakeRoomForACallWhoseItemsNeedManySeats) {
  make(4);
  needs_.cpus_milli = 1000;
  begin(1, call_of(10), {0, 1000});
  for (int i = 0; i < 10; ++i) one_round(4);
  needs_.cpus_milli = 4000;
  begin(2, call_of(20), {0, 2});
  int rounds = 0;
  while (running(call_of(20), 4) == 0 && ++rounds < 300) one_round(4);
  EXPECT_LT(rounds, 250);
  EXPECT_EQ(running(call_of(10), 4), 0u);
  run_all(4);
  EXPECT_EQ(landed(1), (std::vector<Range>{{0, 1000}}));
  EXPECT_EQ(landed(2), (std::vector<Range>{{0, 2}}));
}

TEST_F(Turns, OfferWhatThereIs) {
  core_.emplace(WorkerCore::Options{kSelf, 3, false, {}});
  feed(SessionBegan{kScheduler, {}});
  auto offers = take<Offer>();
  ASSERT_EQ(offers.size(), 1u);
  EXPECT_EQ(offers[0].capacity.cpus_milli, 3000u);
  EXPECT_EQ(offers[0].capacity.memory_bytes, kAnyMemory);
  make_with(1, {500, 7, 2000, {{"licence", 3000}}});
  feed(SessionBegan{kScheduler, {}});
  offers = take<Offer>();
  ASSERT_EQ(offers.size(), 1u);
  EXPECT_EQ(offers[0].capacity.cpus_milli, 500u);
  EXPECT_EQ(offers[0].capacity.named.size(), 1u);
}

// --- GPUs ----------------------------------------------------------------------------------------

class Devices : public Turns {
 protected:
  void make_gpus(std::uint32_t slots, std::vector<std::string> names) {
    Resources capacity{std::uint64_t{1000} * slots, kAnyMemory, 1000 * names.size(), {}};
    core_.emplace(WorkerCore::Options{kSelf, slots, false, std::move(capacity), std::move(names)});
    feed(SessionBegan{kScheduler, {}});
    take_messages();
  }
  /// What the process in this seat was told.
  std::string sees(std::uint32_t id) {
    return seat(id).head.size() > sizeof(SlotInit) ? seat(id).head.substr(sizeof(SlotInit)) : "";
  }
};

TEST_F(Devices, AreNotSpokenOfWhereThereAreNone) {
  make(1);
  begin(1, call_of(10), {0, 1});
  EXPECT_EQ(sees(0), "");
  run_all(1);
}

TEST_F(Devices, AreSharedEvenlyByWhoAsksForNone) {
  make_gpus(4, {"3", "5"});
  begin(1, call_of(10), {0, 4});
  EXPECT_EQ(sees(0), "CUDA_VISIBLE_DEVICES=3\n");
  EXPECT_EQ(sees(1), "CUDA_VISIBLE_DEVICES=5\n");
  EXPECT_EQ(sees(2), "CUDA_VISIBLE_DEVICES=3\n");
  run_all(4);
}

TEST_F(Devices, BelongToOneItemThatNeedsThemWhole) {
  make_gpus(4, {"0", "1", "2"});
  needs_ = {1000, 0, 1000, {}};
  begin(1, call_of(10), {0, 20});
  EXPECT_EQ(running(call_of(10), 4), 3u);
  EXPECT_EQ((std::set<std::string>{sees(0), sees(1), sees(2)}.size()), 3u);
  needs_ = {1000, 0, 0, {}};
  begin(2, call_of(10, 2), {0, 1});
  EXPECT_EQ(sees(3), "CUDA_VISIBLE_DEVICES=\n") << "all are taken";
  run_all(4);
  EXPECT_EQ(landed(1), (std::vector<Range>{{0, 20}}));
}

TEST_F(Devices, AreGivenSeveralAtATime) {
  make_gpus(4, {"0", "1", "2", "3", "4"});
  needs_ = {0, 0, 2000, {}};
  begin(1, call_of(10), {0, 3});
  EXPECT_EQ(running(call_of(10), 4), 2u);
  EXPECT_EQ(sees(0), "CUDA_VISIBLE_DEVICES=0,1\n");
  EXPECT_EQ(sees(1), "CUDA_VISIBLE_DEVICES=2,3\n");
  run_all(4);
}

TEST_F(Devices, AreSharedByThousandths) {
  make_gpus(4, {"0", "1"});
  needs_ = {0, 0, 400, {}};
  begin(1, call_of(10), {0, 9});
  EXPECT_EQ(running(call_of(10), 4), 4u);
  EXPECT_EQ(sees(0), sees(1));
  EXPECT_EQ(sees(2), sees(3));
  EXPECT_NE(sees(0), sees(2));
  run_all(4);
}

TEST_F(Devices, AreTakenFromIdleProcessesByWhoNeedsThemAlone) {
  make_gpus(2, {"0"});
  begin(1, call_of(10), {0, 2});
  EXPECT_EQ(sees(0), sees(1));
  run_all(2);
  needs_ = {0, 0, 1000, {}};
  begin(2, call_of(10, 2), {0, 1});
  EXPECT_EQ(running(call_of(10, 2), 2), 1u);
  EXPECT_FALSE(seat(1).alive) << "it saw the same device";
  run_all(2);
  EXPECT_EQ(landed(2), (std::vector<Range>{{0, 1}}));
}

// --- load ----------------------------------------------------------------------------------------

class Loads : public Turns {
 protected:
  std::vector<Load> sample(std::uint32_t others, std::uint64_t memory, bool paused) {
    now_ = now_ + seconds(1);
    feed(LoadSampled{others, memory, paused});
    return take<Load>();
  }
};

TEST_F(Loads, AreToldWhenTheyChangeByMoreThanATenth) {
  make(2);
  EXPECT_EQ(sample(1000, 1U << 30, false).size(), 1u);
  EXPECT_EQ(sample(1050, 1U << 30, false).size(), 0u);
  const auto told = sample(1500, 1U << 30, false);
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(told[0].others_cpus_milli, 1500u);
  begin(1, call_of(10), {0, 2});
  const auto busy = sample(1500, 1U << 30, false);
  ASSERT_EQ(busy.size(), 1u);
  EXPECT_EQ(busy[0].busy_slots, 2u);
  run_all(2);
}

TEST_F(Loads, SayOnceHowMuchTimeIsLeftAndThatTheAgentEnds) {
  make(1);
  now_ = now_ + seconds(1);
  feed(LoadSampled{0, 0, false, false, seconds(100)});
  const auto told = take<Load>();
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(told[0].time_left_ms, 100'000u);
  now_ = now_ + seconds(1);
  feed(LoadSampled{0, 0, false, false, seconds(99)});
  EXPECT_TRUE(take<Load>().empty());
  feed(LoadSampled{0, 0, true, true, seconds(99)});
  const auto ending = take<Load>();
  ASSERT_EQ(ending.size(), 1u);
  EXPECT_TRUE(ending[0].ending && ending[0].paused);
}

TEST_F(Loads, AreToldAgainInANewSession) {
  make(1);
  sample(1000, 0, false);
  feed(SessionEnded{});
  EXPECT_TRUE(sample(9000, 0, false).empty());
  feed(SessionBegan{kScheduler, {}});
  const auto told = take<Load>();
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(told[0].others_cpus_milli, 9000u);
  take<Offer>();
}

TEST_F(Loads, OfAPausedWorkerStartNothingUntilItGoesOn) {
  make(2);
  begin(1, call_of(10), {0, 1});
  start(0);
  now_ = now_ + milliseconds(1);
  feed(LoadSampled{0, 0, true});
  EXPECT_EQ(take<Load>().size(), 1u) << "at once";
  lease(2, call_of(10), {1, 9});
  turn();
  EXPECT_EQ(held(0) + held(1), 0u);
  finish(0);
  EXPECT_FALSE(start(0));
  turn();
  feed(RevokeAsked{{2}, 1});
  const auto released = take<Released>();
  ASSERT_EQ(released.size(), 1u);
  EXPECT_EQ(released[0].ranges, (std::vector<Range>{{1, 9}})) << "all that is untouched";
  lease(3, call_of(10), {9, 12});
  sample(0, 0, true);
  EXPECT_FALSE(seat(0).alive) << "idle processes give their memory back";
  now_ = now_ + milliseconds(1);
  feed(LoadSampled{0, 0, false});
  EXPECT_EQ(take<Load>().size(), 1u);
  turn();
  EXPECT_GT(held(0) + held(1), 0u);
  run_all(2);
  EXPECT_EQ(landed(3), (std::vector<Range>{{9, 12}}));
}

// --- an item in two leases -------------------------------------------------------------------------

TEST_F(Turns, RunAnItemTwiceAndKillOnlyTheLoser) {
  make(2);
  begin(1, call_of(10), {0, 1});
  ASSERT_EQ(start(0), 0u);
  lease(2, call_of(10), {0, 1});
  turn();
  ASSERT_EQ(start(1), 0u) << "the copy, in another seat";
  finish(1);
  turn();
  read_outcomes();
  EXPECT_EQ(landed(2), (std::vector<Range>{{0, 1}}));
  feed(ItemsAbandoned{{1}, {0, 1}});
  EXPECT_TRUE(seat(0).killed);
  EXPECT_FALSE(seat(1).killed);
  die(0, 9);
  turn();
  EXPECT_TRUE(core_->idle());
  EXPECT_TRUE(take<Outcomes>().empty());
}

TEST_F(Turns, LetTheOriginalWinWithoutTouchingIt) {
  make(2);
  begin(1, call_of(10), {0, 3});
  start(0), start(1);
  lease(2, call_of(10), {0, 1});
  turn();
  finish(0);
  turn();
  start(0);
  feed(ItemsAbandoned{{2}, {0, 1}});
  EXPECT_FALSE(seat(1).killed);
  run_all(2);
  for (std::uint32_t id = 0; id < 2; ++id) {
    if (seat(id).killed) die(id, 9);
  }
  run_all(2);
  EXPECT_EQ(landed(1), (std::vector<Range>{{0, 3}}));
  EXPECT_TRUE(core_->idle());
}

}  // namespace
}  // namespace betterbox
