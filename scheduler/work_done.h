// What was measured of a call, for explanations: who ran what and when, and item times to compare with greedy
// self-scheduling. Vocabulary and arithmetic only.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/messages.h"
#include "runtime/range.h"
#include "runtime/time.h"

namespace betterbox::scheduler {

/// Seats of one call that are told apart; in larger calls only agents are.
inline constexpr std::size_t kSeatsTold = 4096;

/// One agent's work on one call.
struct WorkDone {
  std::uint64_t items = 0;
  std::int64_t busy_ns = 0;
  std::int64_t longest_ns = 0;
  std::int64_t first_ns = 0;     ///< when the first outcome arrived, from the call's first grant
  std::int64_t last_ns = 0;      ///< and the last one
  std::vector<SlotStats> seats;  ///< ascending

  /// A report that arrived `at` after the call's first grant. `seats_left`: how many seats more may be told apart,
  /// in all of the call; once it is 0 none are any more.
  void add(const std::vector<SeatWork>& report, std::int64_t at, std::size_t& seats_left);
};

/// The times of the items of a small call, in item order.
class MeasuredItems {
 public:
  static constexpr std::uint64_t kItems = 4096;

  /// These items took so long together. Calls that reach beyond kItems are not recorded.
  void add(Range items, std::int64_t busy_ns);
  /// What list scheduling in item order over so many equal slots would take; 0 if the call is too large to say.
  std::int64_t greedy_ns(std::uint64_t slots) const;

 private:
  std::vector<float> times_;
  bool too_many_ = false;
};

/// Adds up two agents that are not told apart.
void merge(AgentStats& into, const AgentStats& other);

}  // namespace betterbox::scheduler
