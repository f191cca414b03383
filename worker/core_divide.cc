// Who runs what: dividing leases over seats, stealing between them, and turns between calls
// (worker/core.h).
//
// The rule is the scheduler's, one level down: a seat gets remaining / (2 x seats) items, at least
// one (guided self-scheduling). Each seat has a part that runs and one that waits. An idle seat with
// nothing left to get steals: a waiting part whole, else half of the longest untouched tail.
#include <algorithm>

#include "runtime/check.h"
#include "worker/core.h"

namespace betterbox {

void WorkerCore::divide() {
  if (ending_ || cuts_awaited_ > 0) return;
  switch_at_ = TimePoint::never();
  for (Seat& seat : seats_) {
    const CallState* call = seat.reserved ? find_call(*seat.reserved) : nullptr;
    if (call == nullptr || !has_work(*call)) seat.reserved.reset();
  }
  while (assign_one()) {}
  relieve_starved();
  if (cuts_awaited_ == 0) steal_for_idle();
}

WorkerCore::LeaseState* WorkerCore::next_work(const CallState& call) {
  for (const LeaseId id : call.leases) {
    LeaseState* lease = find_lease(id);
    if (lease != nullptr && !lease->undivided.empty() && !lease->revoke) return lease;
  }
  return nullptr;
}

bool WorkerCore::has_work(const CallState& call) { return next_work(call) != nullptr; }

std::uint32_t WorkerCore::seats_of(Port port) const {
  if (port == kFunctionPool) return options_.function_slots;
  return static_cast<std::uint32_t>(std::count_if(seats_.begin(), seats_.end(), [&](const Seat& seat) {
    return seat.port == port && seat.state == SeatState::kUp;
  }));
}

/// Gives one part to one seat: the call that has least goes first. Result: false if nothing fits.
bool WorkerCore::assign_one() {
  std::vector<std::pair<CallId, CallState*>> waiting;
  for (auto& [id, call] : calls_) {
    if (has_work(call)) waiting.emplace_back(id, &call);
  }
  std::stable_sort(waiting.begin(), waiting.end(), [](const auto& a, const auto& b) {
    return std::pair(a.second->stations, a.second->last_served) <
           std::pair(b.second->stations, b.second->last_served);
  });
  for (auto& [id, call] : waiting) {
    if (Seat* seat = choose_seat(id, *call)) {
      give_part(id, *call, *seat);
      return true;
    }
  }
  return false;
}

WorkerCore::Seat* WorkerCore::choose_seat(CallId id, const CallState& call) {
  Seat* best = nullptr;
  int best_rank = 0;
  for (Seat& seat : seats_) {
    const int rank = seat_rank(seat, id, call);
    if (rank > best_rank) best = &seat, best_rank = rank;
  }
  return best;
}

/// How well a seat suits a call: 0 not at all; 4 idle and knows the client, 3 new process,
/// 2 process to be replaced, 1 busy, but its second place is free.
int WorkerCore::seat_rank(const Seat& seat, CallId id, const CallState& call) {
  if (seat.port != call.context.port || (seat.reserved && *seat.reserved != id)) return 0;
  if (seat.kind != SeatKind::kFunction) {
    if (seat.state != SeatState::kUp) return 0;
    return seat.is_free() ? 4 : seat.has_free_station() ? 1 : 0;
  }
  if (seat.state == SeatState::kEmpty) return seat.retry_at <= now_ ? 3 : 0;
  if (seat.state != SeatState::kUp) return 0;
  if (seat.client == id.client) return seat.is_free() ? 4 : seat.has_free_station() ? 1 : 0;
  return seat.is_free() && (seat.reserved == id || may_switch_client(seat)) ? 2 : 0;
}

bool WorkerCore::client_has_work(PeerId client) {
  return std::any_of(calls_.begin(), calls_.end(), [&](const auto& entry) {
    return entry.first.client == client && !entry.second.leases.empty();
  });
}

bool WorkerCore::may_switch_client(const Seat& seat) {
  const TimePoint allowed = seat.since + kSwitchInterval;
  if (allowed <= now_ || !client_has_work(seat.client)) return true;
  switch_at_ = std::min(switch_at_, allowed);
  return false;
}

void WorkerCore::give_part(CallId id, CallState& call, Seat& seat) {
  LeaseState& lease = *next_work(call);
  if (seat.kind == SeatKind::kFunction && (seat.state == SeatState::kEmpty || seat.client != id.client)) {
    if (seat.state != SeatState::kEmpty) {
      effect(DiscardSeat{seat.id});
      seat.contexts.clear();
    }
    seat.client = id.client;
    seat.since = now_;
    spawn(seat);
  }
  if (seat.reserved == id) seat.reserved.reset();
  if (seat.contexts.insert(id).second) effect(SendContext{seat.id, id, call.context.fold, call.frame});

  const std::uint64_t seats = std::max<std::uint32_t>(seats_of(seat.port), 1);
  std::uint64_t count = std::max<std::uint64_t>(1, lease.undivided.size() / (2 * seats));
  const std::uint64_t item_bytes = std::max<std::uint64_t>(1, lease.page_bytes / lease.items);
  count = std::min({count, std::max<std::uint64_t>(1, kChunkBytes / item_bytes), kMaxLeaseItems});
  const Range range = lease.undivided.take_front(count);

  const int station = seat.stations[0].busy ? 1 : 0;
  if (seat.is_free()) seat.running = station;
  Station& place = seat.stations[static_cast<std::size_t>(station)];
  place = {.busy = true,
           .lease = lease.id,
           .call = id,
           .base = range.begin,
           .count = static_cast<std::uint32_t>(range.size()),
           .generation = ++generation_};
  ++call.stations;
  call.last_served = ++served_;
  effect(InstallLease{seat.id, static_cast<std::uint32_t>(station), place.generation, id, place.base,
                      place.count, call.context.fold, page_parts(lease, range)});
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

// --- turns ---------------------------------------------------------------------------------------

/// Calls that have work and no seat get one from a call that has more than its share.
void WorkerCore::relieve_starved() {
  for (auto& [id, call] : calls_) {
    if (call.stations == 0 && has_work(call) && relieve(id, call.context.port)) return;
  }
}

/// Result: true if cuts are on their way.
bool WorkerCore::relieve(CallId id, Port port) {
  std::map<CallId, std::uint32_t> holders;  // seats per call
  for (const Seat& seat : seats_) {
    if (seat.port != port) continue;
    if (seat.reserved == id) return false;
    const Station& place = seat.stations[static_cast<std::size_t>(seat.running)];
    if (place.busy) ++holders[place.call];
  }
  const auto most = std::max_element(holders.begin(), holders.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  const auto active =
      static_cast<std::uint32_t>(std::count_if(calls_.begin(), calls_.end(), [&](auto& entry) {
        return entry.second.context.port == port && (entry.second.stations > 0 || has_work(entry.second));
      }));
  if (most == holders.end() || most->second * active <= seats_of(port)) return false;
  Seat* victim = nullptr;
  for (Seat& seat : seats_) {
    const Station& place = seat.stations[static_cast<std::size_t>(seat.running)];
    if (seat.port != port || seat.state != SeatState::kUp || seat.reserved || !place.busy) continue;
    if (place.call == most->first && (victim == nullptr || seat.since < victim->since)) victim = &seat;
  }
  if (victim == nullptr) return false;
  if (now_ - victim->since < kSwitchInterval) {
    switch_at_ = std::min(switch_at_, victim->since + kSwitchInterval);
    return false;
  }
  victim->reserved = id;
  victim->since = now_;
  for (int s = 0; s < kSeatStations; ++s) cut_station(*victim, s, ~std::uint32_t{0});
  return cuts_awaited_ > 0;
}

// --- stealing --------------------------------------------------------------------------------------

/// Items of a station that nobody has touched, as far as the outcomes show.
std::uint32_t WorkerCore::untouched(const Seat& seat, int station) const {
  const Station& place = seat.stations[static_cast<std::size_t>(station)];
  if (!place.busy || place.exhausted || place.cutting || seat.state == SeatState::kKilled) return 0;
  const std::uint32_t taken = station == seat.running ? place.finished + 1 : 0;
  return place.count > taken ? place.count - taken : 0;
}

void WorkerCore::steal_for_idle() {
  for (const Seat& thief : seats_) {
    if (thief.reserved || !thief.is_free()) continue;
    Seat* victim = nullptr;
    int station = 0;
    std::uint32_t most = 0;
    for (Seat& seat : seats_) {
      if (seat.id == thief.id || seat.port != thief.port) continue;
      for (int s = 0; s < kSeatStations; ++s) {
        const std::uint32_t left = untouched(seat, s);
        if (left <= most) continue;
        const CallId id = seat.stations[static_cast<std::size_t>(s)].call;
        const CallState* call = find_call(id);
        const LeaseState* lease = find_lease(seat.stations[static_cast<std::size_t>(s)].lease);
        if (call == nullptr || lease == nullptr || lease->revoke || seat_rank(thief, id, *call) == 0)
          continue;
        victim = &seat, station = s, most = left;
      }
    }
    if (victim == nullptr) continue;
    victim->stations[static_cast<std::size_t>(station)].stealing = true;
    cut_station(*victim, station, station == victim->running ? (most + 1) / 2 : most);
    return;  // its answer divides again
  }
}

}  // namespace betterbox
