#include "runtime/slot_place.h"

#include <ctime>

namespace betterbox {
namespace {

/// Between two looks at whether an item computes.
constexpr Duration kLook = milliseconds(20);
/// The same while no item runs.
constexpr Duration kRestingLook = milliseconds(200);
/// Whoever uses less than one part of a cpu in so many computes nothing.
constexpr std::int64_t kIdleShare = 4;

std::int64_t process_cpu_ns() {
  timespec time{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

}  // namespace

thread_local SlotPlace* SlotPlace::of_thread_ = nullptr;
std::atomic<SlotPlace*> SlotPlace::of_process_{nullptr};

SlotPlace::SlotPlace(ArenaHeader& arena, int bell_fd, bool in_process)
    : arena_(&arena), bell_fd_(bell_fd), in_process_(in_process) {
  if (in_process) {
    of_thread_ = this;
  } else {
    of_process_.store(this, std::memory_order_release);
  }
}

void SlotPlace::close(SlotPlace* place) {
  {
    const std::lock_guard lock(place->mutex_);
    place->arena_ = nullptr;
  }
  if (!place->in_process_) return;
  if (of_thread_ == place) of_thread_ = nullptr;
  delete place;
}

void SlotPlace::enter(const CallId& call, std::uint32_t depth) {
  call_ = call;
  depth_.store(depth, std::memory_order_relaxed);
  entries_.store(entries_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  active_.store(true, std::memory_order_relaxed);
}

void SlotPlace::leave() {
  call_ = {};
  depth_.store(0, std::memory_order_relaxed);
  active_.store(false, std::memory_order_relaxed);
  if (!lends_.load(std::memory_order_relaxed)) return;
  const std::lock_guard lock(mutex_);
  publish();
}

void SlotPlace::count_waits(int change) {
  const std::lock_guard lock(mutex_);
  waits_ += change;
  publish();
}

void SlotPlace::set_idle(bool idle) {
  if (idle == idle_) return;
  idle_ = idle;
  publish();
}

/// REQUIRES: mutex_ is held.
void SlotPlace::publish() {
  const bool lends = active_.load(std::memory_order_relaxed) && (waits_ > 0 || idle_);
  if (arena_ == nullptr || lends == lends_.load(std::memory_order_relaxed)) return;
  lends_.store(lends, std::memory_order_relaxed);
  arena_->slot_lends.store(lends ? 1 : 0, std::memory_order_release);
  ring_agent(*arena_, bell_fd_);
}

TimePoint SlotPlace::look(TimePoint now, bool calls_are_open) {
  const std::lock_guard lock(mutex_);
  if (in_process_ || !calls_are_open || !active_.load(std::memory_order_relaxed)) {
    set_idle(false);
    looked_at_ = 0;
    return in_process_ || !calls_are_open ? TimePoint::never() : now + kRestingLook;
  }
  const std::uint64_t entries = entries_.load(std::memory_order_relaxed);
  if (looked_at_ == entries && now - looked_ < kLook) return looked_ + kLook;
  const std::int64_t cpu_ns = process_cpu_ns();
  set_idle(looked_at_ == entries && (cpu_ns - cpu_ns_) * kIdleShare < (now - looked_).ns);
  looked_at_ = entries;
  looked_ = now;
  cpu_ns_ = cpu_ns;
  return now + kLook;
}

}  // namespace betterbox
