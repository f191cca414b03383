// The in-process carrier for tests. Every message goes through the codec, so that what passes here passes on
// a wire.
#include "runtime/fake_transport.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <deque>
#include <map>
#include <mutex>
#include <stdexcept>

#include "runtime/check.h"
#include "runtime/codec.h"

namespace betterbox {

class FakeTransport;

/// Guards everything of one network.
struct FakeNetwork::State {
  std::mutex mutex;
  std::map<std::string, FakeTransport*> listeners;
};

class FakeTransport : public Transport {
 public:
  explicit FakeTransport(std::shared_ptr<FakeNetwork::State> network)
      : network_(std::move(network)), bell_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
    BB_CHECK(bell_ >= 0);
  }

  ~FakeTransport() override {
    const std::lock_guard lock(network_->mutex);
    std::erase_if(network_->listeners, [this](const auto& entry) { return entry.second == this; });
    while (!ends_.empty()) part(ends_.begin()->first, "the peer is gone");
    ::close(bell_);
  }

  std::string listen(const std::string& endpoint) override {
    const std::lock_guard lock(network_->mutex);
    if (!network_->listeners.emplace(endpoint, this).second)
      throw std::runtime_error("cannot listen at " + endpoint + ": somebody does");
    return endpoint;
  }

  ConnectionId connect(const std::string& endpoint) override {
    const std::lock_guard lock(network_->mutex);
    const ConnectionId mine{++last_connection_};
    const auto found = network_->listeners.find(endpoint);
    if (found == network_->listeners.end()) {
      push_closed(mine, "nobody listens there", false);
      return mine;
    }
    FakeTransport& other = *found->second;
    const ConnectionId theirs{++other.last_connection_};
    ends_[mine] = {&other, theirs};
    other.ends_[theirs] = {this, mine};
    return mine;
  }

  bool send(ConnectionId to, const Message& message) override {
    const std::lock_guard lock(network_->mutex);
    const auto found = ends_.find(to);
    if (found == ends_.end()) return false;
    const std::string first = encode(message);
    auto decoded = decode(std::as_bytes(std::span(first)), message.frames);
    BB_CHECK(std::holds_alternative<Message>(decoded));
    TransportEvent event;
    event.connection = found->second.connection;
    event.message = std::move(std::get<Message>(decoded));
    found->second.transport->push(std::move(event));
    return true;
  }

  std::optional<TransportEvent> receive() override {
    const std::lock_guard lock(network_->mutex);
    if (events_.empty()) {
      std::uint64_t rung = 0;
      static_cast<void>(!::read(bell_, &rung, sizeof rung));
      return std::nullopt;
    }
    TransportEvent event = std::move(events_.front());
    events_.pop_front();
    return event;
  }

  void close(ConnectionId connection) override {
    const std::lock_guard lock(network_->mutex);
    part(connection, "closed by the peer");
    std::erase_if(events_, [&](const TransportEvent& event) { return event.connection == connection; });
  }

  std::vector<int> wait_fds() override { return {bell_}; }
  std::uint64_t malformed_messages() const override {
    const std::lock_guard lock(network_->mutex);
    return malformed_;
  }

  void cut(ConnectionId connection) {
    const std::lock_guard lock(network_->mutex);
    const auto found = ends_.find(connection);
    if (found == ends_.end()) return;
    const End other = found->second;
    for (const End& end : {End{this, connection}, other})
      std::erase_if(end.transport->events_,
                    [&](const TransportEvent& event) { return event.connection == end.connection; });
    part(connection, "cut");
    push_closed(connection, "cut", false);
  }

  void garble(ConnectionId connection) {
    const std::lock_guard lock(network_->mutex);
    if (!ends_.contains(connection)) return;
    part(connection, "closed by the peer");
    ++malformed_;
    push_closed(connection, "malformed message", true);
  }

 private:
  struct End {
    FakeTransport* transport = nullptr;
    ConnectionId connection;
  };

  void push(TransportEvent event) {
    events_.push_back(std::move(event));
    const std::uint64_t one = 1;
    static_cast<void>(!::write(bell_, &one, sizeof one));
  }
  void push_closed(ConnectionId connection, const std::string& reason, bool malformed) {
    TransportEvent event;
    event.kind = TransportEvent::kClosed;
    event.connection = connection;
    event.reason = reason;
    event.malformed = malformed;
    push(std::move(event));
  }
  /// Takes the connection from both sides; the other one is told.
  void part(ConnectionId connection, const std::string& reason) {
    const auto found = ends_.find(connection);
    if (found == ends_.end()) return;
    const End other = found->second;
    ends_.erase(found);
    other.transport->ends_.erase(other.connection);
    other.transport->push_closed(other.connection, reason, false);
  }

  const std::shared_ptr<FakeNetwork::State> network_;
  const int bell_;
  // Guarded by network_->mutex.
  std::uint64_t last_connection_ = 0;
  std::uint64_t malformed_ = 0;
  std::map<ConnectionId, End> ends_;
  std::deque<TransportEvent> events_;
};

FakeNetwork::FakeNetwork() : state_(std::make_shared<State>()) {}
FakeNetwork::~FakeNetwork() = default;

std::unique_ptr<Transport> FakeNetwork::make_transport() { return std::make_unique<FakeTransport>(state_); }

void FakeNetwork::cut(Transport& at, ConnectionId connection) {
  static_cast<FakeTransport&>(at).cut(connection);
}
void FakeNetwork::garble(Transport& at, ConnectionId connection) {
  static_cast<FakeTransport&>(at).garble(connection);
}

}  // namespace betterbox
