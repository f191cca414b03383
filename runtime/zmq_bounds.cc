// ZmqTransport: bounds of what is unsent, unread and unfinished.
//
// Unsent. A listener reads nothing from a connection that has more than kUnsentBytes unsent (it is *held*) until half of it
// has left. A link that is not read fills, and its peer waits. ZeroMQ reads all connections of its socket alike, so there
// what comes is kept aside, up to kMaxHeldBytes. A held connection whose peer takes nothing for kDrainPatience is ended.
//
// Unfinished. The clock rings while something has an age: links that nobody named, connections that said nothing, or that were
// ended and whose peers do not close them. Their sockets are shut down: libzmq itself cannot close one of many.
#include <fcntl.h>
#include <malloc.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include <zmq.h>

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <utility>

#include "runtime/descriptor.h"
#include "runtime/limits.h"
#include "runtime/zmq_frames.h"
#include "runtime/zmq_sockets.h"

namespace betterbox {
namespace {

constexpr Duration kTick = milliseconds(250);
/// Memory is given back this long after somebody had too much: libzmq lets go of what is unsent when it has lingered.
constexpr Duration kTrimDelay = milliseconds(2 * kLingerMs);

TimePoint before(TimePoint now, Duration age) { return {now.ns - age.ns}; }

std::size_t cost_of(const TransportEvent& event) {
  std::size_t bytes = kMessageCost;
  for (const Frame& frame : event.message.frames) bytes += frame.size();
  return bytes;
}

/// The same socket under another number, whatever becomes of `fd` meanwhile. Result: empty if it is another one by now.
Descriptor keep_socket(int fd, std::uint64_t inode) {
  if (fd < 0 || inode == 0) return Descriptor();
  Descriptor copy(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (copy && inode_of(copy.get()) != inode) copy.reset();
  return copy;
}

void shut_down(int fd, std::uint64_t inode) {
  if (const Descriptor socket = keep_socket(fd, inode)) ::shutdown(socket.get(), SHUT_RDWR);
}

}  // namespace

ZmqTransport::FileId file_at(const std::string& path) {
  struct stat file {};
  if (path.empty() || ::lstat(path.c_str(), &file) != 0) return {};
  return {file.st_dev, file.st_ino};
}

std::uint64_t inode_of(int fd) {
  struct stat file {};
  return ::fstat(fd, &file) == 0 && S_ISSOCK(file.st_mode) ? file.st_ino : 0;
}

// --- unsent -------------------------------------------------------------------------------------------

std::size_t ZmqTransport::bytes_unsent(const Connection& connection) {
  const std::size_t inside = connection.unsent ? connection.unsent->bytes() : 0;
  if (!connection.link) return inside;
  return inside + connection.link->queued_bytes() + kMessageCost / 4 * connection.link->queued_frames();
}

std::uint64_t ZmqTransport::bytes_taken(const Connection& connection) {
  const std::uint64_t inside = connection.unsent ? connection.unsent->settled() : 0;
  return inside + (connection.link ? connection.link->written_bytes() : 0);
}

std::size_t ZmqTransport::unsent_bytes(ConnectionId id) const {
  const auto found = connections_.find(id.value);
  return found == connections_.end() || found->second->over ? 0 : bytes_unsent(*found->second);
}

Duration ZmqTransport::stalled_for(ConnectionId id) const {
  const auto found = connections_.find(id.value);
  if (found == connections_.end() || !found->second->held) return {};
  const Connection& connection = *found->second;
  return bytes_taken(connection) != connection.held->taken ? Duration{}
                                                           : monotonic_now() - connection.held->moved_at;
}

void ZmqTransport::hold_until_drained(ConnectionId source, ConnectionId target) {
  const auto found = connections_.find(source.value);
  if (found == connections_.end() || found->second->over || found->second->dealer) return;
  hold(*found->second, target);
}

void ZmqTransport::hold(Connection& connection, ConnectionId behind) {
  if (!connection.held) {
    connection.held = std::make_unique<Held>();
    connection.held->moved_at = monotonic_now();
    connection.held->taken = bytes_taken(connection);
    held_.push_back(connections_.at(connection.id.value));
    if (connection.link) watch(connection);
    start_clock();
  }
  if (behind) connection.held->behind = behind;
}

/// What came from a connection that is not read from waits, its end excepted: that comes behind it.
void ZmqTransport::hold_back(Connection& connection, TransportEvent&& event) {
  if (event.kind == TransportEvent::kClosed) {
    events_.push_front(std::move(event));
    return release(connection);
  }
  Held& held = *connection.held;
  held.bytes += cost_of(event);
  held.events.push_back(std::move(event));
  if (held.bytes > kMaxHeldBytes) abandon(connection, "it asks for more and more, and does not read");
}

bool ZmqTransport::may_go_on(const Connection& connection) const {
  if (connection.over) return true;
  if (bytes_unsent(connection) > kUnsentBytes / 2) return false;
  return !connection.held->behind || unsent_bytes(connection.held->behind) <= kUnsentBytes / 2;
}

void ZmqTransport::look_at_held() {
  if (held_.empty()) return;
  const TimePoint now = monotonic_now();
  for (const ConnectionPtr& connection : std::exchange(held_, {})) {
    if (!connection->held) continue;
    if (may_go_on(*connection)) {
      release(*connection);
      continue;
    }
    held_.push_back(connection);
    Held& held = *connection->held;
    const std::size_t unsent = bytes_unsent(*connection);
    const std::uint64_t taken = bytes_taken(*connection);
    if (std::exchange(held.taken, taken) != taken || unsent <= kUnsentBytes / 2) held.moved_at = now;
    const Duration patience = kDrainPatience + seconds(static_cast<std::int64_t>(unsent / kSlowestDrain));
    if (now - held.moved_at > patience) abandon(*connection, "it does not read what it asked for");
  }
}

/// It is read again, what it sent meanwhile first.
void ZmqTransport::release(Connection& connection) {
  const std::unique_ptr<Held> held = std::move(connection.held);
  events_.insert(events_.begin(), std::make_move_iterator(held->events.begin()),
                 std::make_move_iterator(held->events.end()));
  trim_at_ = monotonic_now() + kTrimDelay;
  start_clock();
  if (!connection.link || connection.over) return;
  connection.link->wake();
  watch(connection);
  ready_links_.push_back(connection.id.value);
}

/// Ends a connection without regard to what was sent or has come.
void ZmqTransport::abandon(Connection& connection, const std::string& reason) {
  drop_link(connection);
  if (connection.held) connection.held->events.clear();
  end(connection, reason, false);
  cut(connection);
  trim_at_ = monotonic_now() + kTrimDelay;
  start_clock();
}

/// REQUIRES: it is one of a ROUTER. Where its descriptor may be another one's, nothing is done.
void ZmqTransport::cut(const Connection& connection) const {
  if (connection.probes_left == 0) shut_down(connection.descriptor, connection.inode);
}

std::uint32_t ZmqTransport::process_of(ConnectionId id) const {
  const auto found = connections_.find(id.value);
  if (found == connections_.end() || found->second->over) return 0;
  const Connection& connection = *found->second;
  const betterbox::Descriptor socket =
      connection.link ? betterbox::Descriptor(::fcntl(connection.link->fd(), F_DUPFD_CLOEXEC, 0))
                      : keep_socket(connection.descriptor, connection.inode);
  ucred peer{};
  socklen_t size = sizeof peer;
  if (!socket || ::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return 0;
  return peer.pid > 0 ? static_cast<std::uint32_t>(peer.pid) : 0;
}

// --- ages ---------------------------------------------------------------------------------------------

/// It rings once. Only who listens has one.
void ZmqTransport::start_clock() {
  if (ticking_ || (doors_.empty() && network_ == nullptr)) return;
  if (clock_fd_ < 0) {
    clock_fd_ = ::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (clock_fd_ < 0) return;
    if (!watch_link(clock_fd_, kClock, EPOLLIN)) {
      ::close(std::exchange(clock_fd_, -1));
      return;
    }
  }
  itimerspec at{};
  at.it_value.tv_nsec = kTick.ns;
  ticking_ = ::timerfd_settime(clock_fd_, 0, &at, nullptr) == 0;
}

void ZmqTransport::tick() {
  std::uint64_t rings = 0;
  static_cast<void>(!::read(clock_fd_, &rings, sizeof rings));
  ticking_ = false;
  const TimePoint now = monotonic_now();
  lobby_.expire(before(now, kLivenessBound));
  if (accepts_paused_ && now >= accepts_again_) pause_accepting(false);
  refuse_late_links(before(now, kLinkPatience));
  end_silent(before(now, kLivenessBound * 2));
  end_dying(before(now, milliseconds(2 * kLingerMs)));
  if (trim_at_ <= now) {
    ::malloc_trim(0);
    trim_at_ = TimePoint::never();
  }
  const bool quiet = held_.empty() && leaving_.empty() && expecting_.empty() && lobby_.empty() &&
                     silent_.empty() && dying_.empty() && !accepts_paused_ && trim_at_ == TimePoint::never();
  if (!quiet) start_clock();
}

/// Those who have connected and say nothing.
void ZmqTransport::end_silent(TimePoint then) {
  std::erase_if(silent_, [&](const Silent& silent) {
    const Descriptor& descriptor = silent.router->descriptors[silent.descriptor];
    if (descriptor.ended >= silent.generation || descriptor.accepted != silent.generation) return true;
    const auto [begin, end] = silent.router->by_descriptor.equal_range(silent.descriptor);
    const auto found = std::find_if(
        begin, end, [&](const auto& entry) { return entry.second->generation == silent.generation; });
    if (found != end && (found->second->spoke || found->second->over)) return true;
    if (silent.since >= then) return false;
    if (found != end) {
      abandon(*found->second, "it did not say who it is");
    } else {
      shut_down(silent.descriptor, silent.inode);
    }
    return true;
  });
}

void ZmqTransport::watch_dying(const ConnectionPtr& connection) {
  dying_.emplace_back(monotonic_now(), connection);
  start_clock();
}

/// Those that were ended here, and whose peers do not close them.
void ZmqTransport::end_dying(TimePoint then) {
  while (!dying_.empty() && dying_.front().first < then) {
    const ConnectionPtr connection = dying_.front().second;
    dying_.pop_front();
    const auto& served = connection->router->by_routing_id;
    const auto found = served.find(connection->routing_id);
    if (found != served.end() && found->second == connection) cut(*connection);
  }
}

// --- files of sockets -----------------------------------------------------------------------------------

std::string ZmqTransport::mend_listeners() {
  std::string text;
  for (Door& door : doors_) {
    const std::string told = mend(door);
    if (!told.empty()) text += (text.empty() ? "" : "; ") + told;
  }
  return text;
}

/// The new socket gets the name once it listens, so nobody meets one that does not. The old one serves who is connected.
std::string ZmqTransport::mend(Door& door) {
  std::string text;
  if (file_at(door.path) != door.socket) {
    const std::string made = door.path + ".n";
    if (zmq_bind(local_->socket->zmq, ("ipc://" + made).c_str()) != 0)
      return "the socket " + door.path + " is gone and cannot be made again: " + zmq_strerror(zmq_errno());
    const FileId file = file_at(made);
    if (std::rename(made.c_str(), door.path.c_str()) != 0)
      return "the socket " + door.path + " is gone, and something else has its name";
    door.socket = file;
    mark_ready(*local_->socket);
    text = "the socket " + door.path + " had been removed or replaced, and was made again";
  }
  if (door.links >= 0 && file_at(link_path_of(door.path)) != door.link) {
    ::close(door.links);
    accept_at(door);
    if (text.empty()) text = "the socket " + link_path_of(door.path) + " was made again";
  }
  return text;
}

}  // namespace betterbox
