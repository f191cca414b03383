// A test bench for the worker core: plays the scheduler, the seats (with true range words) and the clients.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "runtime/page.h"
#include "runtime/range.h"
#include "worker/core.h"

namespace betterbox {

inline CallId call_of(std::uint64_t client, std::uint64_t serial = 1) { return {{client}, serial}; }
inline constexpr PeerId kSelf{77};
inline constexpr PeerId kScheduler{1};

/// A seat as its driver and slot see it.
struct FakeSeat {
  struct Station {
    RangeWord word;
    std::uint32_t done = 0, generation = 0;
    CallId call;
    std::uint64_t base = 0;
    bool fold = false;
    RangeSet items;  // that came with pages
  };
  std::uint32_t life = 0;
  bool alive = false, killed = false, asked_to_stop = false;
  std::string head, payload;
  std::array<Station, 2> stations;
  std::deque<std::uint32_t> queue;  // stations in order of arrival
  std::set<CallId> contexts;
  std::deque<CallSeat> calls;
  std::set<std::uint64_t> cancelled, lanes;
  std::optional<std::uint32_t> running;  // claimed item of queue.front()
};

class WorkerFixture : public ::testing::Test {
 protected:
  void make(std::uint32_t slots, bool in_process = false) {
    core_.emplace(WorkerCore::Options{kSelf, slots, in_process});
    feed(SessionBegan{kScheduler, {}});
    take_messages();
  }

  void TearDown() override {
    if (!core_) return;
    core_->sanity_check();
    EXPECT_TRUE(messages_.empty() || unread_allowed_) << kind_name(messages_.front().body) << " was not read";
  }

  // --- the driver ---

  void feed(Event event) {
    Effects effects;
    core_->handle(now_, std::move(event), effects);
    if (checks_each_event_) core_->sanity_check();
    std::deque<Effect> queue(std::make_move_iterator(effects.send.begin()),
                             std::make_move_iterator(effects.send.end()));
    while (!queue.empty()) {
      Effect effect = std::move(queue.front());
      queue.pop_front();
      std::visit([&](auto&& e) { carry_out(std::move(e), queue); }, std::move(effect));
    }
  }
  void turn() { feed(TurnEnded{}); }
  void pass(Duration d) {
    now_ = now_ + d;
    turn();
  }

  template <class T> void carry_out(T&& e, std::deque<Effect>&) { apply(std::move(e)); }
  void carry_out(CutLease&& e, std::deque<Effect>& queue) {
    FakeSeat::Station& place = seats_[e.seat].stations[e.station];
    CutDone done{e.seat, e.station, place.word.cut(e.count), {}, place.done};
    done.position = place.word.position();
    ++cuts_;
    Effects effects;
    core_->handle(now_, std::move(done), effects);
    for (Effect& effect : effects.send) queue.push_back(std::move(effect));
  }
  void apply(SpawnSeat&& e) {
    FakeSeat& seat = fresh(e.seat);
    seat.life = e.life;
    seat.alive = true;
    seat.head = e.head;
    seat.payload = std::string(e.payload.view());
    ++spawns_;
  }
  void apply(KillSeat&& e) {
    ASSERT_TRUE(seats_[e.seat].alive);
    seats_[e.seat].killed = true;
  }
  void apply(DiscardSeat&& e) {
    ASSERT_TRUE(seats_[e.seat].alive);
    ASSERT_FALSE(seats_[e.seat].running);
    fresh(e.seat);
    ++discards_;
  }
  void apply(StopSeat&& e) { seats_[e.seat].asked_to_stop = true; }
  void apply(SendContext&& e) {
    seats_[e.seat].contexts.insert(e.call);
    given_ = std::string(e.frame.view());
  }
  void apply(DropContext&& e) { EXPECT_EQ(seats_[e.seat].contexts.erase(e.call), 1u); }
  void apply(InstallLease&& e) {
    FakeSeat& seat = seats_[e.seat];
    ASSERT_TRUE(seat.alive && seat.contexts.contains(e.call));
    FakeSeat::Station& place = seat.stations[e.station];
    place.word.install(e.count);
    place.done = 0;
    place.generation = e.generation;
    place.call = e.call;
    place.base = e.base;
    place.fold = e.fold;
    place.items.clear();
    for (const PagePart& part : e.pages) {
      const auto view = PageView::parse(part.page.bytes());
      ASSERT_TRUE(view && view->count() == part.count);
      place.items.insert({part.first, part.first + part.count});
    }
    ASSERT_TRUE(place.items.contains({e.base, e.base + e.count}));
    seat.queue.push_back(e.station);
    ++installs_;
  }
  void apply(CallSeat&& e) { seats_[e.seat].calls.push_back(std::move(e)); }
  void apply(OpenSeatLane&& e) { seats_[e.seat].lanes.insert(e.token); }
  void apply(CancelSeatCall&& e) { seats_[e.seat].cancelled.insert(e.token); }
  void apply(SendToScheduler&& e) { messages_.push_back(std::move(e.message)); }
  void apply(ReplyToClient&& e) { replies_.push_back(std::move(e)); }
  void apply(RefuseClient&& e) { refusals_.push_back(std::move(e)); }
  void apply(SeatReport&& e) { reports_.push_back(std::move(e)); }
  void apply(HostingReport&& e) { hostings_.push_back(std::move(e)); }
  void apply(LogLine&&) {}
  void apply(GetValues&& e) { values_asked_.push_back(std::move(e)); }
  void apply(Stopped&&) { stopped_ = true; }

  FakeSeat& fresh(SeatId id) {
    seats_.erase(id);
    return seats_[id];
  }

  // --- the scheduler ---

  void context(CallId call, Port port = kFunctionPool, bool fold = false) {
    feed(ContextArrived{{call, port, "f", fold, policy_, priority_, needs_}, Frame(context_bytes())});
  }
  /// With a head (worker/context_head.h) if its slots need anything at their start.
  std::string context_bytes() const {
    const std::string rest = "context";
    if (birth_ == 0) return rest;
    const std::uint64_t numbers[3] = {birth_, 0, std::uint64_t{4} << 32};  // no interpreter, 4 bytes of body
    return std::string(reinterpret_cast<const char*>(numbers), sizeof numbers) + "here" + rest;
  }
  void lease(std::uint64_t id, CallId call, Range range) {
    Lease lease{{id}, call, range, 1, {{range.begin, range.size()}}};
    feed(LeaseGranted{std::move(lease), {make_int_range_page(0, 1, range.size())}});
  }
  void begin(std::uint64_t id, CallId call, Range range, Port port = kFunctionPool) {
    context(call, port);
    lease(id, call, range);
    turn();
  }
  std::vector<Message> take_messages() { return std::exchange(messages_, {}); }
  template <class Body> std::vector<Body> take() {
    std::vector<Body> found;
    std::erase_if(messages_, [&](Message& m) {
      auto* body = std::get_if<Body>(&m.body);
      if (body == nullptr) return false;
      found.push_back(std::move(*body));
      return true;
    });
    return found;
  }
  /// Items that have arrived as outcomes, over all messages; each must be there once.
  void read_outcomes() {
    for (const Outcomes& outcomes : take<Outcomes>()) {
      for (const OutcomeSpan& span : outcomes.spans) {
        const Range range{span.first, span.first + span.count};
        EXPECT_EQ(landed_[outcomes.lease].insert(range), range.size()) << "an outcome came twice";
      }
      for (const LostItem& item : outcomes.lost) lost_[outcomes.lease].push_back(item);
      last_ack_ = outcomes.ack;
      steals_ += outcomes.steals;
    }
  }
  std::vector<Range> landed(std::uint64_t id) { return landed_[{id}].ranges(); }

  // --- slots ---

  FakeSeat& seat(std::uint32_t id) { return seats_[{id}]; }
  /// The slot claims the next item. Result: its index, or nothing if there is none to run.
  std::optional<std::uint64_t> start(std::uint32_t id) {
    FakeSeat& s = seat(id);
    while (!s.queue.empty() && !s.running) {
      FakeSeat::Station& place = s.stations[s.queue.front()];
      const auto item = place.word.claim();
      if (item) {
        EXPECT_TRUE(place.items.contains(place.base + *item));
        s.running = *item;
        return place.base + *item;
      }
      const std::uint32_t station = s.queue.front();
      s.queue.pop_front();
      feed(SubLeaseDone{{id}, s.life, station, place.generation});
    }
    return std::nullopt;
  }
  /// The running item's outcome is published, and reported unless `report` is false.
  void finish(std::uint32_t id, bool report = true) {
    FakeSeat& s = seat(id);
    ASSERT_TRUE(s.running);
    FakeSeat::Station& place = s.stations[s.queue.front()];
    const std::uint32_t item = *s.running;
    s.running.reset();
    place.done = item + 1;
    if (report) progress(id, s.queue.front(), item);
  }
  void progress(std::uint32_t id, std::uint32_t station, std::uint32_t item) {
    FakeSeat& s = seat(id);
    const std::string none(1, '\0');
    const auto kind = s.stations[station].fold ? PageKind::kFold : PageKind::kSingle;
    feed(SeatProgressed{{id},
                        s.life,
                        station,
                        s.stations[station].generation,
                        item,
                        1,
                        item_time_.ns,
                        static_cast<double>(item_time_.ns) * static_cast<double>(item_time_.ns),
                        item_time_.ns,
                        make_single_page(std::as_bytes(std::span(none)), kind)});
  }
  /// Runs one item. Result: its index.
  std::optional<std::uint64_t> run(std::uint32_t id) {
    const auto item = start(id);
    if (item) finish(id);
    return item;
  }
  void ready(std::uint32_t id, std::vector<MethodInfo> methods = {{"f", kPlainMethod}},
             bool sandbox = false) {
    feed(SeatReady{{id}, seat(id).life, "ABox", sandbox, std::move(methods)});
  }
  void die(std::uint32_t id, std::int32_t signal = 11) {
    FakeSeat& s = seat(id);
    SeatDied died{{id}, s.life, {}, {}};
    died.death.signal = signal;
    for (std::size_t k = 0; k < 2; ++k) {
      died.stations[k] = {s.stations[k].generation, s.stations[k].done, s.stations[k].word.position()};
    }
    fresh({id});
    feed(std::move(died));
  }
  /// Items that a seat holds and has not touched.
  std::uint32_t held(std::uint32_t id) {
    std::uint32_t count = 0;
    for (const std::uint32_t s : seat(id).queue) count += seat(id).stations[s].word.position().remaining();
    return count;
  }
  /// All seats run until nothing is left, one item each in turn.
  void run_all(std::uint32_t seats) {
    for (bool any = true; any;) {
      const int installs = installs_;
      any = false;
      for (std::uint32_t id = 0; id < seats; ++id) {
        if (!seats_.contains({id}) || !seat(id).running) continue;
        finish(id);
        any = true;
      }
      for (std::uint32_t id = 0; id < seats; ++id) any = (seats_.contains({id}) && run(id)) || any;
      now_ = now_ + milliseconds(1);
      turn();
      any = any || installs_ != installs;
    }
    read_outcomes();
  }

  std::optional<WorkerCore> core_;
  TimePoint now_{1'000'000'000};
  std::string policy_;  // of calls whose context comes
  std::string given_;   // the last context that a slot got
  std::int32_t priority_ = 0;
  std::uint64_t birth_ = 0;
  Resources needs_;
  Duration item_time_ = milliseconds(1);
  std::map<SeatId, FakeSeat> seats_;
  std::vector<Message> messages_;
  std::vector<ReplyToClient> replies_;
  std::vector<RefuseClient> refusals_;
  std::vector<SeatReport> reports_;
  std::vector<HostingReport> hostings_;
  std::vector<GetValues> values_asked_;
  std::map<LeaseId, RangeSet> landed_;
  std::map<LeaseId, std::vector<LostItem>> lost_;
  std::uint64_t last_ack_ = 0, steals_ = 0;
  int cuts_ = 0, spawns_ = 0, discards_ = 0, installs_ = 0;
  bool stopped_ = false, unread_allowed_ = false, checks_each_event_ = true;
};

}  // namespace betterbox
