// WaitTable: which boxes and items wait for which boxes and calls, as their clients say, and whether one of these waits goes
// round in a cycle: then nobody in it will ever have what he waits for. (docs/protocol.md, section "Waits".)
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "runtime/ids.h"
#include "runtime/messages.h"

namespace betterbox::scheduler {

/// A client's wait, by its number.
using WaitId = std::pair<PeerId, std::uint64_t>;

class WaitTable {
 public:
  /// A wait that is there already is replaced. Result: false if the client has too many.
  bool put(WaitId id, Waits&& wait);
  void erase(WaitId id);
  void erase_client(PeerId client);
  const Waits* find(WaitId id) const;
  bool empty() const { return waits_.empty(); }

  /// What waits in each step of a cycle through this wait: the wait itself first, each for the next, the last for the
  /// first; empty if there is none. `only_box`: the one box that can run items of a call, or none.
  std::vector<const Waits*> cycle_through(WaitId id, const std::function<BoxId(CallId)>& only_box) const;

 private:
  void index(WaitId id, const Waits& wait, bool add);

  std::map<WaitId, Waits> waits_;
  std::map<BoxId, std::set<WaitId>> of_box_;
  std::map<CallId, std::set<WaitId>> of_call_;
};

}  // namespace betterbox::scheduler
