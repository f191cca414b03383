// Copies: near the end of a call idle slots run a second time what runs longest (docs/architecture.md, "Copies").
// A copy is a lease of its own; the item is open in two leases, its twins, until one of them has the outcome, which
// ends the other. If one fails or gives the item back, the other goes on alone: nothing waits again.
#pragma once

#include "scheduler/state.h"

namespace betterbox::scheduler {

/// True for calls whose items may run twice.
inline bool may_copy(const CallState& call) {
  return call.copies_permille > 0 && call.idempotent && !call.fold && call.port == kFunctionPool;
}

/// Plans the next look at what runs, if there are idle slots and such calls. Part of the scheduling round.
void watch_for_copies(const Turn& turn, Pool& pool);
/// The time for that look has come.
void on_copies_due(const Turn& turn, Pool& pool);

/// Outcomes of these items came by `lease`: the other twins are stopped.
/// REQUIRES: the items were taken out of `lease`.
void stop_other_twins(const Turn& turn, LeaseState& lease, Range range);

/// One of the item's leases does not have it any more. Result: true if the other still runs it: it needs no care.
inline bool other_twin_goes_on(CallState& call, std::uint64_t index) {
  return !call.twins.empty() && call.twins.erase(index) > 0;
}

}  // namespace betterbox::scheduler
