// Resources: calls that need more than any agent of their pool has (docs/architecture.md, "Resources"), and how
// agents are: their load, and those that pause.
#pragma once

#include <string>

#include "scheduler/state.h"

namespace betterbox::scheduler {

/// Names must ascend, and be so few that looking at all of them costs nothing.
Complaint check_resources(const Resources& resources);

/// The call has items that wait. If no member of its pool can ever run one, and the pool has been as it is for
/// kNoBoxGrace, they are lost now; else they wait that long for another member. Costs nothing once a member was found.
void look_for_able_member(const Turn& turn, CallState& call);

/// The member joined, or has changed what it has. Call it when the indices are up to date.
void on_member_changed(const Turn& turn, Pool& pool, const Member& member);
/// The agent is no member any more.
void on_member_left(const Turn& turn, Pool& pool, PeerId agent);

/// The call wants nothing more.
void forget_needs(const Turn& turn, CallState& call);

/// The time has passed in which an able member might have joined.
void on_unsatisfied(const Turn& turn, Pool& pool);

/// "it needs 4 cpus; the worker with most has 2 cpus (w-1234)". REQUIRES: the pool has members.
std::string why_unsatisfiable(const CallState& call, const Pool& pool);

/// The agent says how it is. One that pauses gives back what it has not begun, and gets nothing until it recovers.
void on_load(const Turn& turn, Peer& agent, const Load& load);

}  // namespace betterbox::scheduler
