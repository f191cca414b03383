// Turns between calls, and stealing between seats (worker/core.h).
//
// Turns: a call of a higher priority takes as many seats as it can use from calls of lower ones; among equals, a call
// without any takes one from the call that has most, if that has more than its share. What such a seat runs is cut
// off behind the running item, and the seat is reserved.
// Stealing: an idle seat for which nothing is left gets items that another one has and has not begun: of the seat
// with most time left, so many that both are done at the same time. One that is silent for long has an item that
// takes long, and its others are not left behind it.
#include <algorithm>
#include <cmath>

#include "runtime/check.h"
#include "worker/core.h"

namespace betterbox {

// --- reservations --------------------------------------------------------------------------------

void WorkerCore::reserve(Seat& seat, CallId id, CallState& call) {
  BB_CHECK(!seat.is_reserved());
  seat.reserved = id;
  seat.since = now_;
  call.reserved.push_back(seat.id);
  reserving_.insert(id);
  reindex(seat);
}

void WorkerCore::unreserve(Seat& seat) {
  if (!seat.is_reserved()) return;
  if (CallState* call = find_call(seat.reserved)) {
    std::erase(call->reserved, seat.id);
    if (call->reserved.empty()) reserving_.erase(seat.reserved);
  }
  seat.reserved = {};
  reindex(seat);
}

void WorkerCore::drop_reservations() {
  for (auto at = reserving_.begin(); at != reserving_.end();) {
    CallState& call = *find_call(*at++);
    if (call.undivided > 0) continue;
    for (const SeatId id : std::vector<SeatId>(call.reserved)) unreserve(seats_[id.value]);
  }
}

/// Takes a seat from whoever has it; the running item goes on.
void WorkerCore::take_seat(Seat& seat, CallId id, CallState& call) {
  reserve(seat, id, call);
  for (int s = 0; s < kSeatStations; ++s) cut_station(seat, s, ~std::uint32_t{0});
}

/// So many more parts of this call can run once what is reserved for it is free.
bool WorkerCore::has_enough_reserved(const CallState& call, std::uint64_t parts) const {
  Resources later = left_;
  for (const SeatId id : call.reserved) {
    if (const Seat& seat = seats_[id.value]; seat.needs != nullptr) give_back_seat(later, seat);
  }
  std::uint64_t free = call.crowd->idle.size();
  if (call.context.port == kFunctionPool) {
    free += ports_.at(kFunctionPool).empty.size();
    free = std::min<std::uint64_t>(free, free_places());
  }
  return items_that_fit(later, *call.needs, call.reserved.size() + free) >= parts;
}

// --- turns ---------------------------------------------------------------------------------------

void WorkerCore::relieve_starved() {
  candidates_.clear();
  for (const CallId id : working_) {
    CallState* call = find_call(id);
    if (!call->awaits_values) candidates_.emplace_back(id, call);
  }
  if (priorities_.size() > 1) {
    std::stable_sort(candidates_.begin(), candidates_.end(), [](const auto& a, const auto& b) {
      return a.second->context.priority > b.second->context.priority;
    });
  }
  for (const auto& [id, call] : candidates_) {
    // What waits behind its like, which waits in turn for deeper calls, has use for no other's place.
    if (call->context.port == kFunctionPool && level(call->context.depth).lending > 0) continue;
    if (priorities_.size() > 1) overrule(id, *call);
    if (call->seats == 0 && cuts_awaited_ == 0) relieve(id, *call);
    if (cuts_awaited_ > 0) return;  // their answers divide again
  }
}

/// Takes seats from calls of lower priorities, the lowest first.
void WorkerCore::overrule(CallId id, CallState& call) {
  const std::uint64_t most = seats_for(call);
  const std::uint64_t wanted = std::min(call.undivided, most - std::min<std::uint64_t>(most, call.seats));
  auto is_lower = [&](const CallState* other) {
    return other != nullptr && other->context.priority < call.context.priority && other->seats > 0 &&
           other->context.port == call.context.port;
  };
  if (std::none_of(calls_.begin(), calls_.end(), [&](const auto& entry) { return is_lower(&entry.second); }))
    return;
  while (!has_enough_reserved(call, wanted)) {
    Seat* victim = nullptr;
    std::int32_t lowest = 0;
    for (Seat& seat : seats_) {
      if (seat.state != SeatState::kUp || seat.is_reserved() || seat.is_free() || lends(seat)) continue;
      const CallState* holder = find_call(seat.runs);
      if (!is_lower(holder) || (victim != nullptr && holder->context.priority >= lowest)) continue;
      victim = &seat, lowest = holder->context.priority;
    }
    if (victim == nullptr) return;
    take_seat(*victim, id, call);
  }
}

/// Takes seats from the call that has most, until this one can run one part.
void WorkerCore::relieve(CallId id, CallState& call) {
  const Port port = call.context.port;
  while (!has_enough_reserved(call, 1)) {
    CallId most{};
    std::uint32_t seats = 0, active = 0;
    for (const auto& [other, state] : calls_) {
      if (state.context.port != port) continue;
      active += state.seats > 0 || state.undivided > 0;
      if (other != id && state.context.priority <= call.context.priority && state.seats > seats)
        most = other, seats = state.seats;
    }
    if (seats == 0 || seats * active <= seats_of(port)) return;
    Seat* victim = nullptr;
    for (Seat& seat : seats_) {
      if (seat.runs != most || seat.port != port || seat.state != SeatState::kUp || seat.is_reserved() ||
          lends(seat))
        continue;
      if (victim == nullptr || seat.since < victim->since) victim = &seat;
    }
    if (victim == nullptr) return;
    if (now_ - victim->since < kSwitchInterval) {
      switch_at_ = std::min(switch_at_, victim->since + kSwitchInterval);
      return;
    }
    take_seat(*victim, id, call);
  }
}

// --- stealing --------------------------------------------------------------------------------------

/// Items of a station that nobody has touched, as far as the outcomes show.
std::uint32_t WorkerCore::untouched(const Seat& seat, int station) const {
  const Station& place = seat.stations[static_cast<std::size_t>(station)];
  if (!place.busy || place.exhausted || place.cutting || seat.state == SeatState::kKilled) return 0;
  const std::uint32_t taken = station == seat.running ? place.finished + 1 : 0;
  return place.count > taken ? place.count - taken : 0;
}

/// What an item of this call takes in this seat, as far as is known.
double WorkerCore::mean_of(const Seat& seat, CallId id, const CallState& call) const {
  return seat.times_of == id && seat.times.known() ? seat.times.mean() : call.times.mean();
}

void WorkerCore::steal_for_idle() {
  for (const auto& [port, state] : ports_) {
    const bool idle = state.idle > 0 || !state.empty.empty();
    if (idle && !state.stealable.empty() && steal(state)) return;  // its answer divides again
  }
}

std::uint32_t WorkerCore::untouched_of(const Seat& seat, CallId id) const {
  std::uint32_t items = 0;
  for (int s = 0; s < kSeatStations; ++s) {
    if (seat.stations[static_cast<std::size_t>(s)].call == id) items += untouched(seat, s);
  }
  return items;
}

/// Result: true if a cut is on its way.
bool WorkerCore::steal(const PortState& port) {
  Seat* victim = nullptr;
  CallId of{}, asked{};
  double most = 0;
  bool may = false;  // there is a seat for `asked`
  for (std::uint32_t s = port.stealable.next(); s != SeatSet::kNone; s = port.stealable.next(s + 1)) {
    Seat& seat = seats_[s];
    for (const Station& place : seat.stations) {
      CallState* call = place.busy ? find_call(place.call) : nullptr;
      if (call == nullptr) continue;
      if (place.call != asked) {
        asked = place.call;
        may = call->policy->adapts && choose_idle_seat(asked, *call) != nullptr;
      }
      if (!may) continue;
      const double mean = call->times.known() ? mean_of(seat, asked, *call) : 1e9;
      double left = untouched_of(seat, asked) * mean;
      if (left > 0 && left < static_cast<double>(kSeatRoundTrip.ns)) {
        // Soon done, if they are like those before; but what runs may be long.
        const TimePoint suspicious = seat.heard + kLongSilence;
        if (now_ < suspicious) {
          switch_at_ = std::min(switch_at_, suspicious);
          continue;
        }
        left = static_cast<double>((now_ - seat.heard).ns);
      }
      if (left > most) victim = &seat, of = asked, most = left;
    }
  }
  if (victim == nullptr) return false;
  const std::uint32_t count = share_of_thieves(*victim, of, *find_call(of), port);
  const int waiting = 1 - victim->running;
  Station& second = victim->stations[static_cast<std::size_t>(waiting)];
  const std::uint32_t whole = second.call == of ? untouched(*victim, waiting) : 0;
  const int station = whole > 0 ? waiting : victim->running;
  victim->stations[static_cast<std::size_t>(station)].stealing = true;
  cut_station(*victim, station, whole > 0 ? std::min(count, whole) : count);
  return true;
}

/// So many that both are done at the same time; half of an item still runs, on the average.
std::uint32_t WorkerCore::share_of_thieves(const Seat& victim, CallId id, const CallState& call,
                                           const PortState& port) const {
  const std::uint32_t left = untouched_of(victim, id);
  double idle = call.crowd->idle.size();
  if (call.context.port == kFunctionPool) idle = std::min<double>(idle + port.empty.size(), free_places());
  const double thieves = std::max(1.0, idle / port.stealable.size());
  const double theirs = call.times.known() ? thieves / call.times.mean() : thieves;
  const double its = call.times.known() ? 1 / mean_of(victim, id, call) : 1;
  const double share = std::round((left + 0.5) * theirs / (theirs + its));
  return static_cast<std::uint32_t>(std::clamp(share, 1.0, static_cast<double>(left)));
}

}  // namespace betterbox
