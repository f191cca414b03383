// Who runs what: the indices of seats, and dividing leases over them (worker/core.h).
//
// The rule is the scheduler's, one level down, by the same policies (runtime/policy.h): each seat is a taker with
// one slot. An idle seat gets a part at once; with a policy that adapts, a seat that will soon be done gets its next
// part ahead of time, while there are more items than seats. What nobody was given stays undivided for whoever is
// free first.
#include <algorithm>
#include <tuple>

#include "runtime/check.h"
#include "worker/core.h"

namespace betterbox {

// --- indices -------------------------------------------------------------------------------------

std::uint8_t WorkerCore::sets_of(const Seat& seat) const {
  const bool function = seat.kind == SeatKind::kFunction;
  std::uint8_t sets = 0;
  if (function ? seat.state != SeatState::kGone : seat.state == SeatState::kUp) sets |= kIsUp;
  if (seat.state != SeatState::kGone && seat.state != SeatState::kStopping) sets |= kIsAlive;
  if (function && seat.state == SeatState::kEmpty && seat.retry_at <= now_) sets |= kVacant;
  if (seat.state != SeatState::kUp) return sets;
  if (untouched(seat, 0) + untouched(seat, 1) > 0) sets |= kStealable;
  if (seat.is_reserved()) return sets;
  if (seat.is_free()) {
    sets |= kIdle;
  } else if (seat.has_free_station() && !lends(seat) && is_hungry(seat)) {
    sets |= kHungry;
  }
  return sets;
}

/// After any change of a seat: every index that depends on it.
void WorkerCore::reindex(Seat& seat) {
  const CallId runs = seat.runs_now().busy ? seat.runs_now().call : CallId{};
  if (seat.runs != runs) {
    if (CallState* before = find_call(seat.runs)) --before->seats;
    if (CallState* after = find_call(runs)) ++after->seats;
    seat.runs = runs;
  }
  recount(seat);
  if (seat.needs != nullptr && seat.is_free()) {
    give_back_seat(left_, seat);
    give_back_devices(seat);
    seat.needs.reset();
    --busy_seats_;
  }
  const std::uint8_t sets = sets_of(seat);
  const auto changed = static_cast<std::uint8_t>(sets ^ seat.indexed);
  if (changed == 0) return;
  constexpr std::uint8_t kInCrowd = kIdle | kHungry;
  if ((seat.indexed & kInCrowd) == 0 && (sets & kInCrowd) != 0) seat.crowd = &crowd_of(seat.port, seat.kin);
  auto update = [&](SeatSet& set, std::uint8_t bit) {
    if ((changed & bit) == 0) return;
    (sets & bit) != 0 ? set.insert(seat.id.value) : set.erase(seat.id.value);
  };
  if ((changed & kInCrowd) != 0) {
    update(seat.crowd->idle, kIdle);
    update(seat.crowd->hungry, kHungry);
  }
  seat.indexed = sets;
  if ((changed & ~kHungry) == 0) return;
  PortState& port = ports_[seat.port];
  if ((changed & kIdle) != 0) (sets & kIdle) != 0 ? ++port.idle : --port.idle;
  update(port.stealable, kStealable);
  update(port.empty, kVacant);
  if ((changed & kIsUp) != 0) (sets & kIsUp) != 0 ? ++port.up : --port.up;
  if ((changed & kIsAlive) != 0) (sets & kIsAlive) != 0 ? ++port.alive : --port.alive;
  if (port.alive == 0) unservable_ = true;
}

void WorkerCore::set_state(Seat& seat, SeatState state) {
  seat.state = state;
  reindex(seat);
}

/// Another client's code will be, or nobody's code is, in this seat; or its process is started with other things.
void WorkerCore::set_kin(Seat& seat, Kin kin) {
  if (seat.kin == kin) return;
  const Kin before = seat.kin;
  if ((seat.indexed & (kIdle | kHungry)) != 0) {
    seat.crowd->idle.erase(seat.id.value);
    seat.crowd->hungry.erase(seat.id.value);
    if ((seat.indexed & kIdle) != 0) --ports_[seat.port].idle;
    seat.indexed &= static_cast<std::uint8_t>(~(kIdle | kHungry));
  }
  seat.kin = kin;
  reindex(seat);
  forget_crowd(before);
}

/// Once it is empty, and no call is of this kin.
void WorkerCore::forget_crowd(Kin kin) {
  const auto at = crowds_.find({kFunctionPool, kin});
  if (at == crowds_.end()) return;
  const Crowd& crowd = at->second;
  if (crowd.calls.empty() && crowd.idle.empty() && crowd.hungry.empty()) crowds_.erase(at);
}

/// Its last items are running, or will be by the time that anybody looks.
bool WorkerCore::is_hungry(const Seat& seat) const {
  const Station& place = seat.runs_now();
  const CallState* call = find_call(place.call);
  if (call == nullptr || !call->policy->adapts || !call->times.known()) return false;
  const double mean = mean_of(seat, place.call, *call);
  const Duration ahead = std::max(kSeatLookAhead, Duration{call->report_interval.ns / 2});
  if (place.left() * mean <= static_cast<double>(ahead.ns)) return true;
  return place.left() <= call->policy->low_water({1, place.left(), call->times}, kSeatRoundTrip);
}

void WorkerCore::put_undivided(LeaseState& lease, Range range) {
  const std::uint64_t before = lease.undivided.size();
  lease.undivided.insert(range);
  undivided_changed(lease, before);
}

void WorkerCore::take_undivided(LeaseState& lease, Range range) {
  const std::uint64_t before = lease.undivided.size();
  lease.undivided.erase(range);
  undivided_changed(lease, before);
}

void WorkerCore::undivided_changed(LeaseState& lease, std::uint64_t before) {
  const std::uint64_t after = lease.undivided.size();
  if (before == after) return;
  CallState& call = *find_call(lease.call);
  call.undivided = call.undivided - before + after;
  if (after == 0) {
    call.divisible.erase(lease.id);
    if (call.undivided == 0) working_.erase(lease.call);
  } else if (before == 0) {
    call.divisible.insert(lease.id);
    working_.insert(lease.call);
    if (ports_[call.context.port].alive == 0) unservable_ = true;
  }
}

/// How many items of calls at this port may run at a time.
std::uint32_t WorkerCore::seats_of(Port port) const {
  if (port == kFunctionPool) return options_.function_slots;
  const auto at = ports_.find(port);
  return at == ports_.end() ? 0 : at->second.up;
}

// --- dividing ------------------------------------------------------------------------------------

void WorkerCore::divide() {
  switch_at_ = lent_look_at_ = TimePoint::never();
  if (ending_ || starts_nothing() || cuts_awaited_ > 0) return;
  drop_reservations();
  assign();
  relieve_starved();
  if (cuts_awaited_ == 0) steal_for_idle();
}

/// Higher priorities first, then deeper calls, for which others wait, then who has least, then who has waited longest. A call whose needs have not fitted for a
/// while, although it has no seat, keeps others from taking what becomes free.
void WorkerCore::assign() {
  candidates_.clear();
  for (const CallId id : working_) {
    CallState* call = find_call(id);
    if (!call->awaits_values) candidates_.emplace_back(id, call);
  }
  auto rank = [](const std::pair<CallId, CallState*>& c) {
    return std::tuple(-std::int64_t{c.second->context.priority}, -std::int64_t{c.second->context.depth},
                      c.second->stations, c.second->last_served, c.first);
  };
  while (!candidates_.empty()) {
    const auto next = std::min_element(candidates_.begin(), candidates_.end(),
                                       [&](const auto& a, const auto& b) { return rank(a) < rank(b); });
    const auto [id, call] = *next;
    const bool given = give_one(id, *call);
    if (given && call->undivided > 0) continue;
    candidates_.erase(next);
    if (given || !is_held_up(*call)) continue;
    std::erase_if(candidates_, [&, held = call](const auto& c) {
      return c.second->context.priority <= held->context.priority &&
             c.second->context.depth <= held->context.depth;
    });
  }
}

bool WorkerCore::is_held_up(CallState& call) {
  if (call.seats > 0 || fits(call)) {
    call.held.reset();
    return false;
  }
  if (!call.held) call.held = now_;
  return now_ - *call.held >= kSwitchInterval;
}

/// Result: false if there is no seat for this call now, or its policy lets it wait.
bool WorkerCore::give_one(CallId id, CallState& call) {
  Seat* seat = choose_idle_seat(id, call);
  if (seat == nullptr) seat = choose_hungry_seat(call);
  if (seat == nullptr) return false;
  LeaseState& lease = *find_lease(*call.divisible.begin());
  const std::uint64_t count = part_size(id, call, lease, *seat);
  if (count == 0) return false;
  give_part(id, call, lease, *seat, count);
  return true;
}

/// Best first: kept for this call, knows the client, no process yet, and a process that is to be replaced.
WorkerCore::Seat* WorkerCore::choose_idle_seat(CallId, CallState& call) {
  if (!fits(call) || !has_place(call)) return nullptr;
  if (!device_left_.empty() && call.context.port == kFunctionPool) return choose_by_devices(call);
  for (const SeatId kept : call.reserved) {
    Seat& seat = seats_[kept.value];
    if (seat.state == SeatState::kUp && seat.is_free()) return &seat;
  }
  if (!call.crowd->idle.empty()) return &seats_[call.crowd->idle.next()];
  if (call.context.port != kFunctionPool) return nullptr;
  return choose_foreign_seat(call);
}

/// A function seat whose process is to be made (anew) for this call's client.
WorkerCore::Seat* WorkerCore::choose_foreign_seat(const CallState& call) {
  if (const SeatSet& empty = ports_[kFunctionPool].empty; !empty.empty()) return &seats_[empty.next()];
  Seat* others = nullptr;  // the client has more work, but nobody is to wait for it while items wait
  for (auto& [key, crowd] : crowds_) {
    if (key.first != kFunctionPool) break;
    if (&crowd == call.crowd) continue;
    for (std::uint32_t s = crowd.idle.next(); s != SeatSet::kNone; s = crowd.idle.next(s + 1)) {
      if (may_switch_kin(seats_[s], crowd)) return &seats_[s];
      if (others == nullptr) others = &seats_[s];
    }
  }
  if (may_add_seat()) return &add_seat(kFunctionPool, SeatKind::kFunction);
  return lending_ > 0 ? others : nullptr;
}

/// What is reserved for the part that runs must do for the one that waits.
WorkerCore::Seat* WorkerCore::choose_hungry_seat(CallState& call) {
  if (!call.policy->adapts) return nullptr;
  const SeatSet& hungry = call.crowd->hungry;
  for (std::uint32_t s = hungry.next(); s != SeatSet::kNone; s = hungry.next(s + 1)) {
    if (seats_[s].needs == call.needs) return &seats_[s];
  }
  return nullptr;
}

bool WorkerCore::fits(const CallState& call) const {
  if (items_that_fit(left_, *call.needs, 1) == 0) return false;
  return call.needs->gpus_milli == 0 || device_left_.empty() || free_devices(*call.needs) != 0;
}

/// How many seats may run items of this call at a time, if nobody else is there.
std::uint64_t WorkerCore::seats_for(const CallState& call) const {
  return items_that_fit(capacity_, *call.needs, seats_of(call.context.port));
}

bool WorkerCore::has_work(const Crowd& crowd) const {
  return std::any_of(crowd.calls.begin(), crowd.calls.end(),
                     [&](CallId id) { return !calls_.at(id).leases.empty(); });
}

/// A seat of that crowd.
bool WorkerCore::may_switch_kin(const Seat& seat, const Crowd& crowd) {
  const TimePoint allowed = seat.since + kSwitchInterval;
  if (allowed <= now_ || !has_work(crowd)) return true;
  switch_at_ = std::min(switch_at_, allowed);
  return false;
}

/// Named policies divide each lease as if it were all there is; `auto` looks at all of the call.
std::uint64_t WorkerCore::part_size(CallId id, CallState& call, LeaseState& lease, const Seat& seat) {
  const bool adapts = call.policy->adapts;
  Work work;
  work.remaining = adapts ? call.undivided : lease.undivided.size();
  work.total = adapts ? call.open : lease.items();
  work.outstanding = adapts ? call.open - call.undivided : lease.open.size() - lease.undivided.size();
  work.total_slots = work.takers = std::max<std::uint64_t>(1, seats_for(call));
  work.idle_slots = work.total_slots;  // the next part is near: the last items wait here, not in some seat
  work.mean_ns = call.times.mean();
  if (work.mean_ns > 0) {
    const std::uint64_t guessed = work.takers - std::min<std::uint64_t>(work.takers, call.known_seats);
    work.items_per_ns = call.known_rate + static_cast<double>(guessed) / work.mean_ns;
  }
  work.scatter = call.known_scatter;
  work.round_trip = kSeatRoundTrip;
  work.least_lease = kLeastPart;
  Taker taker;
  for (const Station& place : seat.stations) taker.outstanding += place.call == id ? place.left() : 0;
  if (seat.times_of == id) taker.times = seat.times;
  std::uint64_t count = lease.undivided.size();
  if (adapts || work.takers > 1)
    count = call.policy->items_to_give(work, taker, adapts ? call.memory : lease.memory);
  if (count == 0) return 0;
  if (adapts && !lease.costs.empty()) count = items_of_cost(lease, count);
  const std::uint64_t item_bytes = std::max<std::uint64_t>(1, lease.page_bytes / lease.items());
  return std::min({count, std::max<std::uint64_t>(1, kChunkBytes / item_bytes), kMaxLeaseItems});
}

/// So many items from the front of what is undivided as cost what `count` items cost on the average.
std::uint64_t WorkerCore::items_of_cost(const LeaseState& lease, std::uint64_t count) const {
  double left = 0;
  for (const Range& r : lease.undivided.ranges()) left += lease.cost(r);
  const double budget = left * static_cast<double>(count) / static_cast<double>(lease.undivided.size());
  const Range front = lease.undivided.front();
  const auto from = lease.costs.begin() + static_cast<std::ptrdiff_t>(front.begin - lease.range.begin);
  const auto end = from + static_cast<std::ptrdiff_t>(front.size());
  const auto at = std::upper_bound(from, end + 1, *from + budget * (1 + 1e-9));
  return std::max<std::uint64_t>(1, static_cast<std::uint64_t>(at - from) - 1);
}

/// The process of this seat will have seen no other client's code, was started with what the call needs, and sees the
/// devices that it may use.
void WorkerCore::seat_kin(const CallState& call, Seat& seat) {
  if (seat.kind != SeatKind::kFunction || !seat.is_free()) return;
  if (seat.state != SeatState::kEmpty && seat.kin == call.kin && suits(seat, call)) return;
  if (seat.state != SeatState::kEmpty) {
    effect(DiscardSeat{seat.id});
    seat.contexts.clear();
  }
  set_kin(seat, call.kin);
  seat.since = now_;
  seat.devices = devices_for(seat, call);
  spawn(seat, call.surroundings);
}

void WorkerCore::give_part(CallId id, CallState& call, LeaseState& lease, Seat& seat, std::uint64_t count) {
  seat_kin(call, seat);
  if (seat.reserved == id) unreserve(seat);
  const auto context = std::lower_bound(seat.contexts.begin(), seat.contexts.end(), id);
  if (context == seat.contexts.end() || *context != id) {
    seat.contexts.insert(context, id);
    effect(SendContext{seat.id, id, call.context.fold, call.frame, call.context.depth});
  }
  if (seat.needs == nullptr) {
    take_needs(left_, *call.needs);
    take_devices(seat, call);
    seat.needs = call.needs;
    seat.cpus_held = call.needs->cpus_milli;
    ++busy_seats_;
  }
  const std::uint64_t before = lease.undivided.size();
  const Range range = lease.undivided.take_front(count);
  undivided_changed(lease, before);

  const int station = seat.stations[0].busy ? 1 : 0;
  if (seat.is_free()) {
    seat.running = static_cast<std::uint8_t>(station);
    seat.heard = now_;
  }
  Station& place = seat.stations[static_cast<std::size_t>(station)];
  place = {};
  place.lease = lease.id;
  place.call = id;
  place.base = range.begin;
  place.count = static_cast<std::uint32_t>(range.size());
  place.generation = ++generation_;
  place.busy = true;
  place.depth = call.context.depth;
  ++call.stations;
  call.last_served = ++served_;
  call.held.reset();
  effect(InstallLease{seat.id, static_cast<std::uint32_t>(station), place.generation, id, place.base,
                      place.count, call.context.fold, page_parts(lease, range)});
  reindex(seat);
}

std::vector<PagePart> WorkerCore::page_parts(const LeaseState& lease, Range range) const {
  std::vector<PagePart> parts;
  auto page = std::upper_bound(lease.pages.begin(), lease.pages.end(), range.begin,
                               [](std::uint64_t item, const Page& p) { return item < p.first + p.count; });
  for (std::uint64_t item = range.begin; item < range.end; ++page) {
    BB_CHECK(page != lease.pages.end() && page->first <= item);
    const std::uint64_t end = std::min(range.end, page->first + page->count);
    parts.push_back(
        {item, end - item, slice_page(page->frame, page->view, item - page->first, end - page->first)});
    item = end;
  }
  return parts;
}

}  // namespace betterbox
