// Policies: how many items to give to whom. The same code serves both levels: the scheduler gives ranges to
// workers, a worker gives parts of them to its slots. Pure functions of what was measured; what a policy has to
// remember about a call is in PolicyMemory. No time, no randomness, no I/O.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string_view>

#include "runtime/time.h"

namespace betterbox {

/// Mean and variance of item times on one taker, over about the last kMemory items: all of them weigh the same
/// at first, later old ones fade, so that a machine that became slower is seen.
class ItemTimes {
 public:
  static constexpr double kMemory = 64;
  static constexpr double kPrior = 4;
  static constexpr double kRecent = 8;

  /// `items` took `busy_ns` together; `squares` is the sum of the squares of their times, in ns^2.
  void add(std::uint64_t items, double busy_ns, double squares);
  bool known() const { return weight_ > 0; }
  /// Items seen, at most kMemory and what the last add() brought.
  double weight() const { return weight_; }
  /// In ns; 0 while nothing is known.
  double mean() const { return weight_ > 0 ? sum_ / weight_ : 0; }
  /// The mean, or that of about the last kRecent items if they were shorter: what must be there in time is reckoned by this,
  /// since items often come sorted.
  double soonest() const { return std::min(mean(), recent_); }
  /// Mean of this taker where `others` is the mean of all: a few items say little, so they count as if kPrior items
  /// of the mean of all had been among them. `others` 0: nothing is known of them.
  double mean_among(double others) const;
  /// In ns^2; 0 while nothing is known.
  double variance() const;

 private:
  double weight_ = 0, sum_ = 0, squares_ = 0;
  double recent_ = 0;
};

/// Who asks for items of a call: a worker (or, inside of a worker, a slot).
struct Taker {
  std::uint64_t slots = 1;        ///< that may run items of the call; never 0
  std::uint64_t outstanding = 0;  ///< items of the call that it was given and has not finished
  ItemTimes times;                ///< of the call's items, here
  double mean_ns = 0;             ///< of the call's items, wherever they ran; 0: not said
};

/// One call, as the giver sees it.
struct Work {
  std::uint64_t remaining = 0;    ///< items that nobody was given
  std::uint64_t total = 0;        ///< items known so far
  std::uint64_t outstanding = 0;  ///< items given and not finished, all takers together
  std::uint64_t total_slots = 1;  ///< of all takers
  std::uint64_t idle_slots = 0;   ///< of these with nothing to do
  std::uint64_t takers = 1;
  double mean_ns = 0;  ///< of the items of this call, wherever they ran; 0: nothing known
  double items_per_ns =
      0;  ///< of all takers together, where measured and guessed from mean_ns elsewhere; 0: unknown
  double scatter = 0;       ///< sum over all slots of variance / mean, in ns: the D of adaptive factoring
  Duration since_given{0};  ///< time since somebody was given items
  Duration round_trip{0};   ///< from asking for items to having them
  Duration least_lease{0};  ///< shorter leases cost the giver more than they are worth
};

/// What a policy remembers of one call; belongs to the giver.
struct PolicyMemory {
  std::uint64_t chunks = 0;      ///< given so far
  std::uint64_t batch_left = 0;  ///< chunks until the next batch begins
  std::uint64_t batch = 0;       ///< items a chunk, in this batch
};

struct Policy {
  std::string_view name;
  /// True if it cuts leases that run and asks for more before a taker is idle.
  bool adapts = false;
  /// A taker should ask for more when it has no more than so many items of the call.
  std::uint64_t (*low_water)(const Taker&, Duration round_trip);
  /// How many items to give now: at least 1 and perhaps more than remain, or 0: this taker had better wait.
  /// REQUIRES: work.remaining > 0.
  std::uint64_t (*items_to_give)(const Work&, const Taker&, PolicyMemory&);
};

/// In the tail: how long after the last grant others will have begun and ended what remains, by their rates; 0 if
/// nobody else works on the call.
Duration time_without(const Work& work, const Taker& taker);

/// The default: probes, learns, gives leases by time, factors down, and lets tails be cut.
const Policy& auto_policy();
/// By name; "" is auto. Result: nullptr if there is none.
const Policy* find_policy(std::string_view name);
/// All, auto first.
std::span<const Policy> policies();

}  // namespace betterbox
