// LoopWatch: ends a process whose agent's loop does not turn any more. Heartbeats go on without the loop, so others would
// wait for that agent for ever; a process that ends they see at once.
//
// A process that was stopped, or whose debugger holds it, is not meant: its own time is counted, by a thread that was stopped,
// too.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>

#include "runtime/time.h"

namespace betterbox {

class LoopWatch {
 public:
  /// `stuck` is called on a thread of its own when the loop has been awake in one piece for about `bound` (up to a quarter
  /// more).
  LoopWatch(Duration bound, std::function<void()> stuck);
  ~LoopWatch();
  LoopWatch(const LoopWatch&) = delete;
  LoopWatch& operator=(const LoopWatch&) = delete;

  // By the loop.
  void wakes() { turns_.store(turns_.load(std::memory_order_relaxed) | 1, std::memory_order_relaxed); }
  void sleeps() { turns_.store((turns_.load(std::memory_order_relaxed) | 1) + 1, std::memory_order_relaxed); }

 private:
  void run();

  const Duration bound_;
  const std::function<void()> stuck_;
  std::atomic<std::uint64_t> turns_{0};  // odd: awake
  std::mutex mutex_;
  std::condition_variable changed_;
  bool over_ = false;  // guarded by mutex_
  std::thread thread_;
};

/// Says on stderr, if that takes it, why this process ends, and ends it with code 1.
[[noreturn]] void end_stuck_process();

}  // namespace betterbox
