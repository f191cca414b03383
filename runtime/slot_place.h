// SlotPlace: what the process of a slot (in a script: its thread) knows of it, for the calls that are made there: how deep
// they are nested, and whom to tell that what runs there waits for them, so that its place is lent (worker/core_lend.cc).
//
// An item waits while a thread of it is in a wait of the client (Client::wait), or, however else it waits (for a future, a
// coroutine, an event that a callback sets, in a loop that sleeps), while calls are open and its process computes nothing.
// Scripts have no SlotPlace: their calls cost a look at a pointer.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>

#include "runtime/fork_count.h"
#include "runtime/ids.h"
#include "runtime/shm.h"
#include "runtime/time.h"

namespace betterbox {

class SlotPlace {
 public:
  /// For this process, or (in_process) for this thread, until close().
  SlotPlace(ArenaHeader& arena, int bell_fd, bool in_process);
  SlotPlace(const SlotPlace&) = delete;
  SlotPlace& operator=(const SlotPlace&) = delete;
  /// The arena may go. What is of a process stays, for threads that still look at it.
  static void close(SlotPlace* place);

  /// Null: this is no slot's, or a child that was forked off it.
  static SlotPlace* current() {
    SlotPlace* place = of_thread_ != nullptr ? of_thread_ : of_process_.load(std::memory_order_acquire);
    return place != nullptr && place->forks_ == fork_count() ? place : nullptr;
  }
  /// Of calls that are made here.
  static std::uint32_t depth_of_calls() {
    const SlotPlace* place = current();
    return place == nullptr ? 0 : place->depth_.load(std::memory_order_relaxed) + 1;
  }

  // The slot's thread.
  /// It runs this box.
  void host(const BoxId& box) { box_ = box; }
  /// Items of this call begin, which is nested in `depth` others.
  void enter(const CallId& call, std::uint32_t depth);
  void leave();
  /// Of which the calling thread is no helper: what runs here waits if it does.
  bool is_own_thread() const { return thread_ == std::this_thread::get_id(); }
  /// REQUIRES of both: is_own_thread(). None: agent or client 0.
  const BoxId& box() const { return box_; }
  const CallId& call() const { return call_; }

  // Any thread.
  void wait_begins() { count_waits(+1); }
  void wait_ends() { count_waits(-1); }
  /// To be called until the next look by whoever carries the messages of calls that are open. Result: when that is.
  TimePoint look(TimePoint now, bool calls_are_open);

 private:
  ~SlotPlace() = default;
  void count_waits(int change);
  void set_idle(bool idle);
  void publish();

  static thread_local SlotPlace* of_thread_;
  static std::atomic<SlotPlace*> of_process_;

  const unsigned forks_ = fork_count();
  std::mutex mutex_;    // over what follows
  ArenaHeader* arena_;  // null: closed
  const int bell_fd_;
  const bool in_process_;
  const std::thread::id thread_ = std::this_thread::get_id();
  BoxId box_{};    // of the slot's thread
  CallId call_{};  // the same
  int waits_ = 0;
  bool idle_ = false;
  TimePoint looked_{};
  std::int64_t cpu_ns_ = 0;      // used at the last look
  std::uint64_t looked_at_ = 0;  // which of entries_ that was about

  std::atomic<std::uint32_t> depth_{0};
  std::atomic<bool> active_{false};
  std::atomic<bool> lends_{false};  // as published
  std::atomic<std::uint64_t> entries_{0};
};

}  // namespace betterbox
