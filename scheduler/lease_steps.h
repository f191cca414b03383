// The steps that everything done with leases is made of. For leases.cc, grants.cc, relief.cc, copies.cc and
// explain.cc.
#pragma once

#include "scheduler/state.h"

namespace betterbox::scheduler {

/// Gives items to the member in a new lease and tells its agent. The caller sees to it that these are not pending, and
/// calls State::reindex_waiting. REQUIRES: the member is grantable and can run items of the call.
LeaseState& lend(const Turn& turn, CallState& call, Member& member, Range range, std::uint32_t attempt);

/// How many more items of the call the agent can bring to an end in the time that it has left, by the times that are
/// known. Nothing is known: one for each of its `slots`.
std::uint64_t items_before_end(const Turn& turn, const CallState& call, const Peer& agent,
                               std::uint64_t slots);

/// Foresees when the share's agent will be through with what it holds, by what is known of the items here or elsewhere.
void expect_finish(const Turn& turn, const CallState& call, Share& share);

/// Asks for so many untouched items of a lease, for another member that has room for them.
/// REQUIRES: it is not being revoked, the thief is not stealing.
void revoke_for(const Turn& turn, LeaseState& lease, std::uint64_t count, Member& thief);

/// Removes items from a lease; they are the caller's now. REQUIRES: they are open in it.
void take_out(State& state, LeaseState& lease, Range range);

/// Updates the indices, or ends the lease if nothing of it is left. `lease` may be gone afterwards.
void settle_down(State& state, LeaseState& lease);

}  // namespace betterbox::scheduler
