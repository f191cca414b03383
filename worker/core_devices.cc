// Which process may use which GPU (worker/core.h).
//
// A call that needs whole devices has them alone while its items run; one that needs a part of one shares it, by
// thousandths. A process that runs such items sees these devices and no others. All other processes have an even
// share: one device each, in turn, of those that no call has for itself; none, if there is none.
#include <bit>

#include "runtime/check.h"
#include "worker/core.h"

namespace betterbox {
namespace {

constexpr std::uint32_t kWhole = 1000;

std::uint64_t bit_of(std::size_t device) { return std::uint64_t{1} << device; }

/// How many devices an item sees.
std::size_t device_count(const Resources& needs) {
  return static_cast<std::size_t>((needs.gpus_milli + kWhole - 1) / kWhole);
}

/// How much of each it takes: more than one are always whole.
std::uint32_t milli_of_each(const Resources& needs) {
  return needs.gpus_milli >= kWhole ? kWhole : static_cast<std::uint32_t>(needs.gpus_milli);
}

}  // namespace

/// The process in this seat sees what items of this call may use, and that is free.
bool WorkerCore::suits(const Seat& seat, const CallState& call) const {
  if (device_left_.empty()) return true;
  const std::size_t count = device_count(*call.needs);
  const int sees = std::popcount(seat.devices);
  if (count > 0 ? sees != static_cast<int>(count) : sees > 1) return false;
  const std::uint32_t wanted = count == 0 ? kWhole : milli_of_each(*call.needs);
  for (std::size_t d = 0; d < device_left_.size(); ++d) {
    if ((seat.devices & bit_of(d)) != 0 && device_left_[d] < wanted) return false;
  }
  return true;
}

/// What a process for this call had better see in this seat; with needs that cannot be given, nothing.
std::uint64_t WorkerCore::devices_for(const Seat& seat, const CallState& call) const {
  return call.needs->gpus_milli == 0 ? own_device(seat) : free_devices(*call.needs);
}

/// Result: 0 if there are not so many.
std::uint64_t WorkerCore::free_devices(const Resources& needs) const {
  if (needs.gpus_milli >= kWhole) return unused_devices(device_count(needs));
  std::optional<std::size_t> best;  // the fullest one on which it fits
  for (std::size_t d = 0; d < device_left_.size(); ++d) {
    if (device_left_[d] >= needs.gpus_milli && (!best || device_left_[d] < device_left_[*best])) best = d;
  }
  return best ? bit_of(*best) : 0;
}

std::uint64_t WorkerCore::own_device(const Seat& seat) const {
  for (std::size_t i = 0; i < device_left_.size(); ++i) {
    const std::size_t device = (seat.id.value + i) % device_left_.size();
    if (device_left_[device] == kWhole) return bit_of(device);
  }
  return 0;
}

/// Devices that no call has; those first that no other process at work sees. Result: 0 if there are not so many.
std::uint64_t WorkerCore::unused_devices(std::size_t count) const {
  std::uint64_t seen = 0, chosen = 0;
  for (const Seat& seat : seats_) {
    if (seat.occupied() && (seat.kind != SeatKind::kFunction || !seat.is_free())) seen |= seat.devices;
  }
  for (const bool shared : {false, true}) {
    for (std::size_t d = 0; d < device_left_.size() && count > 0; ++d) {
      if (device_left_[d] < kWhole || ((seen & bit_of(d)) != 0) != shared) continue;
      chosen |= bit_of(d);
      --count;
    }
  }
  return count == 0 ? chosen : 0;
}

/// Idle processes that see a device which now belongs to somebody give it up: they may hold memory there.
void WorkerCore::take_devices(Seat& seat, const CallState& call) {
  if (call.needs->gpus_milli == 0 || seat.kind != SeatKind::kFunction) return;
  seat.device_milli = milli_of_each(*call.needs);
  for (std::size_t d = 0; d < device_left_.size(); ++d) {
    if ((seat.devices & bit_of(d)) == 0) continue;
    BB_CHECK(device_left_[d] >= seat.device_milli);
    device_left_[d] -= seat.device_milli;
  }
  if (seat.device_milli < kWhole) return;
  for (Seat& other : seats_) {
    const bool idle = other.kind == SeatKind::kFunction && other.state == SeatState::kUp && other.is_free();
    if (idle && other.id != seat.id && (other.devices & seat.devices) != 0) discard(other);
  }
}

void WorkerCore::give_back_devices(Seat& seat) {
  for (std::size_t d = 0; d < device_left_.size(); ++d) {
    if ((seat.devices & bit_of(d)) != 0) device_left_[d] += seat.device_milli;
  }
  seat.device_milli = 0;
}

/// Nothing where no devices were declared: what this worker was started with holds.
std::string WorkerCore::environment_of(const Seat& seat) const {
  if (device_left_.empty() || seat.kind == SeatKind::kInProcess) return {};
  std::string names;
  for (std::size_t d = 0; d < device_left_.size(); ++d) {
    if ((seat.devices & bit_of(d)) != 0) names += (names.empty() ? "" : ",") + options_.devices[d];
  }
  return "CUDA_VISIBLE_DEVICES=" + names + "\n";
}

/// Best first: a process of this client that sees the right devices, none yet, and one that is to be made anew.
WorkerCore::Seat* WorkerCore::choose_by_devices(CallState& call) {
  Seat* other = nullptr;
  for (const SeatId kept : call.reserved) {
    Seat& seat = seats_[kept.value];
    if (seat.state != SeatState::kUp || !seat.is_free()) continue;
    if (seat.kin == call.kin && suits(seat, call)) return &seat;
    other = &seat;
  }
  if (other != nullptr) return other;
  const SeatSet& idle = call.crowd->idle;
  for (std::uint32_t s = idle.next(); s != SeatSet::kNone; s = idle.next(s + 1)) {
    if (suits(seats_[s], call)) return &seats_[s];
    if (other == nullptr) other = &seats_[s];
  }
  const bool empty = !ports_[kFunctionPool].empty.empty();
  return other != nullptr && !empty ? other : choose_foreign_seat(call);
}

}  // namespace betterbox
