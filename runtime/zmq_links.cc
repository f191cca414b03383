// ZmqTransport, second part: direct links beside ZeroMQ's connections.
//
// The connecting side sends the token of its link over ZeroMQ (a mark) and all else over the link. So messages never go
// two ways, and the listening side, which knows a connection by its mark, reads a link only once it knows whose it is.
// A connection ends when its link is over, or when ZeroMQ says so: then what the link still has comes first.
#include <sys/epoll.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <stdexcept>
#include <utility>

#include "runtime/codec.h"
#include "runtime/zmq_sockets.h"

namespace betterbox {
namespace {

constexpr std::uint64_t kNameless = std::uint64_t{1} << 63;  ///< a tag: the rest is a descriptor
constexpr std::size_t kMostUnpaired = 4096;
/// Messages read from one link before others are looked at.
constexpr int kMessagesAtOnce = 64;

}  // namespace

void ZmqTransport::watch_link(int fd, std::uint64_t tag, std::uint32_t events) {
  if (links_fd_ < 0) links_fd_ = ::epoll_create1(EPOLL_CLOEXEC);
  epoll_event event{};
  event.events = events;
  event.data.u64 = tag;
  if (::epoll_ctl(links_fd_, EPOLL_CTL_MOD, fd, &event) == 0) return;
  if (errno != ENOENT || ::epoll_ctl(links_fd_, EPOLL_CTL_ADD, fd, &event) != 0)
    throw std::runtime_error("a link cannot be watched");
}

// --- making links -----------------------------------------------------------------------------------

void ZmqTransport::open_link(Connection& connection, const std::string& path) {
  LinkToken token;
  if (::getrandom(token.data(), token.size(), 0) != static_cast<ssize_t>(token.size())) return;
  const int fd = connect_link(path, token);
  if (fd < 0) return;
  if (!send_mark(connection, token)) {
    ::close(fd);
    return;
  }
  pair(connection, fd);
}

void ZmqTransport::accept_links() {
  if (waiting_links_.size() >=
      kMostUnpaired / 4) {  // of processes that ended before they said whose they are
    std::erase_if(waiting_links_, [](const auto& entry) {
      pollfd state{entry.second, 0, 0};
      const bool gone = ::poll(&state, 1, 0) == 1;
      if (gone) ::close(entry.second);
      return gone;
    });
  }
  for (const int listener : link_listeners_) {
    for (int fd = accept_link(listener); fd >= 0; fd = accept_link(listener)) {
      if (nameless_links_.size() + waiting_links_.size() >= kMostUnpaired) {
        ::close(fd);
        continue;
      }
      nameless_links_.emplace(fd, true);
      take_link(fd);
    }
  }
}

/// Its token may be there now.
void ZmqTransport::take_link(int fd) {
  LinkToken token;
  const int read = read_token(fd, token);
  if (read == 0) return watch_link(fd, kNameless | static_cast<std::uint64_t>(fd), EPOLLIN);
  nameless_links_.erase(fd);
  if (read < 0) {
    ::close(fd);
    return;
  }
  if (const auto expecting = expecting_.find(token); expecting != expecting_.end()) {
    const ConnectionPtr connection = expecting->second;
    expecting_.erase(expecting);
    connection->expects_link = false;
    return pair(*connection, fd);
  }
  ::epoll_ctl(links_fd_, EPOLL_CTL_DEL, fd, nullptr);
  if (!waiting_links_.emplace(token, fd).second) ::close(fd);
}

void ZmqTransport::expect_link(const ConnectionPtr& connection, const LinkToken& token) {
  const auto waiting = waiting_links_.find(token);
  if (waiting != waiting_links_.end()) {
    const int fd = waiting->second;
    waiting_links_.erase(waiting);
    return pair(*connection, fd);
  }
  if (connection->expects_link || !expecting_.emplace(token, connection).second) return;
  connection->expects_link = true;
  accept_links();
}

void ZmqTransport::pair(Connection& connection, int fd) {
  connection.link = std::make_unique<DirectLink>(fd);
  watch_link(fd, connection.id.value, EPOLLIN);
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
      accept_links();
    } else if ((tag & kNameless) != 0) {
      if (nameless_links_.contains(static_cast<int>(tag & ~kNameless)))
        take_link(static_cast<int>(tag & ~kNameless));
    } else if (const auto found = connections_.find(tag);
               found != connections_.end() && found->second->link) {
      found->second->link->wake();
      if ((ready[i].events & ~EPOLLOUT) != 0) ready_links_.push_back(tag);
    }
  }
}

void ZmqTransport::read_link(std::uint64_t id) {
  const auto found = connections_.find(id);
  if (found == connections_.end() || found->second->over || !found->second->link) return;
  const ConnectionPtr connection = found->second;
  auto reading = DirectLink::Reading::kMessage;
  for (int i = 0; i < kMessagesAtOnce && reading == DirectLink::Reading::kMessage; ++i)
    reading = read_link_once(*connection);
  if (reading == DirectLink::Reading::kMessage) return ready_links_.push_back(id);
  if (reading == DirectLink::Reading::kDry) return;
  if (reading == DirectLink::Reading::kOver) end(*connection, "the peer is gone", false);
  if (connection->dealer) {
    shut_socket(std::move(connection->dealer), 0);
  } else {
    mark_ready(*connection->router->socket);
    send_mark(*connection, kEndMark);
  }
}

/// What is no message ends the connection.
DirectLink::Reading ZmqTransport::read_link_once(Connection& connection) {
  Frames frames;
  const auto reading = connection.link->read(frames);  // ends of connections take the link away
  if (reading == DirectLink::Reading::kTooLarge) end(connection, "a message over the limits", true);
  if (reading != DirectLink::Reading::kMessage) return reading;
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

/// All that has arrived, before the connection ends.
void ZmqTransport::read_rest(Connection& connection) {
  if (connection.expects_link) accept_links();
  if (!connection.link) return;
  connection.link->wake();
  while (connection.link && read_link_once(connection) == DirectLink::Reading::kMessage) {}
}

void ZmqTransport::drop_link(Connection& connection) {
  connection.link.reset();
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
      watch_link(connection->link->fd(), connection->id.value, done ? EPOLLIN : EPOLLIN | EPOLLOUT);
    }
  }
  std::erase_if(leaving_, [this](const ConnectionPtr& connection) {
    if (connection->link && !connection->link->flush()) return false;
    connection->link.reset();
    send_mark(*connection, kEndMark);
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
  leaving_.push_back(connection);
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
  for (const auto& [fd, waits] : nameless_links_) ::close(fd);
  for (const auto& [token, fd] : waiting_links_) ::close(fd);
  for (const int fd : link_listeners_) ::close(fd);
  if (links_fd_ >= 0) ::close(links_fd_);
}

}  // namespace betterbox
