// FairQueue: calls taking turns. Higher ranks strictly first (priority, then depth of nesting); among equals first by
// client, then among the calls of a client.
#pragma once

#include <compare>
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

struct CallRank {
  std::int32_t priority = 0;
  std::uint32_t depth = 0;
  friend auto operator<=>(const CallRank&, const CallRank&) = default;
};

class FairQueue {
 public:
  using Rank = CallRank;

  void add(CallId call, Rank rank = {}) { size_ += levels_[rank].add(call) ? 1 : 0; }

  /// REQUIRES: the rank is that of add().
  void remove(CallId call, Rank rank = {}) {
    const auto level = levels_.find(rank);
    if (level == levels_.end() || !level->second.remove(call)) return;
    --size_;
    if (level->second.size == 0) levels_.erase(level);
  }

  bool contains(CallId call, Rank rank = {}) const {
    const auto level = levels_.find(rank);
    return level != levels_.end() && level->second.contains(call);
  }

  bool empty() const { return size_ == 0; }
  std::size_t size() const { return size_; }
  /// Calls of one rank.
  std::size_t size_at(Rank rank) const {
    const auto level = levels_.find(rank);
    return level == levels_.end() ? 0 : level->second.size;
  }
  /// The lowest rank there is if the queue is empty.
  Rank highest() const {
    return levels_.empty() ? Rank{std::numeric_limits<std::int32_t>::min(), 0} : levels_.begin()->first;
  }
  /// The next lower rank that calls have.
  std::optional<Rank> below(Rank rank) const {
    const auto level = levels_.upper_bound(rank);  // descending
    return level == levels_.end() ? std::nullopt : std::optional(level->first);
  }

  /// Whose turn it is, of those with the highest rank. The call stays in the queue. REQUIRES: !empty().
  CallId next() {
    BB_CHECK(!empty());
    return levels_.begin()->second.next();
  }
  /// The same for one rank. REQUIRES: size_at(rank) > 0.
  CallId next_at(Rank rank) { return levels_.at(rank).next(); }

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

  std::map<Rank, Level, std::greater<>> levels_;
  std::size_t size_ = 0;
};

}  // namespace betterbox::scheduler
