// What the scheduler knows of values in shared memory (scheduler/values.h keeps it): who holds them, which agents keep
// copies, and which copies are being made.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "runtime/ids.h"
#include "runtime/messages.h"
#include "runtime/time.h"

namespace betterbox::scheduler {

/// An agent that was asked to keep a copy.
struct Keeper {
  bool kept = false;    ///< it said that it does
  bool wanted = false;  ///< counts for the value's replicas; else for whoever needed it there
};

/// A peer that gets a value from another store.
struct Transfer {
  PeerId source;      ///< nobody: it waits until a store has room for one more
  std::string store;  ///< of the source
  std::set<PeerId> avoided;
};

struct Value {
  ValueId id;
  std::string home;  ///< the store where it was put
  std::string label;
  PeerId owner;  ///< who put it
  std::uint32_t replicas = 1;
  std::uint64_t number = 0;  ///< names its timer
  std::set<PeerId> holders;  ///< with a reference
  std::map<PeerId, Keeper> keepers;
  std::set<PeerId> unable;  ///< said that they cannot keep it
  std::map<PeerId, Transfer> transfers;
  std::set<PeerId> waiting;   ///< for an agent of their store to have it
  std::set<CallId> calls;     ///< that it was broadcast for
  std::set<PeerId> touchers;  ///< in whose `touched` it is
  bool lost_at_home = false;
  TimePoint unheld_at = TimePoint::never();
};

struct ValueTable {
  std::map<std::string, Value> by_name;
  std::map<std::uint64_t, std::string> names;       ///< by number
  std::map<std::string, std::set<PeerId>> agents;   ///< by store
  std::map<std::string, std::uint32_t> giving;      ///< transfers under way, by the source's store
  std::map<PeerId, std::set<std::string>> touched;  ///< values in which a peer has any part
  std::set<std::string> queued;                     ///< values with transfers that wait for a store
  std::set<std::string> short_of;                   ///< values with fewer keepers than wanted
  std::map<std::string, std::vector<PeerId>> due;   ///< in this turn: agents that need a value and lack it
  std::uint64_t numbers = 0;
  std::uint64_t broadcasts = 0;
};

}  // namespace betterbox::scheduler
