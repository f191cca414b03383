// A seeded run of everything at once: leases of several clients come and go, seats die, the session breaks.
// Each item must leave in exactly one way, and in the end nothing may be left.
#include <random>

#include "tests/unit/worker/worker_fixture.h"

namespace betterbox {
namespace {

class Simulation : public WorkerFixture, public ::testing::WithParamInterface<std::uint32_t> {
 protected:
  static constexpr std::uint32_t kSlots = 4;

  std::uint32_t pick(std::uint32_t n) { return static_cast<std::uint32_t>(random_() % n); }

  void grant() {
    const std::uint64_t client = 10 + pick(3);
    const CallId call = call_of(client, 1 + pick(2));
    // What a call is like goes with its number.
    policy_ = call.serial == 1 ? "auto" : "fac2";
    priority_ = client == 12 ? 1 : 0;
    needs_ = {call.serial * 1000, 0, client == 11 ? call.serial * 500 : 0, {}};
    context(call);
    const std::uint64_t id = ++leases_;
    const Range range{1000 * id, 1000 * id + 1 + pick(60)};
    granted_[{id}] = RangeSet(range);
    calls_of_[{id}] = call;
    lease(id, call, range);
  }
  void drop(LeaseId id, Range range) { gone_[id].insert(range); }

  void scheduler_step() {
    const std::uint32_t what = pick(12);
    if (what < 3) return grant();
    if (granted_.empty()) return;
    auto at = granted_.begin();
    std::advance(at, pick(static_cast<std::uint32_t>(granted_.size())));
    const Range all{at->second.front().begin, at->second.back().end};
    if (what < 6) {
      feed(RevokeAsked{at->first, pick(40)});
    } else if (what == 6) {
      const std::uint64_t from = all.begin + pick(static_cast<std::uint32_t>(all.size()));
      const Range range{from, std::min(all.end, from + 1 + pick(10))};
      drop(at->first, range);
      feed(ItemsAbandoned{at->first, range});
    } else if (what == 7 && pick(4) == 0) {
      const CallId call = calls_of_[at->first];
      for (auto& [id, items] : granted_) {
        if (calls_of_[id] == call) drop(id, {0, ~std::uint64_t{0}});
      }
      feed(CallDropped{call});
    } else if (what == 8) {
      feed(AcknowledgeArrived{last_ack_});
    } else if (what == 9 && pick(5) == 0) {
      read();
      feed(SessionEnded{});
      feed(SessionBegan{kScheduler, {}});
      repeated_ = true;
      read();
      repeated_ = false;
    }
  }

  void seat_step(std::uint32_t id) {
    if (!seats_.contains({id}) || !seat(id).alive) return;
    if (seat(id).killed) return die(id, 9);
    const std::uint32_t what = pick(20);
    if (what == 0) {
      ready(id);
    } else if (what == 1 && pick(3) == 0) {
      die(id);
    } else if (what < 10 && !seat(id).running) {
      start(id);
    } else if (seat(id).running) {
      finish(id);
    }
  }

  /// Notes what left. An item that was abandoned may still have left before the agent knew.
  void read() {
    for (Message& message : take_messages()) {
      if (const auto* released = std::get_if<Released>(&message.body)) {
        for (const Range& r : released->ranges) leave(released->lease, r);
      } else if (const auto* outcomes = std::get_if<Outcomes>(&message.body)) {
        if (repeated_ || outcomes->ack <= last_ack_) continue;
        EXPECT_EQ(outcomes->ack, last_ack_ + 1);
        last_ack_ = outcomes->ack;
        for (const OutcomeSpan& span : outcomes->spans)
          leave(outcomes->lease, {span.first, span.first + span.count});
        for (const LostItem& item : outcomes->lost) leave(outcomes->lease, {item.index, item.index + 1});
      }
    }
  }
  void leave(LeaseId id, Range range) {
    ASSERT_TRUE(granted_[id].contains(range));
    ASSERT_EQ(left_[id].insert(range), range.size()) << "items of lease " << id.value << " left twice";
  }

  std::mt19937 random_{GetParam()};
  std::uint64_t leases_ = 0;
  std::map<LeaseId, RangeSet> granted_, left_, gone_;
  std::map<LeaseId, CallId> calls_of_;
  bool repeated_ = false;
};

TEST_P(Simulation, EveryItemLeavesInExactlyOneWay) {
  Resources capacity{1000 * kSlots, kAnyMemory, GetParam() % 2 * 2000, {}};
  std::vector<std::string> devices(GetParam() % 2 * 2, "some");
  if (devices.empty()) capacity.gpus_milli = 2000;  // that nobody has names for
  core_.emplace(WorkerCore::Options{kSelf, kSlots, false, std::move(capacity), std::move(devices)});
  feed(SessionBegan{kScheduler, {}});
  take_messages();
  for (int step = 0; step < 3000; ++step) {
    if (pick(6) == 0) scheduler_step();
    for (std::uint32_t id = 0; id < kSlots; ++id) seat_step(id);
    now_ = now_ + microseconds(pick(3000));
    if (pick(3) > 0) turn();
    read();
    ASSERT_FALSE(HasFailure()) << "step " << step;
  }
  // Then everything calms down, and must end.
  for (int step = 0; step < 200'000 && !core_->idle(); ++step) {
    for (std::uint32_t id = 0; id < kSlots; ++id) {
      if (!seats_.contains({id}) || !seat(id).alive) continue;
      if (seat(id).killed) {
        die(id, 9);
      } else if (seat(id).running) {
        finish(id);
      } else {
        run(id);
      }
    }
    now_ = now_ + milliseconds(1);
    turn();
    read();
  }
  EXPECT_TRUE(core_->idle());
  for (const auto& [id, items] : granted_) {
    for (const Range& r : items.ranges()) {
      for (const Range& missing : left_[id].missing(r)) {
        EXPECT_TRUE(gone_[id].contains(missing))
            << "lease " << id.value << " lost items from " << missing.begin;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, Simulation, ::testing::Range(1u, 25u));

}  // namespace
}  // namespace betterbox
