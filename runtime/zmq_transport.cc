// ZeroMQ as a carrier (docs/protocol.md, section "Carrier").
//
// Why a very long reconnect interval instead of none: with none, libzmq drops the DEALER's pipe together with
// arrived messages as soon as the peer closes. So the socket stays, and is closed once it was read.
#include "runtime/zmq_transport.h"

#include <signal.h>
#include <unistd.h>
#include <zmq.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "runtime/check.h"
#include "runtime/codec.h"
#include "runtime/descriptor_limit.h"
#include "runtime/limits.h"
#include "runtime/own_files.h"
#include "runtime/zmq_frames.h"
#include "runtime/zmq_sockets.h"

namespace betterbox {
namespace {

constexpr int kReconnectMs = 24 * 3600 * 1000;  ///< never, see above
constexpr int kMaxSockets = 8192;               ///< three for each direct connection
constexpr std::uint32_t kReadsBetweenLooks =
    256;  ///< news are looked for at least so often while messages flow
constexpr int kProbes = 8;
/// What a context, and what a connection of ours may open: libzmq aborts, or never tells, where it cannot.
constexpr std::size_t kContextDescriptors = 16, kConnectionDescriptors = 8;
constexpr std::string_view kIpcScheme = "ipc://";
constexpr std::string_view kNetworkScheme = "tcp://";

void check_path_length(const std::string& endpoint) {
  if (endpoint.starts_with(kIpcScheme) && endpoint.size() - kIpcScheme.size() > kMaxSocketPath)
    throw std::runtime_error("the socket path " + endpoint.substr(kIpcScheme.size()) + " is longer than " +
                             std::to_string(kMaxSocketPath) + " bytes");
}

/// Threads started meanwhile take no signals.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

}  // namespace

struct ZmqTransport::Arrival {
  std::string routing_id;
  int descriptor = -1;
  ZmqMessage first;
  Frames payload;
  bool oversized = false;
};

ZmqTransport::ZmqTransport(KeySource keys) : key_source_(std::move(keys)), owner_pid_(getpid()) {
  raise_descriptor_limit();
  require_descriptors(kContextDescriptors, "a connection to the bus");
  SignalsBlocked blocked;
  context_ = zmq_ctx_new();
  if (context_ == nullptr) fail_zmq("ZeroMQ does not start");
  zmq_ctx_set(context_, ZMQ_IO_THREADS, 1);
  zmq_ctx_set(context_, ZMQ_MAX_SOCKETS, kMaxSockets);
  void* first = zmq_socket(context_, ZMQ_PAIR);  // starts the threads
  if (first == nullptr) fail_zmq("ZeroMQ does not start");
  zmq_close(first);
}

ZmqTransport::~ZmqTransport() {
  if (getpid() != owner_pid_) {  // the threads and connections are the parent's
    for (auto& [id, connection] : connections_) static_cast<void>(connection->dealer.release());
    for (const auto& router : {&local_, &network_})
      if (*router) static_cast<void>((*router)->socket.release());
    static_cast<void>(gate_.release());
    return;
  }
  drop_links();
  for (auto& [id, connection] : connections_)
    if (connection->dealer) shut_socket(std::move(connection->dealer), kLingerMs);
  for (const auto& router : {&local_, &network_})
    if (*router) shut_socket(std::move((*router)->socket), kLingerMs);
  for (const Door& door : doors_) ::unlink(door.path.c_str());  // zmq leaves them
  while (zmq_ctx_term(context_) != 0 && errno == EINTR) {}      // also ends the gate's wait
}

// --- sockets ----------------------------------------------------------------------------------------

std::unique_ptr<ZmqTransport::Socket> ZmqTransport::open_socket(int type) {
  auto socket = std::make_unique<Socket>();
  socket->zmq = zmq_socket(context_, type);
  if (socket->zmq == nullptr)
    fail_zmq("this process has as many connections as ZeroMQ may have (" + std::to_string(kMaxSockets / 3) +
             ")");
  void* zmq = socket->zmq;
  set_option(zmq, ZMQ_LINGER, kLingerMs);
  set_option(zmq, ZMQ_SNDHWM, 0);
  // No mark for arrivals either: libzmq 4.3 aborts where a peer hangs up behind a full pipe and a heartbeat falls due.
  set_option(zmq, ZMQ_RCVHWM, 0);
  set_option(zmq, ZMQ_RECONNECT_IVL, kReconnectMs);
  set_option(zmq, ZMQ_BACKLOG, kListenBacklog);
  set_option(zmq, ZMQ_HANDSHAKE_IVL, static_cast<int>(kLivenessBound.ns / 1'000'000));
  // Who connected asks each second, and says how long its silence may last. Who listens, perhaps to a thousand, asks
  // more rarely: it has to, because libzmq forgets the other's bound with each message until the next question comes.
  const Duration ask = type == ZMQ_ROUTER ? kLivenessBound / 2 : kHeartbeatInterval;
  set_option(zmq, ZMQ_HEARTBEAT_IVL, static_cast<int>(ask.ns / 1'000'000));
  set_option(zmq, ZMQ_HEARTBEAT_TIMEOUT, static_cast<int>(kLivenessBound.ns / 1'000'000));
  set_option(zmq, ZMQ_HEARTBEAT_TTL, static_cast<int>(kLivenessBound.ns / 1'000'000));
  const std::int64_t max_frame = kMaxFrameBytes;
  zmq_setsockopt(zmq, ZMQ_MAXMSGSIZE, &max_frame, sizeof max_frame);
  if (type == ZMQ_ROUTER) set_option(zmq, ZMQ_ROUTER_MANDATORY, 1);

  const std::string address = "inproc://monitor-" + std::to_string(++last_monitor_);
  constexpr int kEvents = ZMQ_EVENT_ACCEPTED | ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_CONNECT_RETRIED |
                          ZMQ_EVENT_CLOSED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                          ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;
  if (zmq_socket_monitor(zmq, address.c_str(), kEvents) != 0)
    fail_zmq("ZeroMQ does not tell about connections");
  socket->monitor = zmq_socket(context_, ZMQ_PAIR);
  if (socket->monitor == nullptr) fail_zmq("ZeroMQ has no more sockets");
  set_option(socket->monitor, ZMQ_LINGER, 0);
  set_option(socket->monitor, ZMQ_RCVHWM, 0);  // or the io thread would wait for us
  if (zmq_connect(socket->monitor, address.c_str()) != 0) fail_zmq("ZeroMQ does not tell about connections");

  sockets_.push_back(socket.get());
  polled_.push_back({descriptor_of(zmq), POLLIN, 0});
  polled_.push_back({descriptor_of(socket->monitor), POLLIN, 0});
  mark_ready(*socket);
  return socket;
}

void ZmqTransport::shut_socket(std::unique_ptr<Socket> socket, int linger_ms) {
  const auto at = std::find(sockets_.begin(), sockets_.end(), socket.get()) - sockets_.begin();
  sockets_.erase(sockets_.begin() + at);
  polled_.erase(polled_.begin() + 2 * at, polled_.begin() + 2 * at + 2);
  std::erase(ready_, socket.get());
  zmq_socket_monitor(socket->zmq, nullptr, 0);
  zmq_close(socket->monitor);
  set_option(socket->zmq, ZMQ_LINGER, linger_ms);
  zmq_close(socket->zmq);
}

BusKeys ZmqTransport::keys() const {
  const auto keys = key_source_ ? key_source_() : std::nullopt;
  if (!keys) throw std::runtime_error("no TCP without the bus's keys");
  return *keys;
}

ZmqTransport::Router& ZmqTransport::local_router() {
  if (!local_) {
    local_ = std::make_unique<Router>();
    local_->socket = open_socket(ZMQ_ROUTER);
    local_->socket->router = local_.get();
  }
  return *local_;
}

/// The successor of a scheduler has keys of its own: then those who came in under the old ones have to come again.
ZmqTransport::Router& ZmqTransport::network_router() {
  const BusKeys now = keys();
  if (network_ && network_->keys == now) return *network_;
  if (network_) end_router(network_);
  if (gate_) {
    gate_->admit(now);
  } else {
    SignalsBlocked blocked;
    gate_ = std::make_unique<ZmqGate>(context_, now);
  }
  auto made = std::make_unique<Router>();
  made->keys = now;
  made->socket = open_socket(ZMQ_ROUTER);
  made->socket->router = made.get();
  guard_server(made->socket->zmq, now);
  network_ = std::move(made);
  return *network_;
}

void ZmqTransport::end_router(std::unique_ptr<Router>& router) {
  for (const auto& [id, connection] : router->by_routing_id) {
    end(*connection, "the keys of the bus have changed", false);
  }
  std::erase_if(silent_, [&](const Silent& silent) { return silent.router == router.get(); });
  std::erase_if(dying_, [&](const auto& entry) { return entry.second->router == router.get(); });
  shut_socket(std::move(router->socket), 0);
  router.reset();
}

std::string ZmqTransport::listen(const std::string& endpoint) {
  check_path_length(endpoint);
  require_descriptors(kContextDescriptors, "listening");
  const bool network = endpoint.starts_with(kNetworkScheme);
  Socket& socket = network ? *network_router().socket : *local_router().socket;
  if (network) allow_ipv6(socket.zmq, endpoint);
  listen_at(socket.zmq, endpoint);
  if (!network) {
    Door& door = doors_.emplace_back();
    door.path = endpoint.substr(kIpcScheme.size());
    door.socket = file_at(door.path);
    if (open_links()) accept_at(door);
  }
  start_clock();
  mark_ready(socket);
  return bound_endpoint(socket.zmq);
}

ConnectionId ZmqTransport::connect(const std::string& endpoint) {
  auto connection = std::make_shared<Connection>();
  connection->id = ConnectionId{++last_connection_};
  connections_[connection->id.value] = connection;
  try {
    check_path_length(endpoint);
    require_descriptors(kConnectionDescriptors, "a connection");
    connection->dealer = open_socket(ZMQ_DEALER);
    connection->dealer->connection = connection.get();
    if (endpoint.starts_with(kNetworkScheme)) {
      guard_client(connection->dealer->zmq, keys());
      allow_ipv6(connection->dealer->zmq, endpoint);
    }
    if (zmq_connect(connection->dealer->zmq, endpoint.c_str()) != 0)
      fail_zmq("cannot connect to " + endpoint);
    if (endpoint.starts_with(kIpcScheme)) open_link(*connection, endpoint.substr(kIpcScheme.size()));
  } catch (const std::runtime_error& problem) {
    end(*connection, problem.what(), false);
    if (connection->dealer) shut_socket(std::move(connection->dealer), 0);
  }
  return connection->id;
}

std::vector<int> ZmqTransport::wait_fds() {
  std::vector<int> fds;
  fds.reserve(polled_.size() + 1);
  for (const pollfd& entry : polled_) fds.push_back(entry.fd);
  if (links_fd_ >= 0) fds.push_back(links_fd_);
  return fds;
}

// --- leaving messages -------------------------------------------------------------------------------

/// Names the receiver to the ROUTER. Result: false if it is gone.
bool ZmqTransport::send_envelope(Connection& connection) {
  return connection.dealer || send_copy(connection.router->socket->zmq, connection.routing_id.data(),
                                        connection.routing_id.size(), true);
}

bool ZmqTransport::send_mark(Connection& connection, std::size_t bytes) {
  void* zmq = connection.dealer ? connection.dealer->zmq : connection.router->socket->zmq;
  constexpr char kZero = 0;
  return send_envelope(connection) && send_copy(zmq, &kZero, bytes, false);
}

bool ZmqTransport::send_mark(Connection& connection, const LinkToken& token) {
  void* zmq = connection.dealer ? connection.dealer->zmq : connection.router->socket->zmq;
  return send_envelope(connection) && send_copy(zmq, token.data(), token.size(), false);
}

bool ZmqTransport::send(ConnectionId to, const Message& message) {
  const auto found = connections_.find(to.value);
  if (found == connections_.end() || found->second->over) return false;
  Connection& connection = *found->second;
  if (connection.tentative) {
    connection.unconfirmed.push_back({Frame(encode(message))});
    Frames& frames = connection.unconfirmed.back();
    frames.insert(frames.end(), message.frames.begin(), message.frames.end());
  }
  if (connection.link) {
    connection.link->queue(encode(message), message.frames);
    if (!connection.unflushed && !connection.link->flush()) {
      connection.unflushed = true;
      unflushed_.push_back(found->second);
      flush_links();
    }
  } else if (!connection.tentative && !send_over_zmq(connection, Frame(encode(message)), message.frames)) {
    return false;
  }
  if (!connection.dealer && !connection.held && bytes_unsent(connection) > kUnsentBytes) hold(connection, {});
  return true;
}

bool ZmqTransport::send_over_zmq(Connection& connection, const Frame& first, std::span<const Frame> payload) {
  Socket& socket = connection.dealer ? *connection.dealer : *connection.router->socket;
  mark_ready(socket);  // zmq may take the socket's wake-up while it sends
  if (!send_envelope(connection)) return false;
  const std::size_t count = payload.size();
  if (connection.dealer) {
    if (!send_frame(socket.zmq, first, count > 0)) return false;
  } else {
    std::size_t charge = kMessageCost + first.size();
    for (const Frame& frame : payload) charge += frame.size() <= kCopyBelow ? frame.size() : 0;
    if (!send_counted(socket.zmq, first, charge, connection.unsent, count > 0)) return false;
  }
  for (std::size_t i = 0; i < count; ++i) {
    const Frame& frame = payload[i];
    const bool counted = !connection.dealer && frame.size() > kCopyBelow;
    const bool more = i + 1 < count;
    if (!(counted ? send_counted(socket.zmq, frame, frame.size(), connection.unsent, more)
                  : send_frame(socket.zmq, frame, more)))
      return false;
  }
  return true;
}

void ZmqTransport::close(ConnectionId id) {
  const auto found = connections_.find(id.value);
  if (found == connections_.end()) return;
  const ConnectionPtr connection = found->second;
  connections_.erase(found);
  const bool was_over = std::exchange(connection->over, true);
  if (connection->link) return close_link(connection);
  fall_back(*connection);
  drop_link(*connection);
  if (connection->dealer) {
    shut_socket(std::move(connection->dealer), kLingerMs);
  } else if (!was_over) {
    mark_ready(*connection->router->socket);
    send_mark(*connection, kEndMark);
    watch_dying(connection);
  }
}

// --- arriving messages ------------------------------------------------------------------------------

std::optional<TransportEvent> ZmqTransport::receive() {
  for (;;) {
    while (!events_.empty()) {
      TransportEvent event = std::move(events_.front());
      events_.pop_front();
      const auto found = connections_.find(event.connection.value);
      if (found == connections_.end()) continue;  // closed by the owner meanwhile
      if (found->second->held) {
        hold_back(*found->second, std::move(event));
        continue;
      }
      if (event.kind == TransportEvent::kClosed) connections_.erase(found);
      return event;
    }
    if (ready_.empty() && ready_links_.empty()) {
      flush_links();
      look_at_held();
      find_ready_links();
      find_ready_sockets();
      if (!events_.empty()) continue;
    }
    if (!ready_links_.empty()) {
      const std::uint64_t id = ready_links_.front();
      ready_links_.pop_front();
      read_link(id);
      continue;
    }
    if (ready_.empty()) return std::nullopt;

    Socket& socket = *ready_.front();
    ready_.pop_front();
    socket.queued = false;
    if (++reads_ % kReadsBetweenLooks == 0) {
      mark_ready(socket);
      find_ready_sockets();
      if (socket.has_news) settle(socket);
      continue;
    }
    switch (read_one(socket)) {
      case Reading::kMessage: mark_ready(socket); break;
      case Reading::kDry: settle(socket); break;
      case Reading::kShut: break;
    }
  }
}

/// One system call for all sockets. zmq's descriptors are like edges: a socket whose descriptor is silent,
/// that was
/// read until it was dry and not written to since, has nothing.
void ZmqTransport::find_ready_sockets() {
  if (polled_.empty() || ::poll(polled_.data(), polled_.size(), 0) <= 0) return;
  for (std::size_t i = 0; i < sockets_.size(); ++i) {
    if (polled_[2 * i + 1].revents != 0) sockets_[i]->has_news = true;
    if (polled_[2 * i].revents != 0 || polled_[2 * i + 1].revents != 0) mark_ready(*sockets_[i]);
  }
}

void ZmqTransport::mark_ready(Socket& socket) {
  if (socket.queued) return;
  socket.queued = true;
  ready_.push_back(&socket);
}

ZmqTransport::Reading ZmqTransport::read_one(Socket& socket) {
  const bool is_dealer = socket.router == nullptr;
  Arrival arrival;
  if (!read_frames(socket, arrival)) return Reading::kDry;
  const ConnectionPtr connection = sender_of(socket, arrival);
  if (!connection->over) deliver(*connection, arrival);
  return is_dealer && !connection->dealer ? Reading::kShut : Reading::kMessage;
}

/// Until it is dry, or shut on the way; kMessage: there was more than one turn should read.
ZmqTransport::Reading ZmqTransport::read_all(Socket& socket) {
  Reading reading = Reading::kMessage;
  for (int i = 0; i < kMaxArrivals && reading == Reading::kMessage; ++i) reading = read_one(socket);
  return reading;
}

bool ZmqTransport::read_frames(Socket& socket, Arrival& arrival) {
  if (!receive_part(socket.zmq, &arrival.first.raw)) return false;
  if (socket.router != nullptr) {
    const auto id = arrival.first.bytes();
    arrival.routing_id.assign(reinterpret_cast<const char*>(id.data()), id.size());
    if (!receive_part(socket.zmq, &arrival.first.raw)) return true;  // parts of a message come together
    arrival.descriptor = zmq_msg_get(&arrival.first.raw, ZMQ_SRCFD);
  }
  arrival.oversized = arrival.first.bytes().size() > kHeaderBytes + kMaxBodyBytes;
  for (bool more = zmq_msg_more(&arrival.first.raw) != 0; more;) {
    ZmqMessage part;
    if (!receive_part(socket.zmq, &part.raw)) break;
    more = zmq_msg_more(&part.raw) != 0;
    if (arrival.payload.size() < kMaxFrames) {
      if (!arrival.oversized) arrival.payload.push_back(to_frame(part));
    } else {
      arrival.oversized = true;
    }
  }
  return true;
}

ZmqTransport::ConnectionPtr ZmqTransport::sender_of(Socket& socket, const Arrival& arrival) {
  if (socket.router == nullptr) return connections_.at(socket.connection->id.value);
  Router& router = *socket.router;
  const auto found = router.by_routing_id.find(arrival.routing_id);
  if (found != router.by_routing_id.end()) return found->second;

  read_news(socket);  // its acceptance is told before its first message arrives
  auto connection = std::make_shared<Connection>();
  connection->id = ConnectionId{++last_connection_};
  connection->router = &router;
  connection->routing_id = arrival.routing_id;
  connection->descriptor = arrival.descriptor;
  connection->inode = inode_of(arrival.descriptor);
  connection->since = monotonic_now();
  connection->unsent = std::make_shared<Unsent>();
  const Descriptor& descriptor = router.descriptors[arrival.descriptor];
  connection->generation = descriptor.accepted;
  if (descriptor.accepted > descriptor.settled + 1) {
    connection->probes_left = kProbes;
    router.doubts.push_back(connection);
  }
  connections_[connection->id.value] = connection;
  router.by_routing_id[connection->routing_id] = connection;
  router.by_descriptor.emplace(connection->descriptor, connection);
  return connection;
}

void ZmqTransport::deliver(Connection& connection, Arrival& arrival) {
  const auto bytes = arrival.first.bytes();
  const bool is_mark = bytes.size() <= kProbeMark && arrival.payload.empty() && !arrival.oversized;
  if (is_mark && bytes.size() == kProbeMark) return;
  if (bytes.size() == kLinkMark && arrival.payload.empty()) {
    if (connection.dealer) return fall_back(connection);
    if (connection.link || connection.spoke) return;
    LinkToken token;
    std::memcpy(token.data(), bytes.data(), token.size());
    return expect_link(connections_.at(connection.id.value), token);
  }
  if (is_mark) {
    end(connection, "closed by the peer", false);
  } else if (arrival.oversized) {
    end(connection, "a message over the limits", true);
  } else {
    auto decoded = decode(bytes, std::move(arrival.payload));
    if (auto* message = std::get_if<Message>(&decoded)) {
      TransportEvent event;
      event.connection = connection.id;
      event.message = std::move(*message);
      connection.spoke = true;
      events_.push_back(std::move(event));
      return;
    }
    end(connection, "malformed message: " + std::get<DecodeError>(decoded).reason, true);
  }
  // A ROUTER cannot close one connection: the peer is asked to, and ignored from now on.
  if (connection.dealer) {
    shut_socket(std::move(connection.dealer), 0);
  } else {
    send_mark(connection, kEndMark);
    watch_dying(connections_.at(connection.id.value));
  }
}

}  // namespace betterbox
