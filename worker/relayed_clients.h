// RelayedClients: an agent's links to clients that reach it through the scheduler only (docs/protocol.md, "Links"). To the
// loop they look like connections: each has an id, from a range that no transport uses.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "runtime/codec.h"
#include "runtime/ids.h"
#include "runtime/messages.h"

namespace betterbox {

class RelayedClients {
 public:
  explicit RelayedClients(std::function<void(const Message&)> to_scheduler)
      : to_scheduler_(std::move(to_scheduler)) {}

  static bool owns(ConnectionId id) { return (id.value & kOwn) != 0; }

  /// The link to `client`, which may begin now.
  ConnectionId link_of(PeerId client) {
    ConnectionId& id = ids_[client];
    if (!id) id = {kOwn | ++last_}, clients_[id] = client;
    return id;
  }
  void send(ConnectionId link, const Message& message) const {
    const auto client = clients_.find(link);
    if (client != clients_.end()) to_scheduler_(wrap(client->second, message));
  }
  void close(ConnectionId link) {
    if (const auto client = forget(link)) to_scheduler_({Relay{*client, true}, {}});
  }
  /// The scheduler says that it is over. Result: which it was, if any.
  std::optional<ConnectionId> ended(PeerId client) {
    const auto found = ids_.find(client);
    if (found == ids_.end()) return std::nullopt;
    const ConnectionId link = found->second;
    forget(link);
    return link;
  }
  /// The session with the scheduler is over, and so are these.
  std::vector<ConnectionId> ended_all() {
    std::vector<ConnectionId> links;
    for (const auto& [link, client] : clients_) links.push_back(link);
    clients_.clear();
    ids_.clear();
    return links;
  }

 private:
  static constexpr std::uint64_t kOwn = std::uint64_t{1} << 63;

  std::optional<PeerId> forget(ConnectionId link) {
    const auto found = clients_.find(link);
    if (found == clients_.end()) return std::nullopt;
    const PeerId client = found->second;
    ids_.erase(client);
    clients_.erase(found);
    return client;
  }

  const std::function<void(const Message&)> to_scheduler_;
  std::map<PeerId, ConnectionId> ids_;
  std::map<ConnectionId, PeerId> clients_;
  std::uint64_t last_ = 0;
};

}  // namespace betterbox
