// Sessions, leases and cuts of the worker core (worker/core.h).
#include "worker/core.h"

#include <algorithm>
#include <cmath>

#include "runtime/check.h"

namespace betterbox {
namespace {
/// Of a call that has no lease.
constexpr Duration kLongestInterval = seconds(3600);

bool are_equal(const Resources& a, const Resources& b) {
  return a.cpus_milli == b.cpus_milli && a.memory_bytes == b.memory_bytes && a.gpus_milli == b.gpus_milli &&
         std::equal(a.named.begin(), a.named.end(), b.named.begin(), b.named.end(),
                    [](const Amount& x, const Amount& y) { return x.name == y.name && x.milli == y.milli; });
}

}  // namespace

WorkerCore::WorkerCore(const Options& options) : options_(options), capacity_(options.capacity) {
  if (capacity_.cpus_milli == 0 && capacity_.memory_bytes == 0) {
    capacity_.cpus_milli = std::uint64_t{1000} * options_.function_slots;
    capacity_.memory_bytes = kAnyMemory;
  }
  left_ = capacity_;
  BB_CHECK(options_.devices.size() <= kMaxDevices);
  BB_CHECK(options_.devices.empty() || capacity_.gpus_milli == 1000 * options_.devices.size());
  device_left_.assign(options_.devices.size(), 1000);
  ports_[kFunctionPool];
  for (std::uint32_t i = 0; i < options_.function_slots; ++i) add_seat(kFunctionPool, SeatKind::kFunction);
}

void WorkerCore::handle(TimePoint now, Event&& event, Effects& effects) {
  now_ = now;
  effects_ = &effects;
  std::visit([this](auto&& e) { on(std::move(e)); }, std::move(event));
  effects_ = nullptr;
}

TimePoint WorkerCore::next_deadline() const {
  TimePoint next = std::min({switch_at_, idle_check_at_, lent_look_at_, waiting_told_at_});
  if (!seat_timers_.empty()) next = std::min(next, seat_timers_.begin()->first);
  if (!due_.empty()) next = std::min(next, due_.begin()->first);
  return next;
}

WorkerCore::LeaseState* WorkerCore::find_lease(LeaseId id) {
  const auto at = leases_.find(id);
  return at == leases_.end() ? nullptr : &at->second;
}

WorkerCore::CallState* WorkerCore::find_call(CallId id) {
  const auto at = calls_.find(id);
  return at == calls_.end() ? nullptr : &at->second;
}

const WorkerCore::CallState* WorkerCore::find_call(CallId id) const {
  const auto at = calls_.find(id);
  return at == calls_.end() ? nullptr : &at->second;
}

WorkerCore::Seat* WorkerCore::find_seat(SeatId id, std::uint32_t life) {
  if (id.value >= seats_.size()) return nullptr;
  Seat& seat = seats_[id.value];
  return seat.occupied() && seat.life == life ? &seat : nullptr;
}

void WorkerCore::send(Message message) { effect(SendToScheduler{std::move(message)}); }

// --- sessions -----------------------------------------------------------------------------------

std::vector<HeldLease> WorkerCore::held_leases() const {
  std::map<LeaseId, RangeSet> undelivered;
  for (const auto& [id, lease] : leases_) {
    RangeSet& set = undelivered[id];
    for (const Range& r : lease.open.ranges()) set.insert(r);
    for (const OutcomeSpan& s : lease.out.spans) set.insert({s.first, s.first + s.count});
    for (const LostItem& item : lease.out.lost) set.insert({item.index, item.index + 1});
  }
  for (const Unacked& sent : unacked_) {
    const auto& outcomes = std::get<Outcomes>(sent.message.body);
    RangeSet& set = undelivered[outcomes.lease];
    for (const OutcomeSpan& s : outcomes.spans) set.insert({s.first, s.first + s.count});
    for (const LostItem& item : outcomes.lost) set.insert({item.index, item.index + 1});
  }
  std::vector<HeldLease> held;
  for (const auto& [id, set] : undelivered) held.push_back({id, set.ranges()});
  return held;
}

void WorkerCore::on(SessionBegan&& e) {
  in_session_ = true;
  if (scheduler_ && scheduler_ != e.scheduler) {
    forget_all_leases();
    unacked_.clear();
    unacked_bytes_ = 0;
    next_ack_ = 1;
    to_say_.clear();
  }
  scheduler_ = e.scheduler;
  told_load_ = {};
  contents_.clear();
  last_content_ = 0;
  for (const LeaseId id : e.dropped_leases) {
    abandon(id, {0, ~std::uint64_t{0}});
  }
  offer_everything();
  if (load_) tell_load();
  for (const Unacked& sent : unacked_) send(sent.message);
  for (Message& message : to_say_) send(std::move(message));
  to_say_.clear();
}

void WorkerCore::on(SessionEnded&&) {
  in_session_ = false;
  contents_.clear();
}

void WorkerCore::on(AcknowledgeArrived&& e) {
  while (!unacked_.empty() && unacked_.front().ack <= e.ack) {
    unacked_bytes_ -= unacked_.front().bytes;
    unacked_.pop_front();
  }
}

void WorkerCore::forget_all_leases() {
  std::vector<CallId> calls;
  for (const auto& [id, call] : calls_) calls.push_back(id);
  for (const CallId id : calls) on(CallDropped{id});
}

// --- leases come --------------------------------------------------------------------------------

/// Gives `e` its frame if it came without; keeps it where the scheduler says so. Numbers ascend, so what comes a second
/// time changes nothing. Result: false if the frame is not here: of a call that was over before this came again.
bool WorkerCore::keep_content(ContextArrived& e) {
  const std::uint64_t number = e.context.held;
  for (const std::uint64_t gone : e.context.dropped) contents_.erase(gone);
  const auto known = contents_.find(number);
  if (e.frame.size() == 0 && number != 0) {
    if (known == contents_.end()) return false;
    e.frame = known->second;
  } else if (number > last_content_ && contents_.size() < kMaxHeldContexts) {
    last_content_ = number;
    contents_[number] = e.frame;
  }
  return true;
}

void WorkerCore::on(ContextArrived&& e) {
  if (!e.context.call.client) return;  // nobody's: what seats without a call run
  if (!keep_content(e)) return;
  const CallId id = e.context.call;
  const auto [at, fresh] = calls_.try_emplace(id);
  CallState& call = at->second;
  if (fresh) {  // a call that was dropped and comes back may still have an item running
    for (const Seat& seat : seats_) {
      for (const Station& place : seat.stations) call.stations += place.busy && place.call == id;
      call.seats += seat.runs == id;
    }
    ContextHead head = ContextHead::of(e.frame);
    call.kin = head.birth != 0 ? Kin{head.birth, {}} : Kin{0, id.client};
    call.surroundings = std::move(head.surroundings);
    call.crowd = &crowd_of(e.context.port, call.kin);
    call.crowd->calls.insert(id);
    call.report_interval = kLongestInterval;
    // Equal needs are one object: what is reserved for one call in a seat then does for another.
    auto same = std::find_if(calls_.begin(), calls_.end(), [&](const auto& entry) {
      return entry.second.needs != nullptr && are_equal(*entry.second.needs, e.context.needs);
    });
    call.needs =
        same != calls_.end() ? same->second.needs : std::make_shared<const Resources>(e.context.needs);
    call.policy = find_policy(e.context.policy);
    if (call.policy == nullptr) call.policy = &auto_policy();
    ++priorities_[e.context.priority];
    call.context = std::move(e.context);
    if (!call.context.values.empty()) {
      call.awaits_values = true;
      effect(GetValues{id, call.context.values});
    }
  }
  call.frame = std::move(e.frame);
}

void WorkerCore::on(ValuesArrived&& e) {
  if (CallState* call = find_call(e.call)) call->awaits_values = false;
}

void WorkerCore::on(LeaseGranted&& e) {
  const LeaseId id = e.lease.lease;
  CallState* call = find_call(e.lease.call);
  if (leases_.contains(id) || e.lease.range.empty()) return;
  LeaseState fresh;
  fresh.id = id;
  fresh.call = e.lease.call;
  fresh.range = e.lease.range;
  if (call == nullptr || ending_ || !take_pages(fresh, e) || !take_costs(fresh, *call, e.lease.costs) ||
      items_that_fit(capacity_, *call->needs, 1) == 0) {
    tell(Released{id, {e.lease.range}});
    return;
  }
  LeaseState& lease = leases_.emplace(id, std::move(fresh)).first->second;
  lease.report_interval = {std::max<std::int64_t>(0, e.lease.report_interval_ns)};
  lease.arrived = now_;
  lease.open.insert(lease.range);
  call->report_interval = std::min(call->report_interval, lease.report_interval);
  call->low_water = e.lease.low_water;
  call->open += lease.items();
  call->leases.push_back(id);
  put_undivided(lease, lease.range);
}

/// Result: false if they are not one for each item.
bool WorkerCore::take_costs(LeaseState& lease, CallState& call, const std::vector<float>& costs) {
  if (costs.empty()) return true;
  if (costs.size() != lease.items()) return false;
  lease.costs.reserve(costs.size() + 1);
  lease.costs.push_back(0);
  for (const float cost : costs) {
    if (!(cost >= 0) || !std::isfinite(cost)) return false;
    lease.costs.push_back(lease.costs.back() + static_cast<double>(cost));
  }
  if (lease.costs.back() <= 0) lease.costs.clear();
  if (!lease.costs.empty() && call.unit_cost <= 0)
    call.unit_cost = lease.costs.back() / static_cast<double>(lease.items());
  return true;
}

/// Result: false if the pages do not cover the range, or are none.
bool WorkerCore::take_pages(LeaseState& lease, LeaseGranted& granted) {
  if (granted.lease.spans.size() != granted.pages.size()) return false;
  RangeSet covered;
  for (std::size_t i = 0; i < granted.pages.size(); ++i) {
    const PageSpan& span = granted.lease.spans[i];
    auto view = PageView::parse(granted.pages[i].bytes());
    if (!view || view->kind() == PageKind::kFold || view->count() != span.count) return false;
    covered.insert({span.first, span.first + span.count});
    lease.page_bytes += granted.pages[i].size();
    lease.pages.push_back({span.first, span.count, std::move(granted.pages[i]), *view});
  }
  std::sort(lease.pages.begin(), lease.pages.end(),
            [](const Page& a, const Page& b) { return a.first < b.first; });
  return covered.contains(granted.lease.range);
}

// --- leases are cut -----------------------------------------------------------------------------

void WorkerCore::cut_station(Seat& seat, int station, std::uint32_t count) {
  Station& place = seat.stations[static_cast<std::size_t>(station)];
  if (!place.busy || place.cutting || seat.state == SeatState::kKilled) return;
  place.cutting = true;
  ++cuts_awaited_;
  effect(CutLease{seat.id, static_cast<std::uint32_t>(station), count});
  reindex(seat);
}

void WorkerCore::on(CutDone&& e) {
  BB_CHECK(e.seat.value < seats_.size() && e.station < kSeatStations);
  Seat& seat = seats_[e.seat.value];
  Station& place = seat.stations[e.station];
  BB_CHECK(place.cutting && cuts_awaited_ > 0);
  place.cutting = false;
  --cuts_awaited_;
  const bool stolen = std::exchange(place.stealing, false);
  if (e.cut.next < e.cut.end) {
    if (LeaseState* lease = stolen ? find_lease(place.lease) : nullptr) ++lease->steals, ++steals_;
    Station part = place;
    part.base = place.base + e.cut.next;
    part.count = e.cut.end - e.cut.next;
    give_back(part);
    place.count = e.cut.next;
  }
  if (e.position.remaining() == 0) place.exhausted = true;
  reindex(seat);
  kill_if_unwanted(seat, place, e.position, e.done);
  if (cuts_awaited_ > 0) return;
  for (const LeaseId id : std::exchange(revoking_, {})) {
    if (LeaseState* lease = find_lease(id); lease != nullptr && lease->revoke) answer_revoke(*lease);
  }
  divide();
}

/// What was cut off or lost its slot may be run by another seat, if it is still wanted.
void WorkerCore::give_back(const Station& part) {
  LeaseState* lease = find_lease(part.lease);
  if (lease == nullptr) return;
  for (const Range& r : lease->open.intersection(part.range())) put_undivided(*lease, r);
}

/// A process whose running item nobody wants is killed. (A fold runs all its claimed items as one.)
void WorkerCore::kill_if_unwanted(Seat& seat, const Station& place, Position position, std::uint32_t done) {
  done = std::max(done, place.finished);  // an outcome can be here before the slot has counted it
  if (options_.in_process || seat.state != SeatState::kUp || position.next <= done) return;
  const LeaseState* lease = find_lease(place.lease);
  const bool wanted =
      lease != nullptr && lease->open.contains({place.base + done, place.base + position.next});
  if (!wanted) kill_seat(seat);
}

void WorkerCore::on(RevokeAsked&& e) {
  LeaseState* lease = find_lease(e.lease);
  if (lease != nullptr && starts_nothing()) e.count = lease->open.size();  // all that is untouched
  if (lease == nullptr) {
    if (in_session_) tell(Released{e.lease, {}});
    return;
  }
  lease->revoke = lease->revoke.value_or(0) + e.count;
  if (lease->undivided.size() < *lease->revoke)
    cut_for_revoke(*lease, *lease->revoke - lease->undivided.size());
  if (cuts_awaited_ == 0) return answer_revoke(*lease);
  revoking_.push_back(e.lease);
}

/// Takes whole waiting parts first, then from each running part in proportion to what it has left.
void WorkerCore::cut_for_revoke(LeaseState& lease, std::uint64_t wanted) {
  std::uint64_t left = 0;
  for (const bool waiting : {true, false}) {
    for (Seat& seat : seats_) {
      for (int s = 0; s < kSeatStations; ++s) {
        const Station& place = seat.stations[static_cast<std::size_t>(s)];
        if (!place.busy || place.lease != lease.id || (s != seat.running) != waiting) continue;
        if (!waiting) {
          left += untouched(seat, s);
        } else if (wanted > 0) {
          const std::uint64_t count = std::min<std::uint64_t>(wanted, untouched(seat, s));
          if (count > 0) cut_station(seat, s, static_cast<std::uint32_t>(count));
          wanted -= count;
        }
      }
    }
  }
  if (wanted == 0 || left == 0) return;
  const double share = std::min(1.0, static_cast<double>(wanted) / static_cast<double>(left));
  for (Seat& seat : seats_) {
    const Station& place = seat.stations[static_cast<std::size_t>(seat.running)];
    if (!place.busy || place.lease != lease.id) continue;
    const std::uint32_t count = static_cast<std::uint32_t>(std::ceil(untouched(seat, seat.running) * share));
    if (count > 0) cut_station(seat, seat.running, count);
  }
}

void WorkerCore::answer_revoke(LeaseState& lease) {
  std::uint64_t wanted = *lease.revoke;
  lease.revoke.reset();
  Released released{lease.id, {}};
  while (wanted > 0 && !lease.undivided.empty()) {
    Range tail = lease.undivided.back();
    if (tail.size() > wanted) tail.begin = tail.end - wanted;
    wanted -= tail.size();
    take_undivided(lease, tail);
    close_items(lease, tail);
    released.ranges.push_back(tail);
  }
  std::reverse(released.ranges.begin(), released.ranges.end());
  if (in_session_) tell(std::move(released));
}

void WorkerCore::on(ItemsAbandoned&& e) { abandon(e.lease, e.range); }

/// No outcome of these items is wanted. Parts that hold some of them are cut whole: what is still
/// wanted comes back as undivided, and CutDone says what runs (kill_if_unwanted).
void WorkerCore::abandon(LeaseId id, Range range) {
  LeaseState* lease = find_lease(id);
  if (lease == nullptr) return;
  for (const Range& r : lease->open.intersection(range)) {
    take_undivided(*lease, r);
    close_items(*lease, r);
  }
  for (Seat& seat : seats_) {
    for (int s = 0; s < kSeatStations; ++s) {
      const Station& place = seat.stations[static_cast<std::size_t>(s)];
      if (place.busy && place.lease == id && place.range().overlaps(range)) cut_station(seat, s, place.count);
    }
  }
}

void WorkerCore::on(CallDropped&& e) {
  CallState* call = find_call(e.call);
  if (call == nullptr) return;
  const std::vector<LeaseId> leases = call->leases;
  for (const LeaseId id : leases) {
    abandon(id, {0, ~std::uint64_t{0}});
    if (const auto at = leases_.find(id); at != leases_.end()) forget_lease(at);
  }
  for (const SeatId id : std::vector<SeatId>(call->reserved)) unreserve(seats_[id.value]);
  for (Seat& seat : seats_) {
    if (seat.times_of == e.call) unlearn(seat);
    const auto context = std::lower_bound(seat.contexts.begin(), seat.contexts.end(), e.call);
    if (context == seat.contexts.end() || *context != e.call) continue;
    seat.contexts.erase(context);
    if (seat.occupied() && seat.state != SeatState::kKilled) effect(DropContext{seat.id, e.call});
  }
  due_.erase({call->due, e.call});
  const auto priority = priorities_.find(call->context.priority);
  if (--priority->second == 0) priorities_.erase(priority);
  call->crowd->calls.erase(e.call);
  const Kin kin = call->kin;
  calls_.erase(e.call);
  forget_crowd(kin);
}

void WorkerCore::forget_lease(Leases::iterator at) {
  LeaseState& lease = at->second;
  for (const Range& r : lease.undivided.ranges()) take_undivided(lease, r);
  CallState& call = *find_call(lease.call);
  call.open -= lease.open.size();
  std::erase(call.leases, at->first);
  leases_.erase(at);
  call.report_interval = kLongestInterval;
  for (const LeaseId id : call.leases)
    call.report_interval = std::min(call.report_interval, find_lease(id)->report_interval);
}

void WorkerCore::free_station(Seat& seat, int station) {
  Station& place = seat.stations[static_cast<std::size_t>(station)];
  BB_CHECK(place.busy);
  if (place.cutting) --cuts_awaited_;
  CallState* call = find_call(place.call);
  if (call != nullptr) --call->stations;
  if (seat.stations[static_cast<std::size_t>(1 - station)].busy) {
    seat.running = 1 - station;
  } else {
    seat.idle_since = now_;
    idle_check_at_ = std::min(idle_check_at_, now_ + (is_spare(seat) ? kSpareSeatLife : kIdleSeatLife));
    if (call != nullptr) call->seat_freed = true, touched_.insert(place.call);
  }
  place = Station{};
  reindex(seat);
}

namespace {

bool differs(double a, double b, double floor) {
  return std::abs(a - b) > std::max(floor, std::max(a, b) / 10);
}

/// More than a tenth, and more than what nobody cares about.
bool differs(const Load& a, const Load& b) {
  return differs(a.busy_slots, b.busy_slots, 0.5) || differs(a.others_cpus_milli, b.others_cpus_milli, 100) ||
         differs(static_cast<double>(a.memory_bytes), static_cast<double>(b.memory_bytes), 16 << 20);
}

}  // namespace

/// A pause: idle processes give their memory back, waiting parts are not taken back unless the scheduler asks.
void WorkerCore::on(LoadSampled&& e) {
  const bool was_paused = starts_nothing();
  load_ = Load{busy_seats_ - lending_, e.others_cpus_milli, e.memory_bytes, e.paused, e.ending, 0, 0, true};
  work_ends_ = e.time_left > Duration{} ? now_ + e.time_left : TimePoint::never();
  if (e.paused) {
    for (Seat& seat : seats_) {
      if (seat.kind == SeatKind::kFunction && seat.state == SeatState::kUp && seat.is_free()) discard(seat);
    }
  }
  const bool due = now_ - load_told_at_ >= kLoadInterval;
  const bool news = e.paused != was_paused || e.ending != told_load_.ending ||
                    (work_ends_ != TimePoint::never() && told_load_.time_left_ms == 0);
  if (in_session_ && (news || (due && differs(*load_, told_load_)))) tell_load();
}

void WorkerCore::tell_load() {
  told_load_ = load_.value_or(Load{});
  told_load_.busy_slots = busy_seats_ - lending_;
  told_load_.waiting_slots = lending_;
  told_load_.lends = lending_ == 0 || may_lend();
  if (work_ends_ != TimePoint::never())
    told_load_.time_left_ms =
        static_cast<std::uint64_t>(std::max<std::int64_t>(1, (work_ends_ - now_).ns / 1'000'000));
  load_told_at_ = now_;
  tell(told_load_);
}

void WorkerCore::on(TurnEnded&&) {
  run_seat_timers();
  divide();
  if (!ending_) {
    if (std::exchange(unservable_, false)) release_unservable();
    if (idle_check_at_ <= now_) discard_idle_seats();
  }
  flush_outcomes();
  finish_leases();
  tell_waiting();
  if (ending_ && !ended_ &&
      std::none_of(seats_.begin(), seats_.end(), [](const Seat& seat) { return seat.occupied(); })) {
    ended_ = true;
    effect(Stopped{});
  }
}

/// Work for boxes of which none is left here goes back.
void WorkerCore::release_unservable() {
  for (auto& [id, lease] : leases_) {
    const CallState* call = find_call(lease.call);
    if (lease.undivided.empty() || call == nullptr || ports_[call->context.port].alive > 0) continue;
    Released released{id, lease.undivided.ranges()};
    for (const Range& r : released.ranges) {
      take_undivided(lease, r);
      close_items(lease, r);
    }
    if (in_session_) tell(std::move(released));
  }
}

}  // namespace betterbox
