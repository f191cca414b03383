// The slot's way out: its outbox, written by all of its threads.
#pragma once

#include <mutex>
#include <span>
#include <utility>

#include "python/src/py_ref.h"
#include "runtime/fork_count.h"
#include "runtime/shm.h"
#include "worker/slot_protocol.h"

namespace betterbox {

/// Ends this process, a child that user code forked off a slot and that came back from the item, as its own end would:
/// with the Python error that is set, if there is one (betterbox._slot.end_forked).
[[noreturn]] void end_forked_child();

/// The outbox, shared by the slot's threads. A writer with room writes at once; one that must wait gives up
/// the GIL first, so no thread ever waits for the mutex with the GIL while its holder wants the GIL.
class Outlet {
 public:
  Outlet(SlotArena& arena, int bell_fd)
      : outbox_(arena.header(), arena.header().outbox, arena.outbox_data(), bell_fd),
        strip_(arena.header().strip) {}

  /// The outcome of one item, if it is short and there is room. The thread that runs items only, which calls
  /// ring_if_half_full() once it has counted the item.
  bool write_short(const SlotOutcome& outcome, const ShortValue& value) {
    quiet_ = true;
    return strip_.add(outcome.station, outcome.generation, outcome.first, value, outcome.busy_ns);
  }
  void ring_if_half_full() {
    if (strip_.half_full()) outbox_.ring_bell();
  }

  void end_if_forked() const {
    if (fork_count() != forks_) end_forked_child();
  }

  void write(FromSlot kind, std::span<const std::byte> head, std::span<const std::byte> tail = {}) {
    end_if_forked();
    if (std::unique_lock lock(mutex_, std::try_to_lock); lock.owns_lock()) {
      if (closed_) return;
      if (outbox_.fits(head.size() + tail.size())) return write_locked(kind, head, tail);
    }
    GilRelease release;
    std::lock_guard lock(mutex_);
    if (!closed_) write_locked(kind, head, tail);
  }

  /// Outcomes do not ring by themselves: one of these two follows, before whatever may take long. The first REQUIRES
  /// that an item was claimed since (a claim that finds none is no fence); where none is left, the record that says so
  /// rings.
  void ring_after_claim() {
    if (std::exchange(quiet_, false)) outbox_.ring_bell_after_claim();
  }
  void ring() {
    if (std::exchange(quiet_, false)) outbox_.ring_bell(false);
  }

  /// Nothing is written afterwards: the arena may go.
  void close() {
    GilRelease release;
    std::lock_guard lock(mutex_);
    closed_ = true;
  }

 private:
  void write_locked(FromSlot kind, std::span<const std::byte> head, std::span<const std::byte> tail) {
    outbox_.write(static_cast<std::uint32_t>(kind), {head, tail});
    if (kind == FromSlot::kOutcome) {
      quiet_ = true;
    } else {
      outbox_.ring_bell();
    }
  }

  const unsigned forks_ = fork_count();
  std::mutex mutex_;
  SlotOutbox outbox_;
  StripWriter strip_;
  bool closed_ = false;
  bool quiet_ = false;  // the thread that runs items has written outcomes and not rung; its own
};

}  // namespace betterbox
