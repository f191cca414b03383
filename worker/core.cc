// Leases, sessions and outcomes of the worker core (worker/core.h).
#include "worker/core.h"

#include <algorithm>
#include <cmath>

#include "runtime/check.h"

namespace betterbox {
namespace {
/// Of a call that has no lease.
constexpr Duration kLongestInterval = seconds(3600);
}  // namespace

WorkerCore::WorkerCore(const Options& options) : options_(options) {
  for (std::uint32_t i = 0; i < options_.function_slots; ++i) {
    Seat& seat = seats_.emplace_back();
    seat.id = {i};
    seat.port = kFunctionPool;
    seat.kind = SeatKind::kFunction;
  }
}

void WorkerCore::handle(TimePoint now, Event&& event, Effects& effects) {
  now_ = now;
  effects_ = &effects;
  std::visit([this](auto&& e) { on(std::move(e)); }, std::move(event));
  effects_ = nullptr;
}

TimePoint WorkerCore::next_deadline() const {
  TimePoint next = switch_at_;
  for (const Seat& seat : seats_) {
    next = std::min(next, seat.kill_at);
    if (seat.state == SeatState::kEmpty && seat.retry_at.ns != 0) next = std::min(next, seat.retry_at);
    if (seat.kind == SeatKind::kFunction && seat.state == SeatState::kUp && seat.is_free()) {
      next = std::min(next, seat.idle_since + kIdleSeatLife);
    }
  }
  return due_.empty() ? next : std::min(next, due_.begin()->first);
}

/// The nearer a call comes to its low water, the sooner the next look.
Duration WorkerCore::drain_interval() const {
  Duration interval = kLongestDrainInterval;
  for (const auto& [id, call] : calls_) {
    if (call.leases.empty()) continue;
    interval = std::min(interval, std::max(kDrainInterval, Duration{call.report_interval.ns / 4}));
    if (call.open <= call.low_water || !call.times.known()) continue;
    const double left = static_cast<double>(call.open - call.low_water) * call.times.mean() /
                        std::max(1.0, static_cast<double>(call.stations));
    if (left < static_cast<double>(interval.ns)) interval = Duration{static_cast<std::int64_t>(left)};
  }
  return std::max(interval, kShortestDrainInterval);
}

WorkerCore::LeaseState* WorkerCore::find_lease(LeaseId id) {
  const auto at = leases_.find(id);
  return at == leases_.end() ? nullptr : &at->second;
}

WorkerCore::CallState* WorkerCore::find_call(CallId id) {
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
  for (const LeaseId id : e.dropped_leases) {
    abandon(id, {0, ~std::uint64_t{0}});
  }
  offer_everything();
  for (const Unacked& sent : unacked_) send(sent.message);
  for (Message& message : to_say_) send(std::move(message));
  to_say_.clear();
}

void WorkerCore::on(SessionEnded&&) { in_session_ = false; }

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

void WorkerCore::on(ContextArrived&& e) {
  const auto [at, fresh] = calls_.try_emplace(e.context.call);
  CallState& call = at->second;
  if (fresh) {  // a call that was dropped and comes back may still have an item running
    for (const Seat& seat : seats_) {
      for (const Station& place : seat.stations) call.stations += place.busy && place.call == e.context.call;
    }
  }
  call.context = std::move(e.context);
  call.frame = std::move(e.frame);
}

void WorkerCore::on(LeaseGranted&& e) {
  const LeaseId id = e.lease.lease;
  CallState* call = find_call(e.lease.call);
  LeaseState lease;
  lease.id = id;
  lease.call = e.lease.call;
  if (leases_.contains(id) || e.lease.range.empty()) return;
  if (call == nullptr || ending_ || !take_pages(lease, e)) {
    tell(Released{id, {e.lease.range}});
    return;
  }
  lease.items = e.lease.range.size();
  lease.open.insert(e.lease.range);
  lease.undivided.insert(e.lease.range);
  lease.report_interval = {std::max<std::int64_t>(0, e.lease.report_interval_ns)};
  call->report_interval =
      call->leases.empty() ? lease.report_interval : std::min(call->report_interval, lease.report_interval);
  call->low_water = e.lease.low_water;
  call->open += lease.items;
  call->leases.push_back(id);
  leases_.emplace(id, std::move(lease));
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
  kill_if_unwanted(seat, place, e.position, e.done);
  if (cuts_awaited_ > 0) return;
  for (auto& [id, lease] : leases_) {
    if (lease.revoke) answer_revoke(lease);
  }
  divide();
}

/// What was cut off or lost its slot may be run by another seat, if it is still wanted.
void WorkerCore::give_back(const Station& part) {
  LeaseState* lease = find_lease(part.lease);
  if (lease == nullptr) return;
  for (const Range& r : lease->open.intersection(part.range())) lease->undivided.insert(r);
}

/// A process whose running item nobody wants is killed. (A fold runs all its claimed items as one.)
void WorkerCore::kill_if_unwanted(Seat& seat, const Station& place, Position position, std::uint32_t done) {
  if (seat.kind == SeatKind::kInProcess || seat.state != SeatState::kUp || position.next <= done) return;
  const LeaseState* lease = find_lease(place.lease);
  const bool wanted =
      lease != nullptr && lease->open.contains({place.base + done, place.base + position.next});
  if (!wanted) kill_seat(seat);
}

void WorkerCore::on(RevokeAsked&& e) {
  LeaseState* lease = find_lease(e.lease);
  if (lease == nullptr) {
    if (in_session_) tell(Released{e.lease, {}});
    return;
  }
  lease->revoke = lease->revoke.value_or(0) + e.count;
  if (lease->undivided.size() < *lease->revoke)
    cut_for_revoke(*lease, *lease->revoke - lease->undivided.size());
  if (cuts_awaited_ == 0) answer_revoke(*lease);
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
    lease.undivided.erase(tail);
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
    lease->undivided.erase(r);
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
  for (Seat& seat : seats_) {
    if (seat.reserved == e.call) seat.reserved.reset();
    if (seat.contexts.erase(e.call) > 0 && seat.occupied() && seat.state != SeatState::kKilled) {
      effect(DropContext{seat.id, e.call});
    }
  }
  due_.erase({call->due, e.call});
  calls_.erase(e.call);
}

void WorkerCore::forget_lease(Leases::iterator at) {
  CallState& call = *find_call(at->second.call);
  call.open -= at->second.open.size();
  std::erase(call.leases, at->first);
  leases_.erase(at);
  call.report_interval = kLongestInterval;
  for (const LeaseId id : call.leases)
    call.report_interval = std::min(call.report_interval, find_lease(id)->report_interval);
}

/// These items are nothing of this agent's any more. REQUIRES: they are open.
void WorkerCore::close_items(LeaseState& lease, Range range) {
  CallState& call = *find_call(lease.call);
  const std::uint64_t before = call.open;
  const std::uint64_t closed = lease.open.erase(range);
  BB_CHECK(closed == range.size());
  call.open -= closed;
  if (before > call.low_water && call.open <= call.low_water) call.urgent = true;
  if (call.urgent) touched_.insert(lease.call);
  if (lease.open.empty()) over_.push_back(lease.id);
}

// --- outcomes -----------------------------------------------------------------------------------

void WorkerCore::on(SeatProgressed&& e) {
  Seat* seat = find_seat(e.seat, e.life);
  if (seat == nullptr || e.station >= kSeatStations || e.count == 0) return;
  Station& place = seat->stations[e.station];
  if (!place.busy || place.generation != e.generation || e.first + std::uint64_t{e.count} > place.count)
    return;
  place.finished += e.count;
  seat->served = true;
  seat->fruitless = 0;
  LeaseState* lease = find_lease(place.lease);
  if (lease == nullptr) return;  // abandoned
  const Range range{place.base + e.first, place.base + e.first + e.count};
  const std::vector<Range> wanted = lease->open.intersection(range);
  const auto view = PageView::parse(e.page.bytes());
  const bool fold = view && view->kind() == PageKind::kFold;
  for (const Range& r : wanted) {
    // A fold settles as one unit: with a part that is not wanted any more, the rest runs again.
    if (!view || (fold && r != range) || (!fold && view->count() != range.size())) {
      place.again = true;
      continue;
    }
    gather(*lease, *seat, e, r);
    close_items(*lease, r);
  }
}

namespace {

void add_work(std::vector<SeatWork>& seats, const SeatWork& work) {
  auto at =
      std::find_if(seats.rbegin(), seats.rend(), [&](const SeatWork& w) { return w.seat == work.seat; });
  if (at == seats.rend()) {
    seats.push_back(work);
    return;
  }
  at->items += work.items;
  at->busy_ns += work.busy_ns;
  at->busy_squares += work.busy_squares;
  at->longest_ns = std::max(at->longest_ns, work.longest_ns);
}

}  // namespace

void WorkerCore::gather(LeaseState& lease, const Seat& seat, const SeatProgressed& e, Range range) {
  const std::uint64_t first = seat.stations[e.station].base + e.first;
  Frame page = e.page;
  if (range.size() != e.count) {
    const auto view = PageView::parse(e.page.bytes());
    page = slice_page(e.page, *view, range.begin - first, range.end - first);
  }
  if (lease.out.bytes + page.size() > kPageBytes * 4 || lease.out.spans.size() + 1 >= kMaxFrames)
    send_outcomes(lease);
  lease.out.bytes += page.size() + sizeof(OutcomeSpan);
  lease.out.spans.push_back({range.begin, range.size(), e.busy_ns});
  add_work(lease.out.seats, {seat.id, range.size(), e.busy_ns, e.busy_squares, e.longest_ns});
  lease.out.frames.push_back(std::move(page));
  CallState& call = *find_call(lease.call);
  call.times.add(range.size(), static_cast<double>(e.busy_ns), e.busy_squares);
  plan_report(call, lease.call);
}

/// Outcomes of this call wait to be sent.
void WorkerCore::plan_report(CallState& call, CallId id) {
  if (call.due != TimePoint::never()) return;
  call.due = call.reported ? *call.reported + std::max(kOutcomeInterval, call.report_interval) : now_;
  due_.insert({call.due, id});
}

void WorkerCore::lose(LeaseState& lease, std::uint64_t index, const DeathReport& death) {
  lease.undivided.erase({index, index + 1});
  lease.out.lost.push_back({index, death});
  CallState& call = *find_call(lease.call);
  call.urgent = true;
  plan_report(call, lease.call);
  close_items(lease, {index, index + 1});
}

void WorkerCore::on(SubLeaseDone&& e) {
  Seat* seat = find_seat(e.seat, e.life);
  if (seat == nullptr || e.station >= kSeatStations) return;
  const Station place = seat->stations[e.station];
  if (!place.busy || place.generation != e.generation) return;
  free_station(*seat, static_cast<int>(e.station));
  // A slot says this after its last outcome. Should some be missing, their items count as lost, so
  // that a slot that forgets outcomes cannot make an endless loop.
  if (place.again) {
    give_back(place);
  } else if (LeaseState* lease = find_lease(place.lease)) {
    for (const Range& r : lease->open.intersection(place.range())) {
      for (const Range& missing : lease->undivided.missing(r)) {
        for (std::uint64_t i = missing.begin; i < missing.end; ++i) lose(*lease, i, {});
      }
    }
  }
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
    if (call != nullptr) call->seat_freed = true, touched_.insert(place.call);
  }
  place = Station{};
}

void WorkerCore::on(TurnEnded&&) {
  run_seat_timers();
  divide();
  if (!ending_) {
    release_unservable();
    discard_idle_seats();
  }
  flush_outcomes();
  finish_leases();
  if (ending_ && !ended_ &&
      std::none_of(seats_.begin(), seats_.end(), [](const Seat& seat) { return seat.occupied(); })) {
    ended_ = true;
    effect(Stopped{});
  }
}

/// Outcomes leave when their time has come, with the last one of their lease, and when few items of the call are left:
/// at the crossing, and whenever a seat finds nothing more to do.
void WorkerCore::flush_outcomes() {
  for (const LeaseId id : over_) {
    LeaseState* lease = find_lease(id);
    if (lease != nullptr && lease->open.empty() && !lease->out.empty()) send_outcomes(*lease);
  }
  for (const CallId id : std::exchange(touched_, {})) {
    CallState* call = find_call(id);
    if (call == nullptr) continue;
    const bool freed = std::exchange(call->seat_freed, false);
    if (std::exchange(call->urgent, false) || (freed && call->open <= call->low_water && !has_work(*call)))
      report(*call, id);
  }
  while (!due_.empty() && due_.begin()->first <= now_) {
    const CallId id = due_.begin()->second;
    report(*find_call(id), id);
  }
}

/// All that waits of this call leaves.
void WorkerCore::report(CallState& call, CallId id) {
  if (call.due == TimePoint::never()) return;
  due_.erase({std::exchange(call.due, TimePoint::never()), id});
  for (const LeaseId lease : call.leases) {
    if (LeaseState* state = find_lease(lease); !state->out.empty()) send_outcomes(*state);
  }
}

void WorkerCore::send_outcomes(LeaseState& lease) {
  Outcomes outcomes;
  outcomes.ack = next_ack_++;
  outcomes.lease = lease.id;
  outcomes.spans = std::move(lease.out.spans);
  outcomes.seats = std::move(lease.out.seats);
  outcomes.lost = std::move(lease.out.lost);
  outcomes.steals = std::exchange(lease.steals, 0);
  Unacked sent{outcomes.ack, lease.out.bytes, {std::move(outcomes), std::move(lease.out.frames)}};
  lease.out = {};
  find_call(lease.call)->reported = now_;
  unacked_bytes_ += sent.bytes;
  if (in_session_) send(sent.message);
  unacked_.push_back(std::move(sent));
}

void WorkerCore::finish_leases() {
  for (const LeaseId id : std::exchange(over_, {})) {
    const auto at = leases_.find(id);
    if (at == leases_.end() || !at->second.open.empty()) continue;
    BB_CHECK(at->second.out.empty() && !at->second.revoke);
    forget_lease(at);
  }
}

/// Work for boxes of which none is left here goes back.
void WorkerCore::release_unservable() {
  for (auto& [id, lease] : leases_) {
    const CallState* call = find_call(lease.call);
    if (lease.undivided.empty() || call == nullptr || has_seats(call->context.port)) continue;
    Released released{id, lease.undivided.ranges()};
    for (const Range& r : released.ranges) close_items(lease, r);
    lease.undivided.clear();
    if (in_session_) tell(std::move(released));
  }
}

// --- invariants -----------------------------------------------------------------------------------

void WorkerCore::sanity_check() const {
  std::map<LeaseId, RangeSet> assigned;
  std::map<CallId, std::uint32_t> stations;
  std::uint32_t cutting = 0;
  for (const Seat& seat : seats_) {
    for (const Station& place : seat.stations) {
      if (!place.busy) continue;
      BB_CHECK(seat.occupied());
      cutting += place.cutting;
      ++stations[place.call];
      BB_CHECK(assigned[place.lease].insert(place.range()) == place.range().size());
    }
    for (const std::uint64_t token : seat.tokens) {
      const auto at = direct_.find(token);
      BB_CHECK(at != direct_.end() && at->second.seat == seat.id);
    }
    BB_CHECK(seat.occupied() || (seat.tokens.empty() && seat.contexts.empty() && !seat.offered));
  }
  BB_CHECK(cutting == cuts_awaited_);
  for (const auto& [id, lease] : leases_) {
    const auto call = calls_.find(lease.call);
    BB_CHECK(call != calls_.end());
    BB_CHECK(std::count(call->second.leases.begin(), call->second.leases.end(), id) == 1);
    for (const Range& r : lease.undivided.ranges()) {
      BB_CHECK(lease.open.contains(r));
      BB_CHECK(assigned[id].intersection(r).empty());
    }
    // Every open item is either undivided or in a station.
    for (const Range& r : lease.open.ranges()) {
      for (const Range& missing : lease.undivided.missing(r)) BB_CHECK(assigned[id].contains(missing));
    }
  }
  std::size_t due = 0;
  for (const auto& [id, call] : calls_) {
    BB_CHECK(call.stations == stations[id]);
    std::uint64_t open = 0;
    bool gathered = false;
    for (const LeaseId lease : call.leases) {
      open += leases_.at(lease).open.size();
      gathered = gathered || !leases_.at(lease).out.empty();
    }
    BB_CHECK(call.open == open);
    BB_CHECK(!gathered || due_.contains({call.due, id}));
    due += call.due != TimePoint::never();
  }
  BB_CHECK(due == due_.size());
  std::size_t bytes = 0, counted = 0;
  for (const Unacked& sent : unacked_) bytes += sent.bytes;
  BB_CHECK(bytes == unacked_bytes_);
  for (const auto& [client, count] : direct_counts_) counted += count;
  BB_CHECK(counted == direct_.size() && direct_by_client_.size() == direct_.size());
}

}  // namespace betterbox
