// Relief: items that wait for others at one worker while another has room for them. What is too much of one call is
// cut by steal() (leases.h); here it is too much only together, such as single items of several calls.
#pragma once

#include "scheduler/state.h"

namespace betterbox::scheduler {

/// Plans a look at the crowded members, if others are idle. Part of the scheduling round.
void watch_for_crowds(const Turn& turn, Pool& pool);
/// The time for that look has come.
void on_relief_due(const Turn& turn, Pool& pool);

}  // namespace betterbox::scheduler
