// FairQueue: calls taking turns. Higher priorities strictly first; among equals first by client, then among the
// calls of a client.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <set>

#include "runtime/check.h"
#include "runtime/ids.h"

namespace betterbox::scheduler {

class FairQueue {
 public:
  using Priority = std::int32_t;

  void add(CallId call, Priority priority = 0) { size_ += levels_[priority].add(call) ? 1 : 0; }

  /// REQUIRES: the priority is that of add().
  void remove(CallId call, Priority priority = 0) {
    const auto level = levels_.find(priority);
    if (level == levels_.end() || !level->second.remove(call)) return;
    --size_;
    if (level->second.size == 0) levels_.erase(level);
  }

  bool contains(CallId call, Priority priority = 0) const {
    const auto level = levels_.find(priority);
    return level != levels_.end() && level->second.contains(call);
  }

  bool empty() const { return size_ == 0; }
  std::size_t size() const { return size_; }
  /// Calls of one priority.
  std::size_t size_at(Priority priority) const {
    const auto level = levels_.find(priority);
    return level == levels_.end() ? 0 : level->second.size;
  }
  /// The lowest number there is if the queue is empty.
  Priority highest() const {
    return levels_.empty() ? std::numeric_limits<Priority>::min() : levels_.begin()->first;
  }
  /// The next lower priority that calls have.
  std::optional<Priority> below(Priority priority) const {
    const auto level = levels_.upper_bound(priority);  // descending
    return level == levels_.end() ? std::nullopt : std::optional(level->first);
  }

  /// Whose turn it is, of those with the highest priority. The call stays in the queue. REQUIRES: !empty().
  CallId next() {
    BB_CHECK(!empty());
    return levels_.begin()->second.next();
  }
  /// The same for one priority. REQUIRES: size_at(priority) > 0.
  CallId next_at(Priority priority) { return levels_.at(priority).next(); }

 private:
  struct Turns {
    std::set<std::uint64_t> serials;
    std::uint64_t last = 0;
  };
  struct Level {
    std::map<PeerId, Turns> clients;
    PeerId last_client;
    std::size_t size = 0;

    bool add(CallId call) {
      const bool added = clients[call.client].serials.insert(call.serial).second;
      size += added ? 1 : 0;
      return added;
    }
    bool remove(CallId call) {
      const auto client = clients.find(call.client);
      if (client == clients.end() || client->second.serials.erase(call.serial) == 0) return false;
      if (client->second.serials.empty()) clients.erase(client);
      --size;
      return true;
    }
    bool contains(CallId call) const {
      const auto client = clients.find(call.client);
      return client != clients.end() && client->second.serials.contains(call.serial);
    }
    CallId next() {
      auto client = clients.upper_bound(last_client);
      if (client == clients.end()) client = clients.begin();
      last_client = client->first;
      Turns& turns = client->second;
      auto serial = turns.serials.upper_bound(turns.last);
      if (serial == turns.serials.end()) serial = turns.serials.begin();
      turns.last = *serial;
      return {client->first, *serial};
    }
  };

  std::map<Priority, Level, std::greater<>> levels_;
  std::size_t size_ = 0;
};

}  // namespace betterbox::scheduler
