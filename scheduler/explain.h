// What clients are told of their calls: who ran what, how well it went, and why what waits is waiting
// (docs/protocol.md, "CallStats").
#pragma once

#include <string>

#include "scheduler/state.h"

namespace betterbox::scheduler {

CallStats call_stats(const Turn& turn, const CallState& call);

/// Why items of the call wait; empty if none do. Several reasons are joined by "; ".
std::string waiting_reason(const Turn& turn, const CallState& call);

/// The agent is gone: its part in calls remains as statistics.
void keep_shares_as_history(const Turn& turn, Peer& agent);

}  // namespace betterbox::scheduler
