// ZmqTransport: direct links beside ZeroMQ's connections.
//
// The connecting side sends the token of its link over ZeroMQ (a mark) and all else over the link. So messages never go
// two ways, and the listening side, which knows a connection by its mark, reads a link only once it knows whose it is.
// A connection ends when its link is over, or when ZeroMQ says so: then what the link still has comes first.
//
// A listener that cannot have the link says so over ZeroMQ (the same mark), and has read nothing of it. Until something has
// come over the link, the connecting side keeps what it sent, and sends it over ZeroMQ then.
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "runtime/codec.h"
#include "runtime/limits.h"
#include "runtime/zmq_sockets.h"

namespace betterbox {
namespace {

constexpr std::uint64_t kNameless = std::uint64_t{1} << 63;  ///< a tag: the rest is a descriptor
constexpr int kMaxLooksAtDoor = 64;                          ///< as many as its queue holds
/// Messages read from one link before others are looked at.
constexpr int kMessagesAtOnce = 64;

}  // namespace

/// Result: false if the link must do without, for want of descriptors or memory.
bool ZmqTransport::watch_link(int fd, std::uint64_t tag, std::uint32_t events) {
  if (!open_links()) return false;
  epoll_event event{};
  event.events = events;
  event.data.u64 = tag;
  if (::epoll_ctl(links_fd_, EPOLL_CTL_MOD, fd, &event) == 0) return true;
  return errno == ENOENT && ::epoll_ctl(links_fd_, EPOLL_CTL_ADD, fd, &event) == 0;
}

bool ZmqTransport::open_links() {
  if (links_fd_ < 0) links_fd_ = ::epoll_create1(EPOLL_CLOEXEC);
  return links_fd_ >= 0;
}

void ZmqTransport::watch(Connection& connection) {
  const std::uint32_t events = (connection.held ? 0U : static_cast<std::uint32_t>(EPOLLIN)) |
                               (connection.wants_room ? static_cast<std::uint32_t>(EPOLLOUT) : 0U);
  watch_link(connection.link->fd(), connection.id.value, events);
}

// --- making links -----------------------------------------------------------------------------------

void ZmqTransport::open_link(Connection& connection, const std::string& path) {
  LinkToken token;
  if (::getrandom(token.data(), token.size(), 0) != static_cast<ssize_t>(token.size())) return;
  const int fd = connect_link(path, token);
  if (fd < 0) return;
  if (!watch_link(fd, connection.id.value, EPOLLIN) || !send_mark(connection, token)) {
    ::close(fd);
    return;
  }
  connection.tentative = true;
  pair(connection, fd);
}

/// What the listener refused goes over ZeroMQ, and so does all that follows.
void ZmqTransport::fall_back(Connection& connection) {
  if (!std::exchange(connection.tentative, false)) return;
  connection.link.reset();
  for (const Frames& frames : std::exchange(connection.unconfirmed, {}))
    send_over_zmq(connection, frames.front(), std::span(frames).subspan(1));
}

void ZmqTransport::accept_at(Door& door) {
  door.links = listen_for_links(door.path);
  door.link = file_at(link_path_of(door.path));
  if (door.links >= 0 && !watch_link(door.links, 0, EPOLLIN)) ::close(std::exchange(door.links, -1));
}

void ZmqTransport::pause_accepting(bool paused) {
  if (std::exchange(accepts_paused_, paused) == paused) return;
  for (const Door& door : doors_)
    if (door.links >= 0) watch_link(door.links, 0, paused ? 0U : static_cast<std::uint32_t>(EPOLLIN));
  start_clock();
}

void ZmqTransport::accept_links() {
  const TimePoint now = monotonic_now();
  for (const Door& door : doors_) {
    auto caller = door.links >= 0 ? Caller::kOurs : Caller::kNobody;
    for (int i = 0; i < kAcceptsPerTurn && caller != Caller::kNobody; ++i) {
      int fd = -1;
      caller = accept_link(door.links, fd);
      if (caller == Caller::kNoRoom) {
        accepts_again_ = now + kAcceptPause;
        return pause_accepting(true);
      }
      if (caller != Caller::kOurs) continue;
      lobby_.enter(fd, now);
      take_link(fd);
    }
  }
  if (!lobby_.empty()) start_clock();
}

/// Its token may be there now.
void ZmqTransport::take_link(int fd) {
  LinkToken token;
  switch (lobby_.read(fd, token)) {
    case LinkLobby::Reading::kGone: return;
    case LinkLobby::Reading::kDry:
      if (!watch_link(fd, kNameless | static_cast<std::uint64_t>(fd), EPOLLIN)) lobby_.drop(fd);
      return;
    case LinkLobby::Reading::kNamed: break;
  }
  ::epoll_ctl(links_fd_, EPOLL_CTL_DEL, fd, nullptr);
  const auto expecting = expecting_.find(token);
  if (expecting == expecting_.end()) return;
  const ConnectionPtr connection = expecting->second;
  expecting_.erase(expecting);
  connection->expects_link = false;
  pair(*connection, lobby_.take(token));
}

void ZmqTransport::expect_link(const ConnectionPtr& connection, const LinkToken& token) {
  if (const int fd = lobby_.take(token); fd >= 0) return pair(*connection, fd);
  if (connection->expects_link || !expecting_.emplace(token, connection).second) return;
  connection->expects_link = true;
  connection->since = monotonic_now();
  start_clock();
  accept_links();
  if (accepts_paused_ && connection->expects_link) refuse_link(*connection);
}

/// Nothing of it was read: its peer sends everything again, over ZeroMQ.
void ZmqTransport::refuse_link(Connection& connection) {
  for (auto at = expecting_.begin(); at != expecting_.end(); ++at) {
    if (at->second.get() != &connection) continue;
    const ConnectionPtr kept = at->second;
    const LinkToken token = at->first;
    expecting_.erase(at);
    kept->expects_link = false;
    mark_ready(*kept->router->socket);
    send_mark(*kept, token);
    return;
  }
}

void ZmqTransport::refuse_late_links(TimePoint then) {
  std::vector<ConnectionPtr> late;
  for (const auto& [token, connection] : expecting_)
    if (connection->since < then) late.push_back(connection);
  for (const ConnectionPtr& connection : late) refuse_link(*connection);
}

void ZmqTransport::pair(Connection& connection, int fd) {
  connection.link = std::make_unique<DirectLink>(fd);
  watch(connection);
  ready_links_.push_back(connection.id.value);
}

// --- reading ----------------------------------------------------------------------------------------

void ZmqTransport::find_ready_links() {
  if (links_fd_ < 0) return;
  epoll_event ready[64];
  const int count = ::epoll_wait(links_fd_, ready, 64, 0);
  for (int i = 0; i < count; ++i) {
    const std::uint64_t tag = ready[i].data.u64;
    if (tag == 0) {
      if (!accepts_paused_) accept_links();
    } else if (tag == kClock) {
      tick();
    } else if ((tag & kNameless) != 0) {
      const int fd = static_cast<int>(tag & ~kNameless);
      if (lobby_.contains(fd)) take_link(fd);
    } else if (const auto found = connections_.find(tag);
               found != connections_.end() && found->second->link) {
      found->second->link->wake();
      if ((ready[i].events & (EPOLLHUP | EPOLLERR)) != 0 && found->second->held) release(*found->second);
      if ((ready[i].events & ~EPOLLOUT) != 0) ready_links_.push_back(tag);
    }
  }
}

void ZmqTransport::read_link(std::uint64_t id) {
  const auto found = connections_.find(id);
  if (found == connections_.end() || found->second->over || !found->second->link || found->second->held)
    return;
  const ConnectionPtr connection = found->second;
  auto reading = DirectLink::Reading::kMessage;
  for (int i = 0; i < kMessagesAtOnce && reading == DirectLink::Reading::kMessage; ++i)
    reading = read_link_once(*connection);
  if (reading == DirectLink::Reading::kMessage) return ready_links_.push_back(id);
  if (reading == DirectLink::Reading::kDry) return;
  if (reading == DirectLink::Reading::kOver && connection->tentative)
    return connection->link.reset();  // refused perhaps, or the peer is gone: ZeroMQ tells
  if (reading == DirectLink::Reading::kOver) end(*connection, "the peer is gone", false);
  if (connection->dealer) {
    shut_socket(std::move(connection->dealer), 0);
  } else {
    mark_ready(*connection->router->socket);
    send_mark(*connection, kEndMark);
    watch_dying(connection);
  }
}

/// What is no message ends the connection.
DirectLink::Reading ZmqTransport::read_link_once(Connection& connection) {
  Frames frames;
  const auto reading = connection.link->read(frames);  // ends of connections take the link away
  if (reading == DirectLink::Reading::kTooLarge) end(connection, "a message over the limits", true);
  if (reading != DirectLink::Reading::kMessage) return reading;
  if (std::exchange(connection.tentative, false)) connection.unconfirmed = {};
  connection.spoke = true;
  const Frame first = std::move(frames.front());
  frames.erase(frames.begin());
  auto decoded = decode(first.bytes(), std::move(frames));
  if (auto* message = std::get_if<Message>(&decoded)) {
    TransportEvent event;
    event.connection = connection.id;
    event.message = std::move(*message);
    events_.push_back(std::move(event));
    return reading;
  }
  end(connection, "malformed message: " + std::get<DecodeError>(decoded).reason, true);
  return DirectLink::Reading::kTooLarge;
}

/// All that has arrived, before the connection ends. Nothing more arrives meanwhile, so this ends, too.
void ZmqTransport::read_rest(Connection& connection) {
  for (int i = 0; i < kMaxLooksAtDoor && connection.expects_link; ++i) accept_links();
  if (!connection.link) return;
  ::shutdown(connection.link->fd(), SHUT_RD);
  connection.link->wake();
  while (connection.link && read_link_once(connection) == DirectLink::Reading::kMessage) {}
}

void ZmqTransport::drop_link(Connection& connection) {
  connection.link.reset();
  connection.tentative = false;
  connection.unconfirmed = {};
  if (std::exchange(connection.expects_link, false))
    std::erase_if(expecting_, [&](const auto& entry) { return entry.second.get() == &connection; });
}

// --- leaving ----------------------------------------------------------------------------------------

void ZmqTransport::flush_links() {
  for (const ConnectionPtr& connection : std::exchange(unflushed_, {})) {
    connection->unflushed = false;
    if (!connection->link) continue;
    const bool done = connection->link->flush();
    if (!done) {
      connection->unflushed = true;
      unflushed_.push_back(connection);
    }
    if (done == connection->wants_room) {
      connection->wants_room = !done;
      watch(*connection);
    }
  }
  std::erase_if(leaving_, [this](const ConnectionPtr& connection) {
    const bool late = monotonic_now() - connection->since > milliseconds(2 * kLingerMs);
    if (connection->link && !connection->link->flush() && !late) return false;
    connection->link.reset();
    send_mark(*connection, kEndMark);
    watch_dying(connection);
    return true;
  });
}

/// Closed by the owner. What was sent goes first.
void ZmqTransport::close_link(const ConnectionPtr& connection) {
  if (connection->dealer) {
    connection->link->flush_until(monotonic_now() + milliseconds(kLingerMs));
    connection->link.reset();
    return shut_socket(std::move(connection->dealer), kLingerMs);
  }
  watch_link(connection->link->fd(), connection->id.value, EPOLLOUT);  // what it says is not heard any more
  connection->since = monotonic_now();
  leaving_.push_back(connection);
  start_clock();
  flush_links();
}

void ZmqTransport::drop_links() {
  const TimePoint deadline = monotonic_now() + milliseconds(kLingerMs);
  flush_links();
  for (const ConnectionPtr& connection : unflushed_)
    if (connection->link) connection->link->flush_until(deadline);
  for (const ConnectionPtr& connection : leaving_)
    if (connection->link) connection->link->flush_until(deadline);
  for (auto& [id, connection] : connections_) connection->link.reset();
  leaving_.clear();
  unflushed_.clear();
  lobby_.clear();
  for (const Door& door : doors_) {
    if (door.links < 0) continue;
    ::close(door.links);
    ::unlink(link_path_of(door.path).c_str());
  }
  if (clock_fd_ >= 0) ::close(clock_fd_);
  if (links_fd_ >= 0) ::close(links_fd_);
}

}  // namespace betterbox
