// Leases: granting ranges to agents, taking their outcomes, cutting them, and what becomes of their
// items when a process dies (docs/protocol.md, section "Leases").
#pragma once

#include "scheduler/state.h"

namespace betterbox::scheduler {

/// Grants the member a range of the call's pending items. Result: false if the call's policy would rather have it
/// wait, or it cannot run such items. REQUIRES: there are some, the member is grantable.
bool grant(const Turn& turn, CallState& call, Member& member);

/// Asks the victim for a part of what it has not begun, for an idle member. Result: false if that would not end
/// the call earlier. REQUIRES: the share is in Pool::victims, and not the thief's own.
bool steal(const Turn& turn, Share& victim, Member& thief);

/// Asks for everything untouched in a lease, unless that is under way.
void revoke_whole_lease(const Turn& turn, LeaseState& lease);
/// Asks for everything untouched in the call's leases (its client does not read results).
void revoke_whole_call(const Turn& turn, CallState& call);

Complaint on_outcomes(const Turn& turn, Peer& agent, Outcomes&& outcomes, Frames&& frames);
Complaint on_released(const Turn& turn, Peer& agent, const Released& released);

/// Takes items out of all leases of a call and tells the agents that no outcome of them is wanted.
/// The caller settles them.
void abandon(const Turn& turn, CallState& call, Range range);

/// Ends all leases of a call and tells agents that the call is over. The caller settles the items or
/// drops the call.
void end_leases(const Turn& turn, CallState& call);

/// An agent came back: keeps what both sides know, puts back what it does not hold, and names what it
/// should drop in `dropped`. Call it before the Welcome; call tell_abandoned after it.
struct Reconciled {
  std::vector<LeaseId> dropped;
  std::vector<Abandon> abandoned;
};
Reconciled reconcile_leases(const Turn& turn, Peer& agent, const std::vector<HeldLease>& held);

/// The agent is gone: its items are pending again. If its process was lost (`blame`), the first item of each
/// gap, which it may have been running, has one death more.
void put_back_leases(const Turn& turn, Peer& agent, bool blame);

/// The same for the leases of one pool, whose last slot left the agent on purpose.
void put_back_leases_of_port(const Turn& turn, Peer& agent, Port port);

/// Acknowledges all outcomes of the agent, if any wait for it.
void acknowledge_outcomes(const Turn& turn, Peer& agent);

}  // namespace betterbox::scheduler
