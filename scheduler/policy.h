// Policies: how many items to grant to whom. Pure functions of what was measured; no state, no time.
#pragma once

#include <cstdint>
#include <string_view>

#include "runtime/time.h"

namespace betterbox::scheduler {

/// A worker that has this much of a call's work per slot waits for nothing while a message goes to and fro.
inline constexpr Duration kEnoughWork = milliseconds(2);

/// What a worker holds of one call.
struct WorkerLoad {
  std::uint64_t slots = 0;        ///< in the call's pool; never 0
  std::uint64_t outstanding = 0;  ///< items of this call, granted and not settled
  double mean_item_ns = 0;        ///< measured for this call on this worker; 0: not yet
};

/// What is left of one call.
struct Work {
  std::uint64_t remaining = 0;    ///< items that nobody holds
  std::uint64_t total_slots = 0;  ///< of the call's pool
};

struct Policy {
  std::string_view name;
  /// True if the worker should be given items of this call now.
  bool (*is_hungry)(const WorkerLoad&);
  /// How many; at least 1. May be more than remain.
  std::uint64_t (*items_to_grant)(const Work&, const WorkerLoad&);
};

/// Result: nullptr if there is no policy of this name.
const Policy* find_policy(std::string_view name);

/// Guided self-scheduling: half of what remains, divided by the slots, and never less than what keeps
/// a worker busy for kEnoughWork.
const Policy& guided_policy();

}  // namespace betterbox::scheduler
