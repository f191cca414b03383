// Places of items that wait for calls of their own (worker/core.h).
//
// A worker has as many places as slots. An item of a plain function that waits for calls of its own lends its place, and
// gives its cpus back; memory, GPUs and named resources it keeps. Calls that are nested deeper run there, in a seat that is
// made for them, so that whatever was called can run. Once it has what it waited for it goes on at once, although the
// seats are one too many for a while. At each depth no more items run and wait than there are slots: so there are never
// more seats than slots times levels, and a deep recursion is gone through depth first. Where nothing deeper wants the
// place (an item may wait for one beside it, through a box), others get it after a while.
#include <algorithm>

#include "runtime/check.h"
#include "worker/core.h"

namespace betterbox {
namespace {

/// The scheduler hears at most so often how many items wait.
constexpr Duration kWaitingInterval = milliseconds(100);

}  // namespace

/// What waits behind the item is for others. Boxes have no place to lend.
void WorkerCore::on(SeatWaits&& e) {
  Seat* seat = find_seat(e.seat, e.life);
  if (seat == nullptr || seat->waits == e.waits) return;
  seat->waits = e.waits;
  if (e.waits && seat->state == SeatState::kUp) {
    for (int s = 0; s < kSeatStations; ++s) cut_station(*seat, s, ~std::uint32_t{0});
  }
  reindex(*seat);
  if (running_ > options_.function_slots) shorten_one();
}

/// With an item that goes on there is one too many: a seat ends with its item.
void WorkerCore::shorten_one() {
  Seat* most = nullptr;
  const auto left = [this](const Seat& seat) { return untouched(seat, 0) + untouched(seat, 1); };
  for (Seat& seat : seats_) {
    if (seat.use == Use::kRuns && seat.state == SeatState::kUp &&
        left(seat) > (most == nullptr ? 0 : left(*most)))
      most = &seat;
  }
  if (most == nullptr) return;
  for (int s = 0; s < kSeatStations; ++s) cut_station(*most, s, ~std::uint32_t{0});
}

/// What the seat does with a place, and its cpus. One that goes on takes of these what is there.
void WorkerCore::recount(Seat& seat) {
  if (seat.kind != SeatKind::kFunction) return;
  const Use use = seat.is_free() ? Use::kNone : seat.waits ? Use::kLends : Use::kRuns;
  const std::uint32_t depth = seat.runs_now().depth;
  if (use == seat.use && depth == seat.depth) return;
  count_use(seat, -1);
  if (use == Use::kLends && seat.use != Use::kLends) {
    left_.cpus_milli += std::exchange(seat.cpus_held, 0);
  } else if (use == Use::kRuns && seat.use == Use::kLends) {
    seat.cpus_held = std::min(left_.cpus_milli, seat.needs->cpus_milli);
    left_.cpus_milli -= seat.cpus_held;
  }
  seat.use = use;
  seat.depth = depth;
  count_use(seat, +1);
  lent_in_vain_ = TimePoint::never();  // something has moved
}

void WorkerCore::count_use(const Seat& seat, int sign) {
  if (seat.use == Use::kNone) return;
  const bool runs = seat.use == Use::kRuns;
  Level& at = seat.depth == 0 ? top_level_ : levels_[seat.depth];
  (runs ? running_ : lending_) += static_cast<std::uint32_t>(sign);
  (runs ? at.running : at.lending) += static_cast<std::uint32_t>(sign);
  if (seat.depth != 0 && at.running + at.lending == 0) levels_.erase(seat.depth);
}

/// REQUIRES: it has needs.
void WorkerCore::give_back_seat(Resources& left, const Seat& seat) const {
  give_back_needs(left, *seat.needs);
  left.cpus_milli -= seat.needs->cpus_milli - seat.cpus_held;
}

WorkerCore::Level WorkerCore::level(std::uint32_t depth) const {
  if (depth == 0) return top_level_;
  const auto at = levels_.find(depth);
  return at == levels_.end() ? Level{} : at->second;
}

/// Another item of this call may run.
bool WorkerCore::has_place(const CallState& call) {
  if (call.context.port != kFunctionPool) return true;
  if (running_ >= options_.function_slots) return false;
  if (lending_ == 0) return true;  // its depth runs no more than all
  const Level beside = level(call.context.depth);
  const std::uint32_t begun = beside.running + beside.lending;
  return begun < options_.function_slots || out_of_patience(begun - options_.function_slots);
}

/// Nothing has moved for long, and no deeper call has wanted the place. `beyond`: items of its depth that did this before.
bool WorkerCore::out_of_patience(std::uint32_t beyond) {
  if (lent_in_vain_ == TimePoint::never()) lent_in_vain_ = now_;
  const TimePoint over = lent_in_vain_ + kLentPatience * (std::int64_t{beyond} + 1);
  if (over <= now_) return true;
  lent_look_at_ = std::min(lent_look_at_, over);
  return false;
}

/// The places of items that wait are of use to others. (A thread of this process is all there is in_process.)
bool WorkerCore::may_lend() const {
  return !options_.in_process && function_seats_ < options_.function_slots + kMaxWaitingSeats;
}

/// A seat for each place that was lent, and as many again: a process is one client's, and may not change it at once.
bool WorkerCore::may_add_seat() const {
  return lending_ > 0 && may_lend() && function_seats_ < 2 * options_.function_slots + lending_;
}

bool WorkerCore::is_spare(const Seat& seat) const { return seat.id.value >= options_.function_slots; }

/// Soon, but not with each item.
void WorkerCore::tell_waiting() {
  waiting_told_at_ = TimePoint::never();
  if (!in_session_ || lending_ == told_load_.waiting_slots) return;
  if (now_ - load_told_at_ >= kWaitingInterval) return tell_load();
  waiting_told_at_ = load_told_at_ + kWaitingInterval;
}

}  // namespace betterbox
