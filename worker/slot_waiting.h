// What waits in a slot for its turn, and the lanes it may have come through (runtime/lane.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "runtime/lane.h"
#include "runtime/shm.h"

namespace betterbox {

/// A lane, which lives until the last call that came through it is answered.
struct ServedLane {
  std::uint64_t token = 0;  ///< by which the agent knows it
  std::unique_ptr<SlotLane> end;
  std::size_t waiting = 0;  ///< its calls that have not begun
};
using LanePtr = std::shared_ptr<ServedLane>;

struct Waiting {
  Record record;
  LanePtr lane;  ///< where it came from; null: the agent
};

}  // namespace betterbox
