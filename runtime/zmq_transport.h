// Messages over ZeroMQ (docs/protocol.md, section "Carrier"): a ROUTER socket for those who connect to us on this
// host, another for those who come over the network, one DEALER socket for each connection of ours. With
// zmq_keys.* the one owner of zmq.
//
// What goes over the network is encrypted and authenticated by CURVE under the bus's keys; nothing else is offered there.
//
// Guarantees: nothing reconnects by itself; the end of a connection (also of a process killed by SIGKILL) is
// seen at once, by socket monitors, and shows as kClosed behind everything that had arrived. Frames above
// kCopyBelow bytes are not copied in either direction. One io thread, which takes no signals.
//
// Between processes of one user on one host messages go over a direct link beside the ZeroMQ connection (runtime/
// direct_link.h): no io threads in between.
#pragma once

#include <poll.h>
#include <sys/types.h>

#include <deque>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "runtime/direct_link.h"
#include "runtime/limits.h"
#include "runtime/link_lobby.h"
#include "runtime/transport.h"
#include "runtime/zmq_keys.h"

namespace betterbox {

class ZmqTransport : public Transport {
 public:
  /// Without keys there is no network: endpoints "tcp://..." are refused. Throws std::runtime_error if ZeroMQ cannot start.
  explicit ZmqTransport(KeySource keys = {});
  /// Waits at most about a second for what was sent and is still read. In a forked child it only lets go.
  ~ZmqTransport() override;
  ZmqTransport(const ZmqTransport&) = delete;
  ZmqTransport& operator=(const ZmqTransport&) = delete;

  std::string listen(const std::string& endpoint) override;
  ConnectionId connect(const std::string& endpoint) override;
  bool send(ConnectionId to, const Message& message) override;
  std::optional<TransportEvent> receive() override;
  void close(ConnectionId connection) override;
  std::size_t unsent_bytes(ConnectionId connection) const override;
  Duration stalled_for(ConnectionId connection) const override;
  void hold_until_drained(ConnectionId source, ConnectionId target) override;
  std::uint32_t process_of(ConnectionId connection) const override;
  std::string mend_listeners() override;
  std::vector<int> wait_fds() override;
  std::uint64_t malformed_messages() const override { return malformed_; }

  using FileId = std::pair<std::uint64_t, std::uint64_t>;  ///< device and inode

 private:
  struct Socket;      // a zmq socket and its monitor
  struct Connection;  // one session: a DEALER, or a routing id of the ROUTER
  struct Arrival;     // one arrived message as frames
  struct Descriptor;
  struct Router;
  struct Held;
  struct Door;
  /// A connection that was accepted, and of which no message has come.
  struct Silent {
    Router* router = nullptr;
    int descriptor = -1;
    std::uint64_t inode = 0, generation = 0;
    TimePoint since;
  };
  using ConnectionPtr = std::shared_ptr<Connection>;

  std::unique_ptr<Socket> open_socket(int type);
  void shut_socket(std::unique_ptr<Socket> socket, int linger_ms);
  Router& local_router();
  Router& network_router();
  void end_router(std::unique_ptr<Router>& router);
  BusKeys keys() const;

  // Arriving messages.
  void find_ready_sockets();
  void mark_ready(Socket& socket);
  enum class Reading { kMessage, kDry, kShut };
  Reading read_one(Socket& socket);
  Reading read_all(Socket& socket);
  bool read_frames(Socket& socket, Arrival& arrival);
  ConnectionPtr sender_of(Socket& socket, const Arrival& arrival);
  void deliver(Connection& connection, Arrival& arrival);

  // Ends of connections.
  bool read_news(Socket& socket);
  void settle(Socket& socket);
  void settle_dealer(Socket& socket);
  void settle_router(Router& router);
  bool settle_doubts(Router& router);
  void end(Connection& connection, const std::string& reason, bool malformed);
  void let_go(Connection& connection);

  // Bounds of what is unsent, unread and unfinished (zmq_bounds.cc).
  void hold(Connection& connection, ConnectionId behind);
  void hold_back(Connection& connection, TransportEvent&& event);
  void look_at_held();
  bool may_go_on(const Connection& connection) const;
  void release(Connection& connection);
  void abandon(Connection& connection, const std::string& reason);
  void cut(const Connection& connection) const;
  void end_silent(TimePoint then);
  void end_dying(TimePoint then);
  void watch_dying(const ConnectionPtr& connection);
  void start_clock();
  void tick();
  std::string mend(Door& door);

  // Direct links (zmq_links.cc).
  bool watch_link(int fd, std::uint64_t tag, std::uint32_t events);
  void watch(Connection& connection);
  bool open_links();
  void accept_at(Door& door);
  void pause_accepting(bool paused);
  void refuse_link(Connection& connection);
  void refuse_late_links(TimePoint then);
  void fall_back(Connection& connection);
  void accept_links();
  void take_link(int fd);
  void expect_link(const ConnectionPtr& connection, const LinkToken& token);
  void pair(Connection& connection, int fd);
  void open_link(Connection& connection, const std::string& path);
  void find_ready_links();
  void read_link(std::uint64_t id);
  DirectLink::Reading read_link_once(Connection& connection);
  void read_rest(Connection& connection);
  void drop_link(Connection& connection);
  void flush_links();
  void close_link(const ConnectionPtr& connection);
  void drop_links();

  // Leaving messages.
  bool send_mark(Connection& connection, std::size_t bytes);
  bool send_mark(Connection& connection, const LinkToken& token);
  bool send_envelope(Connection& connection);
  bool send_over_zmq(Connection& connection, const Frame& first, std::span<const Frame> payload);
  static std::size_t bytes_unsent(const Connection& connection);
  static std::uint64_t bytes_taken(const Connection& connection);

  const KeySource key_source_;
  void* context_ = nullptr;
  pid_t owner_pid_ = 0;
  std::uint64_t last_connection_ = 0;
  std::uint64_t last_monitor_ = 0;
  std::uint64_t malformed_ = 0;
  std::uint32_t reads_ = 0;

  std::unique_ptr<ZmqGate> gate_;  // goes after the context has ended
  std::unique_ptr<Router> local_, network_;
  std::vector<Door> doors_;
  std::unordered_map<std::uint64_t, ConnectionPtr> connections_;  // those that the owner has not seen end

  int links_fd_ = -1;  // epoll: listeners for links, links and the clock
  int clock_fd_ = -1;  // rings while something has an age
  bool ticking_ = false;
  bool accepts_paused_ = false;
  TimePoint accepts_again_;
  TimePoint trim_at_ = TimePoint::never();                 // memory is given back then
  LinkLobby lobby_{kMaxHalfOpenLinks};                     // links whose connections have not come
  std::map<LinkToken, ConnectionPtr> expecting_;           // connections whose links have not come
  std::deque<std::uint64_t> ready_links_;                  // connections whose links may have messages
  std::vector<ConnectionPtr> unflushed_;                   // with something queued
  std::vector<ConnectionPtr> leaving_;                     // closed by the owner, not all is written yet
  std::vector<ConnectionPtr> held_;                        // not read from
  std::deque<std::pair<TimePoint, ConnectionPtr>> dying_;  // ended here, and their sockets are open
  std::deque<Silent> silent_;

  std::vector<Socket*> sockets_;
  std::vector<pollfd> polled_;  // two for each of sockets_: its own and its monitor's
  std::deque<Socket*> ready_;   // may have messages or news
  std::deque<TransportEvent> events_;
};

}  // namespace betterbox
