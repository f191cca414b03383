// MpiTransport: connections of one owner in a rank (cluster/mpi_transport.h).
#include "cluster/mpi_transport.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <set>
#include <stdexcept>

#include "cluster/mpi_state.h"
#include "runtime/check.h"
#include "runtime/codec.h"

namespace betterbox {
namespace {

class MpiTransport final : public Transport, public MpiEnd {
 public:
  explicit MpiTransport(std::shared_ptr<MpiNode::State> node)
      : node_(std::move(node)), bell_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    BB_CHECK(bell_ >= 0);
  }
  ~MpiTransport() override {
    const std::lock_guard lock(node_->mutex);
    set_asleep(false);
    while (!connections_.empty()) end_connection(connections_.begin()->first);
    for (const std::uint64_t sequence : entered_) node_->broadcasts->leave(sequence);
    std::erase_if(node_->listeners, [this](const auto& entry) { return entry.second == this; });
    ::close(bell_);
  }

  std::string listen(const std::string& endpoint) override {
    const std::lock_guard lock(node_->mutex);
    const auto [rank, name] = parse_mpi_endpoint(endpoint);
    if (rank != node_->rank)
      throw std::runtime_error("cannot listen at " + endpoint + ": this is rank " +
                               std::to_string(node_->rank));
    if (!node_->listeners.emplace(name, this).second)
      throw std::runtime_error("cannot listen at " + endpoint + ": somebody does");
    return endpoint;
  }

  ConnectionId connect(const std::string& endpoint) override {
    const std::lock_guard lock(node_->mutex);
    const ConnectionId id{++last_connection_};
    const auto [rank, name] = parse_mpi_endpoint(endpoint);
    if (rank < 0 || rank >= node_->size) {
      push_closed(id, "no rank of this job: " + endpoint, false);
      return id;
    }
    const ConnectionKey key{node_->rank, ++node_->last_number};
    connections_[id] = {key, true, rank};
    node_->ends[{key, true}] = {this, id};
    node_->send_packet(rank, {PacketKind::kConnect, 1, key.number, 1}, {Frame(name)});
    return id;
  }

  bool send(ConnectionId to, const Message& message) override {
    const std::lock_guard lock(node_->mutex);
    const auto found = connections_.find(to);
    if (found == connections_.end()) return false;
    Frames frames;
    frames.reserve(1 + message.frames.size());
    frames.emplace_back(encode(message));
    frames.insert(frames.end(), message.frames.begin(), message.frames.end());
    const Connection& connection = found->second;
    node_->send_packet(connection.peer,
                       {PacketKind::kMessage, connection.initiator, connection.key.number, frames.size()},
                       frames);
    return true;
  }

  std::optional<TransportEvent> receive() override {
    const std::lock_guard lock(node_->mutex);
    node_->driven_at_ns.store(monotonic_now().ns, std::memory_order_relaxed);
    waits_ = false;
    set_asleep(false);
    if (events_.empty() && !node_->finished) node_->progress();
    if (node_->sleepers > 0) node_->ask_for_bell();  // it may have been rung for them, and we have heard it
    if (events_.empty()) {
      if (std::exchange(rung_, false)) {
        std::uint64_t count = 0;
        static_cast<void>(!::read(bell_, &count, sizeof count));
      }
      waits_ = true;
      return std::nullopt;
    }
    TransportEvent event = std::move(events_.front());
    events_.pop_front();
    return event;
  }

  void close(ConnectionId id) override {
    const std::lock_guard lock(node_->mutex);
    if (connections_.contains(id)) end_connection(id);
    std::erase_if(events_, [&](const TransportEvent& event) { return event.connection == id; });
  }

  std::vector<int> wait_fds() override {
    const std::lock_guard lock(node_->mutex);
    if (!node_->doors) return {bell_};
    set_asleep(true);
    node_->ask_for_bell();
    return {bell_, node_->doors->own()};
  }
  std::uint64_t malformed_messages() const override {
    const std::lock_guard lock(node_->mutex);
    return malformed_;
  }

  bool can_broadcast() const override { return true; }

  void enter(BroadcastPart part) override {
    const std::lock_guard lock(node_->mutex);
    if (node_->finished) return;
    if (part.data != nullptr && !part.whole) entered_.insert(part.sequence);  // the others are told of no end
    node_->broadcasts->enter(std::move(part), [this](std::uint64_t sequence, bool ok) {
      entered_.erase(sequence);
      TransportEvent event;
      event.kind = TransportEvent::kBroadcast;
      event.sequence = sequence;
      event.ok = ok;
      push(std::move(event));
    });
    node_->wake_thread();
  }

  void leave(std::uint64_t sequence) override {
    const std::lock_guard lock(node_->mutex);
    entered_.erase(sequence);
    node_->broadcasts->leave(sequence);
  }

  ConnectionId accept(const ConnectionKey& key) override {
    const ConnectionId id{++last_connection_};
    connections_[id] = {key, false, key.initiator};
    node_->ends[{key, false}] = {this, id};
    return id;
  }

  void deliver(ConnectionId id, Frames&& frames) override {
    const Frame first = std::move(frames.front());
    frames.erase(frames.begin());
    auto decoded = decode(first.bytes(), std::move(frames));
    if (auto* message = std::get_if<Message>(&decoded)) {
      TransportEvent event;
      event.connection = id;
      event.message = std::move(*message);
      return push(std::move(event));
    }
    ++malformed_;
    end_connection(id);
    push_closed(id, "malformed message: " + std::get<DecodeError>(decoded).reason, true);
  }

  void closed_by_peer(ConnectionId id, const std::string& reason) override {
    drop(id);
    push_closed(id, reason, false);
  }

 private:
  struct Connection {
    ConnectionKey key;
    std::uint32_t initiator = 0;  ///< 1: we connected
    int peer = 0;                 ///< rank
  };

  /// And tells the peer.
  void end_connection(ConnectionId id) {
    const Connection connection = connections_.at(id);
    drop(id);
    if (node_->finished) return;
    node_->send_packet(connection.peer, {PacketKind::kClose, connection.initiator, connection.key.number, 0},
                       {});
  }

  void drop(ConnectionId id) {
    const auto found = connections_.find(id);
    node_->ends.erase({found->second.key, found->second.initiator != 0});
    connections_.erase(found);
  }

  void set_asleep(bool asleep) {
    node_->sleepers += static_cast<int>(asleep) - static_cast<int>(asleep_);
    asleep_ = asleep;
  }

  void push(TransportEvent event) {
    events_.push_back(std::move(event));
    if (!waits_ || rung_) return;
    waits_ = false;
    rung_ = true;
    const std::uint64_t one = 1;
    static_cast<void>(!::write(bell_, &one, sizeof one));
  }

  void push_closed(ConnectionId id, const std::string& reason, bool malformed) {
    TransportEvent event;
    event.kind = TransportEvent::kClosed;
    event.connection = id;
    event.reason = reason;
    event.malformed = malformed;
    push(std::move(event));
  }

  const std::shared_ptr<MpiNode::State> node_;
  const int bell_;
  bool asleep_ = false;
  bool waits_ = true;  ///< the owner found nothing and may sleep
  bool rung_ = false;
  std::uint64_t last_connection_ = 0;
  std::uint64_t malformed_ = 0;
  std::map<ConnectionId, Connection> connections_;
  std::deque<TransportEvent> events_;
  std::set<std::uint64_t> entered_;  ///< broadcasts that will say their end
};

}  // namespace

std::unique_ptr<Transport> MpiNode::make_transport() { return std::make_unique<MpiTransport>(state_); }

}  // namespace betterbox
