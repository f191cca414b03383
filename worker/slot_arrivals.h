// What comes to a slot: records of its agent, and calls through the lanes of clients (runtime/lane.h). Everything waits
// here in order of arrival, so that a call can be cancelled before it has begun. Used by the slot's own thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "runtime/lane.h"
#include "runtime/shm.h"
#include "worker/slot_outlet.h"

namespace betterbox {

/// A lane, which lives until the last call that came through it is answered.
struct ServedLane {
  std::uint64_t token = 0;  ///< by which the agent knows it
  std::unique_ptr<SlotLane> end;
  std::size_t waiting = 0;  ///< its calls that have not begun
};
using LanePtr = std::shared_ptr<ServedLane>;

struct Arrival {
  Record record;
  LanePtr lane;  ///< where it came from; null: the agent
};

class SlotArrivals {
 public:
  SlotArrivals(SlotArena& arena, int bell_fd, Outlet& outlet)
      : arena_(arena),
        outlet_(outlet),
        inbox_(arena.header().inbox, arena.header().bell, arena.inbox_data(), bell_fd) {}

  /// The agent's first record. Waits without limit; hold no GIL.
  Record first();
  /// Something has come that next() has not looked at: cheap, for a look between two items.
  bool any() const;
  /// Takes in what has come. Result: what is next; empty: nothing waits.
  std::optional<Arrival> next();
  /// Sleeps (hold no GIL) until something has come or the deadline.
  void wait(TimePoint deadline);
  /// Through the lane, or, where it has no room, through the agent.
  void reply(ServedLane& lane, std::uint64_t serial, std::span<const std::byte> item);

 private:
  void take_all();
  void arrive(Record record);
  void take_requests(const LanePtr& lane);
  void skip(const LanePtr& lane, std::uint64_t serial);
  void open_lane(const Record& record);
  bool close_lane(std::uint64_t token);

  SlotArena& arena_;
  Outlet& outlet_;
  SlotInbox inbox_;
  std::deque<Arrival> waiting_;  // bounded: each client has at most kMaxDirectCallsInFlight here
  std::vector<LanePtr> lanes_;
  std::optional<Record> begun_;  // read while waiting
  Spinner spinner_;
  bool chatty_ = false;  // the last thing taken was a call through a lane
};

}  // namespace betterbox
