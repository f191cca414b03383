// Boxes and pools: what agents offer, who watches a port, and items whose port has no box
// (docs/protocol.md, section "Boxes").
#pragma once

#include "scheduler/state.h"

namespace betterbox::scheduler {

Complaint on_offer(const Turn& turn, Peer& agent, Offer&& offer);
void on_watch(const Turn& turn, Peer& client, Port port);
void on_unwatch(const Turn& turn, Peer& client, Port port);
/// Everything that is at the port now.
void send_snapshot(const Turn& turn, const Peer& client, Port port);

/// The agent's memberships depend on its connection: to be called when that begins or ends.
void connection_changed(const Turn& turn, Peer& agent);

/// The agent is gone: its boxes leave. REQUIRES: its leases were put back.
void withdraw_everything(const Turn& turn, Peer& agent);

/// Starts or stops the time that items wait for a box at a port that has none.
void watch_for_missing_boxes(const Turn& turn, Pool& pool);
void on_no_box(const Turn& turn, Pool& pool);

}  // namespace betterbox::scheduler
