// Invariants of the worker core, across all tables (worker/core.h).
#include <algorithm>

#include "runtime/check.h"
#include "worker/core.h"

namespace betterbox {

/// What an index says of a seat is so. (What depends on the time or on a call's measured times may be older.)
void WorkerCore::check_indices(const Seat& seat) const {
  constexpr std::uint8_t kOlder = kHungry | kVacant;
  BB_CHECK(((sets_of(seat) ^ seat.indexed) & ~kOlder) == 0);
  const auto crowd = crowds_.find({seat.port, seat.port == kFunctionPool ? seat.kin : Kin{}});
  for (const auto& [key, other] : crowds_) {
    const bool here = crowd != crowds_.end() && &other == &crowd->second;
    BB_CHECK(other.idle.contains(seat.id.value) == (here && (seat.indexed & kIdle) != 0));
    BB_CHECK(other.hungry.contains(seat.id.value) == (here && (seat.indexed & kHungry) != 0));
  }
  const PortState& port = ports_.at(seat.port);
  BB_CHECK(port.stealable.contains(seat.id.value) == ((seat.indexed & kStealable) != 0));
  BB_CHECK(port.empty.contains(seat.id.value) == ((seat.indexed & kVacant) != 0));
  BB_CHECK(seat.runs == (seat.runs_now().busy ? seat.runs_now().call : CallId{}));
  BB_CHECK((seat.needs == nullptr) == seat.is_free());
  if (!seat.is_reserved()) return;
  const std::vector<SeatId>& reserved = calls_.at(seat.reserved).reserved;
  BB_CHECK(std::count(reserved.begin(), reserved.end(), seat.id) == 1);
}

void WorkerCore::check_call(CallId id, const CallState& call) const {
  std::uint64_t open = 0, undivided = 0;
  bool gathered = false;
  for (const LeaseId lease : call.leases) {
    const LeaseState& state = leases_.at(lease);
    open += state.open.size();
    undivided += state.undivided.size();
    gathered = gathered || !state.out.empty();
    BB_CHECK(call.divisible.contains(lease) == !state.undivided.empty());
  }
  BB_CHECK(call.crowd->calls.contains(id));
  BB_CHECK(call.open == open && call.undivided == undivided);
  BB_CHECK(working_.contains(id) == (undivided > 0));
  BB_CHECK(reserving_.contains(id) == !call.reserved.empty());
  BB_CHECK(!gathered || due_.contains({call.due, id}));
  std::uint32_t seats = 0, known = 0;
  for (const Seat& seat : seats_) {
    seats += seat.runs == id;
    known += seat.times_of == id;
  }
  BB_CHECK(call.seats == seats && call.known_seats == known);
}

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
    for (const std::uint64_t token : seat.box != nullptr ? seat.box->tokens : std::set<std::uint64_t>()) {
      const auto at = direct_.find(token);
      BB_CHECK(at != direct_.end() && at->second.seat == seat.id);
    }
    BB_CHECK(seat.occupied() || seat.contexts.empty());
    BB_CHECK(seat.occupied() || seat.box == nullptr || (seat.box->tokens.empty() && !seat.box->offered));
    check_indices(seat);
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
  for (const auto& [port, state] : ports_) {
    const auto idle = std::count_if(seats_.begin(), seats_.end(), [&, at = port](const Seat& seat) {
      return seat.port == at && (seat.indexed & kIdle) != 0;
    });
    BB_CHECK(idle == static_cast<std::ptrdiff_t>(state.idle));
  }
  const auto busy = std::count_if(seats_.begin(), seats_.end(), [](const Seat& s) { return !s.is_free(); });
  BB_CHECK(busy == static_cast<std::ptrdiff_t>(busy_seats_));
  Resources left = capacity_;
  std::uint32_t running = 0, lending = 0;
  for (const Seat& seat : seats_) {
    if (seat.needs == nullptr) continue;
    BB_CHECK(seat.cpus_held <= seat.needs->cpus_milli);
    left.cpus_milli += seat.needs->cpus_milli - seat.cpus_held;
    take_needs(left, *seat.needs);
    if (seat.kind != SeatKind::kFunction) continue;
    ++(lends(seat) ? lending : running);
    BB_CHECK(seat.use == (lends(seat) ? Use::kLends : Use::kRuns) &&
             seat.depth == seat.stations[seat.running].depth);
  }
  BB_CHECK(running == running_ && lending == lending_);
  std::vector<std::uint32_t> devices(device_left_.size(), 1000);
  for (std::size_t d = 0; d < devices.size(); ++d) {
    for (const Seat& seat : seats_) devices[d] -= (seat.devices >> d & 1U) != 0 ? seat.device_milli : 0;
  }
  BB_CHECK(devices == device_left_);
  BB_CHECK(left.cpus_milli == left_.cpus_milli && left.gpus_milli == left_.gpus_milli);
  std::size_t due = 0;
  for (const auto& [id, call] : calls_) {
    BB_CHECK(call.stations == stations[id]);
    check_call(id, call);
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
