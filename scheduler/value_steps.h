// What scheduler/values.cc and scheduler/broadcasts.cc share.
#pragma once

#include "scheduler/state.h"

namespace betterbox::scheduler {

/// The peer has a part in the value.
void touch(State& state, Value& value, PeerId peer);
Value& known_value(const Turn& turn, const ValueId& id, const std::string& home);
/// The requester gets it from another store, when one can give.
void fetch_value(const Turn& turn, Value& value, PeerId requester);
/// Nobody needs it any more: who keeps it is told. `value` is gone.
void forget_value(const Turn& turn, Value& value);

}  // namespace betterbox::scheduler
