// Waits of boxes and items, and those that can never end (docs/protocol.md, section "Waits").
#pragma once

#include "scheduler/state.h"

namespace betterbox::scheduler {

Complaint on_waits(const Turn& turn, Peer& client, Waits&& waits);
/// A cycle was seen a while ago: if it is there still, its client is told.
void on_deadlock_due(const Turn& turn, WaitId id);

/// A worker has told how many of its items wait: if all of all workers do, and lend nothing, somebody has to give in.
void watch_for_stuck_items(const Turn& turn, Pool& pool);
void on_stuck_due(const Turn& turn, Pool& pool);

}  // namespace betterbox::scheduler
