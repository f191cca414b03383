// Client, first part: waiting and driving, the session with the scheduler. What it is about lies in client_boxes.cc,
// client_calls.cc and client_outcomes.cc (calls), client_lanes.cc and client_submissions.cc.
#include "runtime/client.h"
#include "runtime/fork_count.h"
#include "runtime/network.h"
#include "runtime/segment_pool.h"
#include "runtime/slot_place.h"
#include "runtime/value_copy.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <utility>

namespace betterbox {
namespace {

/// After a wait has ended the driver stays away for this long: a caller in a loop of short calls carries
/// its own messages and shares them with nobody.
constexpr Duration kDriverRest = milliseconds(5);
/// A wait looks at signals at least this often, should another thread have received them.
constexpr Duration kInterruptSlice = seconds(1);
/// Threads that wait while another one carries look again at least this often.
constexpr Duration kFollowerSlice = milliseconds(50);
/// Submissions gather behind others that are under way until one of these lands; but no longer than this, should it
/// be long.
constexpr Duration kGatherTime = microseconds(500);
/// Between two looks for the successor of a lost scheduler.
constexpr Duration kRetryInterval = milliseconds(50);

int poll_timeout_ms(TimePoint now, TimePoint until) {
  if (until == TimePoint::never()) return -1;
  const std::int64_t ns = std::max<std::int64_t>(0, (until - now).ns);
  return static_cast<int>(std::min<std::int64_t>((ns + 999'999) / 1'000'000, 60'000));
}

void ring(int event_fd) {
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(event_fd, &one, sizeof one);
}

void clear(int event_fd) {
  std::uint64_t count = 0;
  [[maybe_unused]] const auto got = ::read(event_fd, &count, sizeof count);
}

}  // namespace

bool Client::forked() const { return fork_count() != forks_before_; }

Client::Lock Client::enter() {
  if (forked()) {
    throw BusError(
        "this process was forked from one that uses a bus, and cannot share its connection; "
        "start it with the multiprocessing start method 'spawn' or 'forkserver' instead");
  }
  return Lock(mutex_);
}

Client::Lock Client::try_enter() { return forked() ? Lock() : Lock(mutex_, std::try_to_lock); }

Client::Client(std::unique_ptr<Transport> transport, Options options)
    : options_(std::move(options)),
      forks_before_(fork_count()),
      wake_fd_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      waiter_wake_fd_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      transport_(std::move(transport)) {
  BB_CHECK(wake_fd_ >= 0 && waiter_wake_fd_ >= 0);
  {
    Lock lock = enter();
    scheduler_ = connect(options_.endpoint);
    greet_scheduler();
  }
  wait([this] { return session_ != Session::kGreeting; }, monotonic_now() + kLivenessBound, {});
  Lock lock = enter();
  if (session_ == Session::kOpen) return;
  const std::string reason = session_ == Session::kGreeting ? "nobody answered" : lost_reason_;
  ::close(wake_fd_);
  ::close(waiter_wake_fd_);
  throw BusError("no scheduler could be reached at " + options_.endpoint + ": " + reason +
                 "; is the bus still up? `betterbox status` tells");
}

Client::~Client() {
  if (forked()) {  // its threads are not here
    [[maybe_unused]] const Transport* left = transport_.release();
  }
  close();
  links_.clear();
  for (const int fd : lane_pipe_) {
    if (fd >= 0) ::close(fd);
  }
  ::close(wake_fd_);
  ::close(waiter_wake_fd_);
}

bool Client::connected() {
  Lock lock = enter();
  return session_ == Session::kOpen;
}

bool Client::ended() {
  Lock lock = enter();
  return ended_locked();
}

bool Client::ended_locked() const {
  const bool stays_lost = session_ == Session::kLost && !options_.find_bus;
  return session_ == Session::kRefused || session_ == Session::kClosed || stays_lost;
}

bool Client::wait_connected(TimePoint deadline, const Interrupt& interrupt) {
  wait([this] { return session_ == Session::kOpen || ended_locked(); }, deadline, interrupt,
       {nullptr, false, false});
  return connected();
}

bool Client::expendable() {
  Lock lock = enter();
  if (ended_locked()) return true;
  return session_ != Session::kOpen && !has_open_calls();
}

void Client::close() {
  if (forked()) return;
  Lock lock = enter();
  if (closed_) return;
  flush_streams();
  pump();
  if (session_ == Session::kOpen) send({Bye{}, {}});
  for (auto& [agent, link] : links_) {
    for (auto& [box, route] : link.routes) {
      if (route.lane) route.lane->leave();
    }
    send_over(link, {Bye{}, {}});
    close_link(link);
  }
  transport_->close(scheduler_);
  session_ = Session::kClosed;
  closed_ = true;
  fail_scheduled_calls("this process has closed its connection to the bus");
  const auto direct = direct_;
  for (const auto& [token, call] : direct)
    lose_unsettled(call, LostCode::kBusLost, "this process has closed its connection to the bus");
  drop_lanes();
  wake_waiters();
  drivers_turn_.notify_all();
  wake_driver();
}

// --- waiting and driving --------------------------------------------------------------------------

int Client::poll_transport(Lock& lock, TimePoint until, int wake_fd) {
  std::vector<pollfd> fds{{wake_fd, POLLIN, 0}};
  for (const int fd : transport_->wait_fds()) fds.push_back({fd, POLLIN, 0});
  if (lane_pipe_[0] >= 0) fds.push_back({lane_pipe_[0], POLLIN, 0});
  if (!prepare_lanes_for_sleep()) return 1;
  ++pollers_;
  lock.unlock();
  const int result = ::poll(fds.data(), fds.size(), poll_timeout_ms(monotonic_now(), until));
  const bool interrupted = result < 0 && errno == EINTR;
  if (fds[0].revents != 0) clear(wake_fd);
  lock.lock();
  --pollers_;
  lanes_are_awake();
  return interrupted ? -1 : result;
}

/// A new descriptor: whoever polls has to look at it, too.
ConnectionId Client::connect(const std::string& endpoint) {
  const ConnectionId connection = transport_->connect(endpoint);
  wake_pollers();
  return connection;
}

void Client::wake_pollers() {
  if (waiter_polls_) ring(waiter_wake_fd_);
  if (driver_polls_) ring(wake_fd_);
}

bool Client::wait(const Condition& condition, TimePoint deadline, const Interrupt& interrupt,
                  const Awaited& awaited) {
  Lock lock = enter();
  flush_streams();
  if (!busy_lanes_.empty()) {  // without a system call
    drain_lanes();
    if (condition() || (look_at_lanes(lock) && condition())) return true;
  }
  drain();
  if (condition()) return true;

  ++waiters_;
  ++waits_;
  TimePoint now = monotonic_now();
  TimePoint next_interrupt = now + kInterruptSlice;
  SlotPlace* place = awaited.of_item ? SlotPlace::current() : nullptr;
  TimePoint lends_at = place == nullptr ? TimePoint::never() : now + kWaitGrace;
  const bool tells = place != nullptr && awaited.call != nullptr && place->is_own_thread();
  TimePoint tells_at = tells ? now + kDeadlockGrace : TimePoint::never();
  std::uint64_t told = 0;
  bool lends = false;
  bool met = false;
  const auto leave = [&] {
    if (lends) place->wait_ends();
    if (told != 0) end_wait(told);
    --waiters_;
    last_wait_ = now;
    if (driver_wants_turn_) drivers_turn_.notify_one();
    if (waiters_ > 0) waiters_turn_.notify_all();
  };
  while (!(met = condition()) && !closed_ && now < deadline) {
    bool interrupted = false;
    const TimePoint until = std::min({deadline, next_interrupt, next_deadline(), lends_at, tells_at});
    if (!waiter_polls_) {
      waiter_polls_ = true;
      interrupted = poll_transport(lock, until, waiter_wake_fd_) < 0;
      waiter_polls_ = false;
      drain();
      pump();
      if (waiters_ > 1) waiters_turn_.notify_all();
    } else {
      const TimePoint turn = std::min(until, now + kFollowerSlice);
      waiters_turn_.wait_for(lock, std::chrono::nanoseconds((turn - now).ns));
      interrupted = true;  // a condition variable does not tell
    }
    now = monotonic_now();
    if (lends_at <= now && !condition()) {
      lends_at = TimePoint::never();
      lends = true;
      place->wait_begins();
    }
    if (tells_at <= now && !condition()) {
      tells_at = now + seconds(1);  // another scheduler is to be told, too
      tell_wait(told, awaited);
    }
    check_deadlines(now);
    if (interrupt && (interrupted || now >= next_interrupt)) {
      next_interrupt = now + kInterruptSlice;
      lock.unlock();
      try {
        interrupt();
      } catch (...) {
        lock.lock();
        leave();
        throw;
      }
      lock.lock();
    }
  }
  leave();
  return met;
}

std::vector<std::uint64_t> Client::drive() {
  Lock lock = enter();
  std::uint64_t waits_seen = waits_;
  bool gathering_over = false;
  for (;;) {
    if (closed_) return std::exchange(notices_, {});
    if (session_ == Session::kLost && options_.find_bus) find_bus_again(lock);
    if (gathered_any_ && !gathering_over) {
      // Who submits in a loop fills a page meanwhile; who waits flushes by itself.
      gathering_over = true;
      drivers_turn_.wait_for(lock, std::chrono::nanoseconds(kGatherTime.ns), [this] { return closed_; });
      continue;
    }
    gathering_over = false;
    flush_streams();
    drain();
    pump();
    check_deadlines(monotonic_now());
    if (!notices_.empty()) return std::exchange(notices_, {});

    const auto has_work = [&] {
      return closed_ || !notices_.empty() || gathered_any_ ||
             (session_ == Session::kLost && options_.find_bus);
    };
    if (has_work()) continue;
    if (waiters_ > 0 && waits_ == waits_seen) {
      // The same wait as at the last look: a long one. It carries the messages and wakes us when it leaves.
      driver_wants_turn_ = true;
      drivers_turn_.wait(lock, [&] { return waiters_ == 0 || has_work(); });
      driver_wants_turn_ = false;
    } else if (waiters_ > 0 || monotonic_now() - last_wait_ < kDriverRest) {
      waits_seen = waits_;
      drivers_turn_.wait_for(lock, std::chrono::nanoseconds(kDriverRest.ns), has_work);
    } else {
      driver_polls_ = true;
      TimePoint until = next_deadline();
      if (unacknowledged_bytes_ > 0) until = std::min(until, monotonic_now() + milliseconds(100));
      const TimePoint look = look_at_item();
      looks_at_item_ = look != TimePoint::never();
      until = std::min({until, next_look_at_segments(), look});
      const int ready = poll_transport(lock, until, wake_fd_);
      driver_polls_ = false;
      if (ready == 0) acknowledge(true);
      look_at_segments();
    }
  }
}

void Client::wake_waiters() {
  waiters_turn_.notify_all();
  if (waiter_polls_) ring(waiter_wake_fd_);
}

void Client::wake_driver() {
  if (driver_polls_) {
    ring(wake_fd_);
  } else {
    drivers_turn_.notify_one();
  }
}

/// In a slot: whether what runs there does nothing while calls are open.
TimePoint Client::look_at_item() {
  SlotPlace* place = SlotPlace::current();
  return place == nullptr ? TimePoint::never() : place->look(monotonic_now(), has_open_calls());
}

/// A call is open from now on. A driver that polls looks at no item while none is: nobody else would see that one waits.
void Client::begin_looks() {
  if (driver_polls_ && !looks_at_item_ && SlotPlace::current() != nullptr) ring(wake_fd_);
}

/// Somebody may wait for an outcome.
bool Client::has_open_calls() const {
  if (!direct_.empty()) return true;
  return std::ranges::any_of(calls_, [this](const auto& entry) {
    const auto stream = stream_of_.find(entry.first);
    return stream == stream_of_.end() || stream->second->waiting > 0;
  });
}

TimePoint Client::next_deadline() const {
  TimePoint next = deadlines_.empty() ? TimePoint::never() : deadlines_.begin()->first;
  for (const auto& [agent, until] : reaching_) next = std::min(next, until);
  return next;
}

// --- the session with the scheduler ---------------------------------------------------------------

Hello Client::make_hello(Role role) {
  Hello hello;
  hello.role = role;
  hello.peer = options_.peer;
  hello.session = ++session_number_;
  hello.python = options_.python;
  hello.host = options_.host;
  hello.boot_id = options_.boot_id;
  hello.pid = options_.pid;
  hello.name = options_.name;
  hello.background = options_.background;
  hello.store = options_.store;
  return hello;
}

void Client::greet_scheduler() {
  session_ = Session::kGreeting;
  Hello hello = make_hello(Role::kClient);
  for (const auto& [serial, call] : calls_) hello.calls.push_back(serial);
  if (!options_.proof.empty()) send({options_.proof, {}});
  send({std::move(hello), {}});
}

void Client::on_scheduler_lost(const std::string& reason) {
  if (session_ == Session::kClosed || session_ == Session::kRefused) return;
  lost_reason_ = reason;
  const bool was_open = session_ == Session::kOpen;
  session_ = Session::kLost;
  lose_relayed_links();
  if (was_open && options_.find_bus) {
    wake_driver();
  } else if (was_open) {
    fail_scheduled_calls("the scheduler at " + options_.endpoint + " is gone (" + reason + ")");
  }
  waiters_turn_.notify_all();
}

/// Looks for the successor of a lost scheduler until one accepts us, refuses us, or the time is over. A socket
/// may still take connections while its process dies, so one that ends before its greeting is tried again.
void Client::find_bus_again(Lock& lock) {
  const TimePoint deadline = monotonic_now() + return_patience(options_.endpoint);
  std::string problem = lost_reason_;
  while (session_ == Session::kLost && !closed_ && monotonic_now() < deadline) {
    lock.unlock();
    std::string endpoint;
    try {
      endpoint = options_.find_bus();
    } catch (const BusEnded& error) {
      lock.lock();
      problem = error.what();
      break;
    } catch (const std::exception& error) {
      problem = error.what();
    }
    lock.lock();
    if (closed_) return;
    if (!endpoint.empty()) {
      scheduler_ = connect(endpoint);
      greet_scheduler();
      await_welcome(lock, deadline);
      problem = lost_reason_;
    }
    if (session_ == Session::kLost) await_moment(lock, kRetryInterval);
  }
  if (session_ == Session::kOpen || session_ == Session::kRefused || closed_) return;
  session_ = Session::kRefused;
  lost_reason_ = problem;
  fail_scheduled_calls("the scheduler was lost and could not be found again: " + problem);
  wake_waiters();
}

void Client::await_welcome(Lock& lock, TimePoint deadline) {
  while (session_ == Session::kGreeting && !closed_ && monotonic_now() < deadline) {
    driver_polls_ = true;
    poll_transport(lock, std::min(deadline, monotonic_now() + milliseconds(100)), wake_fd_);
    driver_polls_ = false;
    drain();
  }
  if (session_ == Session::kGreeting) on_scheduler_lost("nobody answered the greeting");
  waiters_turn_.notify_all();
}

void Client::await_moment(Lock& lock, Duration moment) {
  drivers_turn_.wait_for(lock, std::chrono::nanoseconds(moment.ns), [this] { return closed_; });
}

void Client::resume(const Welcome& welcome) {
  session_ = Session::kOpen;
  unacknowledged_bytes_ = 0;
  std::map<std::uint64_t, std::uint64_t> known;
  for (const KnownCall& call : welcome.calls) {
    known[call.serial] = call.items;
    if (!calls_.contains(call.serial)) send({Forget{call.serial}, {}});  // given up since the greeting
  }
  const auto calls = calls_;
  for (const auto& [serial, call] : calls) {
    const auto there = known.find(serial);
    if (there != known.end()) {
      unsend(*call, std::min(there->second, call->sent));
    } else if (call->over) {
      calls_.erase(serial);
      continue;
    } else {
      unsend(*call, 0);
      call->opening.settled = call->settled.ranges();
      send_opening(call);
    }
    call->close_sent = false;
    unsent_.insert(serial);
  }
  for (const auto& [port, watched] : watched_) send({Watch{port}, {}});
  resume_values();
  pump();
}

void Client::fail_scheduled_calls(const std::string& reason) {
  const auto calls = calls_;
  for (const auto& [serial, call] : calls) {
    if (const auto stream = stream_of_.find(serial); stream != stream_of_.end()) {
      lose_submissions(*stream->second, LostCode::kBusLost, reason);
    } else if (!call->closed) {
      ++call->known;  // what was still to be fed is lost, too: it must not pass for a whole call of fewer items
    }
    call->failure = reason;
    lose_unsettled(call, LostCode::kBusLost, reason);
    calls_.erase(serial);
  }
  stream_of_.clear();
  streams_.clear();
  unsent_.clear();
}

// --- messages -------------------------------------------------------------------------------------

void Client::send(Message message) { transport_->send(scheduler_, message); }

void Client::drain() {
  if (session_ == Session::kClosed) return;
  drain_lanes();
  bool any = false;
  while (auto event = transport_->receive()) {
    on_event(*event);
    any = true;
  }
  // Another thread polls, and will not see what was taken from under it.
  if (any && waiter_polls_) ring(waiter_wake_fd_);
  acknowledge(false);
}

void Client::on_event(TransportEvent& event) {
  if (event.connection == scheduler_) {
    if (event.kind == TransportEvent::kClosed) return on_scheduler_lost(event.reason);
    return on_scheduler(event.message);
  }
  const auto agent = link_of_.find(event.connection);
  if (agent == link_of_.end()) return;  // closed by us: what was under way
  if (event.kind == TransportEvent::kClosed) return on_link_closed(event.connection);
  on_link(links_.at(agent->second), event.message);
}

void Client::on_scheduler(Message& message) {
  if (auto* results = std::get_if<Results>(&message.body)) {
    on_results(*results, message.frames);
  } else if (auto* boxes = std::get_if<Boxes>(&message.body)) {
    on_boxes(*boxes);
  } else if (auto* settled = std::get_if<Settled>(&message.body)) {
    if (const auto call = calls_.find(settled->serial); call != calls_.end()) {
      call->second->stats = std::move(settled->stats);
      call->second->has_stats = true;
      call->second->context = Frame();  // what it holds in shared memory is free for the next call
      send({Forget{settled->serial}, {}});
      calls_.erase(call);
    }
  } else if (auto* explanation = std::get_if<Explanation>(&message.body)) {
    explanations_[explanation->serial] = std::move(explanation->stats);
  } else if (const auto* begun = std::get_if<Begun>(&message.body)) {
    on_begun(*begun);
  } else if (auto* deployed = std::get_if<Deployed>(&message.body)) {
    deployed_[deployed->serial] = {deployed->ok, deployed->error,
                                   message.frames.empty() ? Frame() : message.frames[0], deployed->serial};
  } else if (const auto* deadlock = std::get_if<Deadlock>(&message.body)) {
    on_deadlock(*deadlock);
  } else if (auto* source = std::get_if<Source>(&message.body)) {
    on_source(*source);
  } else if (auto* fetch = std::get_if<Fetch>(&message.body)) {
    send(read_chunk(*fetch));
  } else if (auto* chunk = std::get_if<Chunk>(&message.body)) {
    on_chunk(*chunk, message.frames);
  } else if (const auto* relay = std::get_if<Relay>(&message.body)) {
    on_relay(*relay, std::move(message.frames));
  } else if (auto* report = std::get_if<StatusReport>(&message.body)) {
    status_ = std::move(*report);
  } else if (auto* welcome = std::get_if<Welcome>(&message.body)) {
    if (session_ == Session::kGreeting && welcome->session == session_number_) resume(*welcome);
  } else if (auto* refused = std::get_if<Refused>(&message.body)) {
    const bool ending = refused->code == RefusalCode::kEnding;
    on_scheduler_lost(refused->text);
    if (!ending) {
      session_ = Session::kRefused;
      fail_scheduled_calls("the scheduler refused this process: " + refused->text);
    }
    transport_->close(scheduler_);
  }
}

void Client::acknowledge(bool now) {
  if (unacknowledged_bytes_ == 0 || (!now && unacknowledged_bytes_ < kAckEveryBytes)) return;
  if (session_ == Session::kOpen) send({Acknowledge{ack_seen_}, {}});
  unacknowledged_bytes_ = 0;
}

}  // namespace betterbox
