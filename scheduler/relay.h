// Relay: links between clients and agents that cannot reach each other go through the scheduler, which looks at none of
// what they say (docs/protocol.md, "Links"). Such a link lives as long as both sessions.
#pragma once

#include "scheduler/state.h"

namespace betterbox::scheduler {

/// A message of a link, or its end. It goes to the other end, or the link is over.
void on_relay(const Turn& turn, Peer& from, const Relay& relay, Frames&& frames);
/// Ends all links of a peer that has no connection any more.
void end_relays(const Turn& turn, Peer& peer);

}  // namespace betterbox::scheduler
