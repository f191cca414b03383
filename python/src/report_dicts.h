// What the scheduler reports, as plain dicts for Python. Wants the GIL.
#pragma once

#include "python/src/text_caster.h"

#include <pybind11/pybind11.h>

#include "runtime/messages.h"

namespace betterbox {

/// The keys are CallStats' fields; times `x_ns` are `x_s`, seconds as floats.
pybind11::dict to_dict(const CallStats& stats);
/// The keys are StatusReport's fields, resources in whole units.
pybind11::dict to_dict(const StatusReport& report);
/// (agent, seat, life)
pybind11::tuple key_of(const BoxId& box);

}  // namespace betterbox
