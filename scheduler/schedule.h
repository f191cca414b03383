// The scheduling round: brings pending items to workers that want them, and moves work to idle ones.
#pragma once

#include "scheduler/state.h"

namespace betterbox::scheduler {

/// Looks only at pools, calls and agents that changed since the last round.
void schedule(const Turn& turn);

}  // namespace betterbox::scheduler
