// Writing what slots print (worker/output_thread.h).
#include "worker/output_thread.h"

#include <pthread.h>

#include <chrono>
#include <condition_variable>
#include <csignal>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>

#include "runtime/slot_limits.h"

namespace betterbox {
namespace {

constexpr std::chrono::seconds kLastWords{2};

}  // namespace

struct OutputThread::State {
  std::function<void()> room;
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::pair<std::size_t, std::function<void()>>> writes;  // guarded by mutex, as all below
  std::size_t bytes = 0;
  bool was_full = false, over = false, done = false;
};

OutputThread::OutputThread(std::function<void()> room) : state_(std::make_shared<State>()) {
  state_->room = std::move(room);
  sigset_t all, before;
  sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread([state = state_] { run(state); }).detach();
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

OutputThread::~OutputThread() {
  std::unique_lock lock(state_->mutex);
  state_->over = true;
  state_->room = nullptr;
  state_->changed.notify_all();
  state_->changed.wait_for(lock, kLastWords, [this] { return state_->done; });
}

void OutputThread::post(std::size_t bytes, std::function<void()> write) {
  const std::lock_guard lock(state_->mutex);
  state_->bytes += bytes;
  state_->was_full = state_->was_full || state_->bytes > kUnwrittenBytes;
  state_->writes.emplace_back(bytes, std::move(write));
  state_->changed.notify_all();
}

bool OutputThread::full() const {
  const std::lock_guard lock(state_->mutex);
  return state_->was_full;
}

void OutputThread::run(const std::shared_ptr<State>& state) {
  std::unique_lock lock(state->mutex);
  for (;;) {
    state->changed.wait(lock, [&] { return state->over || !state->writes.empty(); });
    if (state->writes.empty()) break;
    auto [bytes, write] = std::move(state->writes.front());
    state->writes.pop_front();
    lock.unlock();
    write();
    write = nullptr;
    lock.lock();
    state->bytes -= bytes;
    if (!state->was_full || state->bytes > kUnwrittenBytes / 2) continue;
    state->was_full = false;
    if (state->room) state->room();
  }
  state->done = true;
  state->changed.notify_all();
}

}  // namespace betterbox
