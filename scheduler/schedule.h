// The scheduling round: brings pending items to workers that want them, and moves work to idle ones.
#pragma once

#include "scheduler/state.h"

namespace betterbox::scheduler {

/// Looks only at pools, calls and agents that changed since the last round.
void schedule(const Turn& turn);

/// Items that idle members left to others should be gone by now: if not, they are offered once more.
void offer_again(const Turn& turn, Pool& pool);

}  // namespace betterbox::scheduler
