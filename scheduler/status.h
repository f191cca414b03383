// The answer to Status: everybody and everything on the bus, and what was counted.
#pragma once

#include "scheduler/state.h"

namespace betterbox::scheduler {

StatusReport status_report(const State& state, TimePoint now);

}  // namespace betterbox::scheduler
