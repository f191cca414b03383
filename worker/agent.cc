// AgentThread: an AgentLoop on a thread of its own, for a script that serves boxes (worker/agent.h).
//
// Other threads post jobs to the loop and wait for what it reports under one mutex. The loop's thread takes
// no signals and no GIL.
#include "worker/agent.h"

#include <pthread.h>
#include <sys/eventfd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <thread>

#include "runtime/fork_count.h"
#include "runtime/limits.h"
#include "worker/agent_loop.h"

namespace betterbox {

struct AgentThread::Impl : AgentLoop::Observer {
  enum class SeatStatus { kOpening, kOffered, kFailed, kClosed };
  struct SeatEntry {
    SeatStatus status = SeatStatus::kOpening;
    std::string error;
  };

  const unsigned forks = fork_count();
  std::unique_ptr<AgentLoop> loop;
  std::thread thread;
  std::mutex mutex;
  std::condition_variable changed;
  bool was_welcomed = false;  // guarded by mutex, as all below
  bool ended = false;
  std::string end_text;
  std::map<SeatId, SeatEntry> seats;
  std::deque<Seat> spawned;  // and not taken yet
  std::atomic<bool> lost{false};

  void welcomed() override {
    std::lock_guard lock(mutex);
    was_welcomed = true;
    changed.notify_all();
  }

  void seat_reported(const SeatReport& report) override {
    std::lock_guard lock(mutex);
    SeatEntry& entry = seats[report.seat];
    entry.status = report.kind == SeatReport::kOffered  ? SeatStatus::kOffered
                   : report.kind == SeatReport::kFailed ? SeatStatus::kFailed
                                                        : SeatStatus::kClosed;
    entry.error = std::string(report.error.view());
    changed.notify_all();
  }

  void seat_spawned(SeatId seat, bool for_functions) override {
    std::lock_guard lock(mutex);
    spawned.push_back({seat, loop->arena(seat), loop->bell_fd(), for_functions});
    changed.notify_all();
  }

  void run() {
    while (loop->turn(TimePoint::never())) {}
    std::lock_guard lock(mutex);
    ended = true;
    end_text = loop->end_text();
    lost.store(loop->end() != AgentLoop::End::kStopped || !end_text.empty());
    changed.notify_all();
  }

  /// Waits on `changed` for `ready` at most until `deadline`. Result: ready().
  template <class Ready> bool wait(std::unique_lock<std::mutex>& lock, TimePoint deadline, Ready ready) {
    if (deadline == TimePoint::never()) {
      changed.wait(lock, ready);
      return true;
    }
    const std::chrono::steady_clock::time_point until{std::chrono::nanoseconds(deadline.ns)};
    return changed.wait_until(lock, until, ready);
  }
};

AgentThread::AgentThread(const Options& options, std::unique_ptr<Transport> transport)
    : impl_(std::make_unique<Impl>()) {
  AgentLoop::Options loop;
  loop.scheduler_endpoint = options.scheduler_endpoint;
  loop.bus_file = options.bus_file;
  loop.interface = options.interface;
  loop.listen_endpoint = options.listen_endpoint;
  loop.function_slots = options.function_slots;
  loop.socket_folder = options.socket_folder;
  loop.name = options.name;
  loop.python_version = options.python_version;
  loop.background = options.background;
  loop.in_process = true;
  loop.bell_fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (loop.bell_fd < 0) throw std::runtime_error("no eventfd for an agent");
  // All signals are the script's: threads inherit the mask of the thread that makes them.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    impl_->loop = std::make_unique<AgentLoop>(loop, std::move(transport), *impl_);
    impl_->thread = std::thread([this, begins = options.thread_begins] {
      if (begins) begins();
      impl_->run();
    });
  } catch (...) {
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    throw;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  std::unique_lock lock(impl_->mutex);
  impl_->wait(lock, monotonic_now() + kLivenessBound, [this] { return impl_->was_welcomed || impl_->ended; });
  if (impl_->was_welcomed) return;
  const std::string why =
      impl_->ended ? impl_->end_text : "the scheduler at " + options.scheduler_endpoint + " does not answer";
  lock.unlock();
  impl_->loop->post([loop = impl_->loop.get()] { loop->kill(); });
  impl_->thread.join();
  throw std::runtime_error(why);
}

AgentThread::~AgentThread() { stop(); }

std::optional<AgentThread::Seat> AgentThread::next_seat() {
  std::unique_lock lock(impl_->mutex);
  impl_->wait(lock, TimePoint::never(), [this] { return !impl_->spawned.empty() || impl_->ended; });
  if (impl_->spawned.empty()) return std::nullopt;
  Seat seat = std::move(impl_->spawned.front());
  impl_->spawned.pop_front();
  return seat;
}

AgentThread::Seat AgentThread::open_seat(Port port, std::string init_payload) {
  std::optional<Seat> seat;
  impl_->loop->post([this, port, &seat, payload = std::move(init_payload)]() mutable {
    AgentLoop& loop = *impl_->loop;
    const SeatId id = loop.open_seat(port, std::move(payload));
    std::lock_guard lock(impl_->mutex);
    impl_->seats[id];
    seat = Seat{id, loop.arena(id), loop.bell_fd()};
    impl_->changed.notify_all();
  });
  std::unique_lock lock(impl_->mutex);
  impl_->wait(lock, TimePoint::never(), [&] { return seat.has_value() || impl_->ended; });
  if (!seat || seat->arena == nullptr) throw std::runtime_error("no place for a box: " + impl_->end_text);
  return *seat;
}

bool AgentThread::wait_offered(SeatId seat, TimePoint deadline) {
  std::unique_lock lock(impl_->mutex);
  auto status = [&] { return impl_->seats[seat].status; };
  impl_->wait(lock, deadline, [&] { return status() != Impl::SeatStatus::kOpening || impl_->ended; });
  return status() == Impl::SeatStatus::kOffered;
}

std::string AgentThread::close_seat(SeatId seat, TimePoint deadline) {
  impl_->loop->post([this, seat] { impl_->loop->feed(SeatCloseAsked{seat}); });
  std::unique_lock lock(impl_->mutex);
  auto over = [&] {
    const auto status = impl_->seats[seat].status;
    return status == Impl::SeatStatus::kClosed || status == Impl::SeatStatus::kFailed || impl_->ended;
  };
  impl_->wait(lock, deadline, over);
  return impl_->seats[seat].status == Impl::SeatStatus::kClosed ? impl_->seats[seat].error : std::string();
}

/// Slots are asked to stop and have kSlotStopGrace for it.
void AgentThread::stop() {
  if (impl_ != nullptr &&
      impl_->forks != fork_count()) {  // a forked child: thread and connections are its parent's
    [[maybe_unused]] const Impl* left = impl_.release();
  }
  if (impl_ == nullptr || !impl_->thread.joinable()) return;
  impl_->loop->post([this] { impl_->loop->request_stop(); });
  {
    std::unique_lock lock(impl_->mutex);
    impl_->wait(lock, monotonic_now() + kSlotStopGrace, [this] { return impl_->ended; });
  }
  impl_->loop->post([this] { impl_->loop->kill(); });
  impl_->thread.join();
  impl_->loop->hang_up();  // now: whoever still refers to this agent does not keep its socket
}

bool AgentThread::connected() const { return impl_ != nullptr && !impl_->lost.load(); }

}  // namespace betterbox
