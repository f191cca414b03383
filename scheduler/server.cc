#include "scheduler/server.h"

#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <system_error>
#include <type_traits>

#include "runtime/bus_file.h"
#include "runtime/check.h"
#include "runtime/descriptor_limit.h"
#include "runtime/direct_link.h"
#include "runtime/limits.h"
#include "runtime/value_copy.h"

namespace betterbox::scheduler {
namespace {

/// Of those that main.cc waits for. (glibc has a function for all only since 2.32.)
const char* stop_signal_name(std::uint32_t number) {
  return number == SIGINT ? "SIGINT" : number == SIGHUP ? "SIGHUP" : "SIGTERM";
}

/// The bus file is looked at this often.
constexpr Duration kBusCheckInterval = seconds(1);
/// A file that cannot be read may be a moment's trouble (descriptors, a file server).
constexpr int kUnreadableBusFilesAllowed = 5;
/// Messages handled before deadlines and signals are looked at again.
constexpr int kMessagesPerTurn = 256;

/// For `betterbox doctor`: nothing here goes by this clock.
std::uint64_t wall_clock_us() {
  const auto since = std::chrono::system_clock::now().time_since_epoch();
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(since).count());
}

bool shares_process_numbers(std::uint32_t pid) {
  struct stat its {
  }, ours{};
  const std::string path = "/proc/" + std::to_string(pid) + "/ns/pid";
  return ::stat(path.c_str(), &its) == 0 && ::stat("/proc/self/ns/pid", &ours) == 0 &&
         its.st_ino == ours.st_ino;
}

int poll_timeout_ms(TimePoint now, TimePoint until) {
  if (until <= now) return 0;
  const std::int64_t ms = ((until - now).ns + 999'999) / 1'000'000;
  return static_cast<int>(std::min<std::int64_t>(ms, 60'000));
}

}  // namespace

Server::Server(Options options, Transport& transport)
    : options_(std::move(options)), transport_(transport), core_(options_.config, monotonic_now()) {
  next_bus_check_ = monotonic_now() + kBusCheckInterval;
}

Server::~Server() {
  for (const auto& [peer, fd] : processes_) ::close(fd);
}

std::string Server::run() {
  while (!stopped_) {
    const bool busy = drain_transport();
    end_unread();
    const TimePoint now = monotonic_now();
    if (!stopped_ && core_.next_deadline() <= now) handle(DeadlineReached{});
    if (!stopped_ && next_bus_check_ <= now) check_bus_file();
    // What was sent may have made the transport readable without its descriptors saying so: wait only
    // when it was found empty with nothing sent since.
    if (!stopped_ && !busy && !drain_transport()) wait();
  }
  return stop_reason_;
}

bool Server::drain_transport() {
  int handled = 0;
  while (!stopped_ && handled < kMessagesPerTurn) {
    std::optional<TransportEvent> event = transport_.receive();
    if (!event) break;
    ++handled;
    on_transport_event(std::move(*event));
  }
  return handled > 0;
}

void Server::on_transport_event(TransportEvent&& event) {
  if (event.kind == TransportEvent::kBroadcast) return;
  if (event.kind == TransportEvent::kClosed) {
    if (event.malformed) spdlog::warn("dropped connection {}: {}", event.connection.value, event.reason);
    handle(ConnectionEnded{event.connection, std::move(event.reason), event.malformed});
    return;
  }
  std::optional<Hello> hello;
  if (auto* body = std::get_if<Hello>(&event.message.body)) {
    correct_process(event.connection, *body);
    hello = *body;
  }
  if (hello && refuse_for_want_of_descriptors(event.connection, *hello)) return;
  cause_ = event.connection;
  handle(MessageArrived{event.connection, std::move(event.message)});
  cause_ = {};
  if (hello) watch_process(*hello);
}

/// A peer of this host is the process that the system says it is, whatever it claims. Where it lives in another process
/// namespace, it has another number there.
void Server::correct_process(ConnectionId connection, Hello& hello) const {
  const Config& own = options_.config;
  if (hello.host != own.host || hello.boot_id != own.boot_id) return;
  const std::uint32_t pid = transport_.process_of(connection);
  if (pid != 0 && pid != hello.pid && shares_process_numbers(pid)) hello.pid = pid;
}

/// Each peer takes one to three descriptors, and without any left even the bus file cannot be read. Who is known may come
/// back: its calls are here.
bool Server::refuse_for_want_of_descriptors(ConnectionId connection, const Hello& hello) {
  if (core_.state().peers.contains(hello.peer)) return false;
  if (can_open(kReservedDescriptors)) {
    told_of_descriptors_ = false;
    return false;
  }
  const std::string text = "the scheduler on " + options_.config.host + " can take no more peers than the " +
                           std::to_string(core_.state().peers.size()) + " it has: " + descriptor_advice();
  if (!std::exchange(told_of_descriptors_, true)) spdlog::warn("peers are refused: {}", text);
  transport_.send(connection, {Refused{RefusalCode::kCapacity, text}, {}});
  transport_.close(connection);
  handle(ConnectionEnded{connection, text, false});  // it may have shown a Proof
  return true;
}

void Server::handle(Event&& event) {
  Effects effects;
  core_.handle(monotonic_now(), std::move(event), effects);
  apply(effects);
}

void Server::apply(Effects& effects) {
  BB_CHECK(effects.persist.empty());  // no journal, no durable calls
  const auto stop = std::find_if(effects.send.begin(), effects.send.end(),
                                 [](const Effect& e) { return std::holds_alternative<Stop>(e); });
  // Whoever is told that this scheduler ends must not find it in the bus file any more.
  if (stop != effects.send.end() && !options_.bus_file.empty())
    remove_bus_file(options_.bus_file, options_.config.peer.value);
  for (Effect& effect : effects.send) {
    if (auto* send = std::get_if<SendMessage>(&effect)) {
      if (const auto* refused = std::get_if<Refused>(&send->message.body)) {
        spdlog::info("refused connection {}: {}", send->connection.value, refused->text);
      }
      if (auto* report = std::get_if<StatusReport>(&send->message.body))
        report->counters.push_back({kClockCounter, wall_clock_us()});
      deliver(*send);
    } else if (auto* end = std::get_if<EndConnection>(&effect)) {
      transport_.close(end->connection);
    } else if (auto* remove = std::get_if<RemoveSocket>(&effect)) {
      remove_socket(remove->path);
    } else if (auto* read = std::get_if<ReadValue>(&effect)) {
      if (transport_.unsent_bytes(read->connection) > kMaxUnsentChunks) continue;  // it asks again
      Message chunk = read_chunk({options_.config.peer, std::move(read->value), read->offset, read->count});
      transport_.send(read->connection, chunk);
    } else if (auto* give = std::get_if<GiveValue>(&effect)) {
      give_value(give->broadcast);
    } else {
      stopped_ = true;
      stop_reason_ = std::get<Stop>(effect).reason;
    }
  }
}

/// A connection that is over shows as kClosed. What is passed on for others has a bound of its own: who asked for it may not
/// read it, and who sends it need not read at all.
void Server::deliver(const SendMessage& send) {
  const bool chunk = std::holds_alternative<Chunk>(send.message.body);
  if (chunk && transport_.unsent_bytes(send.connection) > kMaxUnsentChunks) return;  // it is asked for again
  transport_.send(send.connection, send.message);
  if (!std::holds_alternative<Relay>(send.message.body) ||
      transport_.unsent_bytes(send.connection) <= kUnsentBytes)
    return;
  const auto from = core_.state().connections.find(cause_);
  if (from == core_.state().connections.end()) return;
  if (!from->second->is_agent()) return transport_.hold_until_drained(cause_, send.connection);
  if (transport_.unsent_bytes(send.connection) > kMaxReplyBytes &&
      transport_.stalled_for(send.connection) > kReplyPatience)
    unread_.push_back(send.connection);
}

/// Those who do not read what others send them.
void Server::end_unread() {
  for (const ConnectionId connection : std::exchange(unread_, {})) {
    transport_.close(connection);
    handle(ConnectionEnded{connection, "it does not read the replies that it asked for", false});
  }
}

/// Also without the value, so that nobody waits for it.
void Server::give_value(const Broadcast& broadcast) {
  BroadcastPart part;
  part.sequence = broadcast.sequence;
  part.members.assign(broadcast.members.begin(), broadcast.members.end());
  part.size = broadcast.value.bytes;
  const ValueId& value = broadcast.value;
  if (auto mapped = segment_pool()->find(value.name, value.serial, value.bytes)) {
    part.whole = true;  // the client of this process put it
    part.data = mapped.get();
    part.memory = std::move(mapped);
  } else if (auto hold = open_value(kSegmentFolder, value)) {
    part.whole = true;
    part.data = hold->bytes().data();
    part.memory = std::move(hold);
  }
  transport_.enter(std::move(part));
}

void Server::watch_process(const Hello& hello) {
  const Config& own = options_.config;
  if (hello.host != own.host || hello.boot_id != own.boot_id || hello.pid == 0) return;
  const auto& peers = core_.state().peers;
  const auto peer = peers.find(hello.peer);
  if (peer == peers.end() || peer->second.pid != hello.pid || processes_.contains(hello.peer)) return;
  // Where this fails (another process namespace) the reconnect grace decides.
  // Not by the wrapper: glibc 2.36 declares it without C linkage.
  const int fd = static_cast<int>(::syscall(SYS_pidfd_open, static_cast<pid_t>(hello.pid), 0));
  if (fd >= 0) processes_[hello.peer] = fd;
}

void Server::forget_gone_processes() {
  const auto& peers = core_.state().peers;
  std::erase_if(processes_, [&](const auto& process) {
    if (peers.contains(process.first)) return false;
    ::close(process.second);
    return true;
  });
}

void Server::check_bus_file() {
  if (options_.bus_file.empty()) {
    next_bus_check_ = TimePoint::never();
    return;
  }
  next_bus_check_ = monotonic_now() + kBusCheckInterval;
  mend_sockets();
  std::optional<BusInfo> info;
  try {
    info = read_bus_file(options_.bus_file);
    unreadable_bus_files_ = 0;
  } catch (const std::exception& problem) {
    // Without a free descriptor it cannot be looked at: that says nothing about the file.
    const auto* error = dynamic_cast<const std::system_error*>(&problem);
    if (error != nullptr && error->code() == std::errc::too_many_files_open) return;
    if (++unreadable_bus_files_ <= kUnreadableBusFilesAllowed) return;
    spdlog::warn("{}", problem.what());
  }
  if (info && info->incarnation == options_.config.peer.value) return;
  handle(
      StopRequested{"its bus file " + options_.bus_file + (info ? " names another scheduler" : " is gone")});
}

/// Somebody, or what clears old files away, may have removed them: nobody could come any more.
void Server::mend_sockets() {
  try {
    if (!std::filesystem::exists(options_.socket_folder)) make_socket_folder(options_.bus_file);
    if (const std::string told = transport_.mend_listeners(); !told.empty()) spdlog::warn("{}", told);
  } catch (const std::exception& problem) {
    spdlog::warn("the sockets of this bus are gone: {}", problem.what());
  }
}

void Server::wait() {
  forget_gone_processes();
  std::vector<pollfd> fds;
  for (const int fd : transport_.wait_fds()) fds.push_back({fd, POLLIN, 0});
  if (options_.signal_fd >= 0) fds.push_back({options_.signal_fd, POLLIN, 0});
  if (options_.die_with_fd >= 0) fds.push_back({options_.die_with_fd, POLLIN, 0});
  std::vector<std::pair<PeerId, std::size_t>> watched;
  for (const auto& [peer, fd] : processes_) {
    watched.emplace_back(peer, fds.size());
    fds.push_back({fd, POLLIN, 0});
  }
  const TimePoint until = std::min(core_.next_deadline(), next_bus_check_);
  if (::poll(fds.data(), fds.size(), poll_timeout_ms(monotonic_now(), until)) <= 0) return;
  for (const auto& [peer, place] : watched) {
    if (fds[place].revents == 0) continue;
    ::close(fds[place].fd);
    processes_.erase(peer);
    handle(ProcessEnded{peer});
    if (stopped_) return;
  }
  for (const pollfd& ready : fds) {
    if (ready.revents == 0) continue;
    if (ready.fd == options_.signal_fd) {
      signalfd_siginfo info{};
      if (::read(ready.fd, &info, sizeof info) != sizeof info) continue;
      return handle(StopRequested{std::string("it was asked to (") + stop_signal_name(info.ssi_signo) + ")"});
    }
    if (ready.fd == options_.die_with_fd) {
      char ignored[64];
      const ssize_t count = ::read(ready.fd, ignored, sizeof ignored);
      if (count > 0 || (count < 0 && (errno == EINTR || errno == EAGAIN))) continue;
      return handle(StopRequested{"the process that started it is gone"});
    }
  }
}

void Server::remove_socket(const std::string& path) const {
  namespace fs = std::filesystem;
  const fs::path socket = fs::path(path).lexically_normal();
  if (socket.parent_path() != fs::path(options_.socket_folder).lexically_normal()) return;
  std::error_code ignored;
  for (const std::string& file : {socket.string(), link_path_of(socket.string())})
    if (fs::is_socket(fs::symlink_status(file, ignored))) fs::remove(file, ignored);
}

}  // namespace betterbox::scheduler
