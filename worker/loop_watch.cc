// Watching a loop (worker/loop_watch.h).
#include "worker/loop_watch.h"

#include <poll.h>
#include <pthread.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <string>
#include <utility>

#include "runtime/slot_limits.h"

namespace betterbox {
namespace {
constexpr int kLooks = 4;  // in one bound
}  // namespace

LoopWatch::LoopWatch(Duration bound, std::function<void()> stuck) : bound_(bound), stuck_(std::move(stuck)) {
  sigset_t all, before;
  sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);  // signals are for other threads
  thread_ = std::thread([this] { run(); });
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

LoopWatch::~LoopWatch() {
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void LoopWatch::run() {
  std::unique_lock lock(mutex_);
  std::uint64_t seen = 0;
  int looks = 0;  // that found the loop awake in the same turn
  while (!changed_.wait_for(lock, std::chrono::nanoseconds(bound_.ns / kLooks), [this] { return over_; })) {
    const std::uint64_t turns = turns_.load(std::memory_order_relaxed);
    looks = turns % 2 == 1 && turns == seen ? looks + 1 : 0;
    seen = turns;
    if (looks < kLooks) continue;
    stuck_();
    looks = 0;
  }
}

void end_stuck_process() {
  const std::string text = "betterbox: the loop that connects this process to its bus has not turned for " +
                           std::to_string(kLoopBound.ns / 1'000'000'000) +
                           " s; the process ends, so that others see it and take its work over\n";
  pollfd entry{2, POLLOUT, 0};
  if (::poll(&entry, 1, 0) == 1) {
    [[maybe_unused]] const ssize_t n = ::write(2, text.data(), text.size());
  }
  ::_exit(1);
}

}  // namespace betterbox
