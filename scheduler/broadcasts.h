// Which values are broadcast to whom (docs/protocol.md, section "MPI carrier"), where agents are ranks: all that the agents
// need which got items in one turn, or which a client named. One agent of each store gets a value, for all of that store.
//
//  - Agents do not look for such values (kBroadcastMinBytes and more) by themselves: they are told of a broadcast, or
//    that the value is there. Only what does not come they locate.
//  - A copy that no peer holds is discarded with the last call that named the value.
#pragma once

#include "scheduler/state.h"

namespace betterbox::scheduler {

/// The call's context goes to this agent: what its store lacks of the call's values is due to it.
void want_values(const Turn& turn, const CallState& call, Peer& agent);
/// A client asks for it.
Complaint on_broadcast(const Turn& turn, Peer& client, const Broadcast& asked);
/// At the end of a turn: what is due begins.
void begin_broadcasts(const Turn& turn);
/// The call is over: nobody needs its values any more.
void let_go_of_values(const Turn& turn, const CallState& call);

}  // namespace betterbox::scheduler
