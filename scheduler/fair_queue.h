// FairQueue: calls taking turns, first by client, then among the calls of a client.
#pragma once

#include <cstddef>
#include <map>
#include <set>

#include "runtime/check.h"
#include "runtime/ids.h"

namespace betterbox::scheduler {

class FairQueue {
 public:
  void add(CallId call) { size_ += clients_[call.client].serials.insert(call.serial).second ? 1 : 0; }

  void remove(CallId call) {
    const auto client = clients_.find(call.client);
    if (client == clients_.end()) return;
    size_ -= client->second.serials.erase(call.serial);
    if (client->second.serials.empty()) clients_.erase(client);
  }

  bool contains(CallId call) const {
    const auto client = clients_.find(call.client);
    return client != clients_.end() && client->second.serials.contains(call.serial);
  }

  bool empty() const { return size_ == 0; }
  std::size_t size() const { return size_; }

  /// Whose turn it is. The call stays in the queue. REQUIRES: !empty().
  CallId next() {
    BB_CHECK(!empty());
    auto client = clients_.upper_bound(last_client_);
    if (client == clients_.end()) client = clients_.begin();
    last_client_ = client->first;
    Turns& turns = client->second;
    auto serial = turns.serials.upper_bound(turns.last);
    if (serial == turns.serials.end()) serial = turns.serials.begin();
    turns.last = *serial;
    return {client->first, *serial};
  }

 private:
  struct Turns {
    std::set<std::uint64_t> serials;
    std::uint64_t last = 0;
  };
  std::map<PeerId, Turns> clients_;
  PeerId last_client_;
  std::size_t size_ = 0;
};

}  // namespace betterbox::scheduler
