// The simulated machines: how fast each worker is and when, who comes and who leaves.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "simulator/distributions.h"
#include "simulator/options.h"

namespace betterbox::sim {

inline constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::max();

/// A worker's speed over time: an item of t ns takes t / factor here, times the slowdown of the moment. Times are
/// in ns from the submission. A slowdown in the middle of an item holds for its rest.
class Speed {
 public:
  Speed() = default;
  explicit Speed(double factor) : factor_(factor), slowness_(1 / factor) {}
  /// From `at_ns` on, everything takes `times` as long as `factor` says. REQUIRES: ascending times.
  void slow_down(double at_ns, double times) { changes_.push_back({at_ns, times}); }

  /// When work of so many ns (at speed 1), begun at `start`, ends.
  double end_of(double start, double work) const {
    if (changes_.empty()) return start + work * slowness_;
    return changing_end_of(start, work);
  }
  /// The work done in [start, until), in ns at speed 1.
  double work_between(double start, double until) const;
  double factor() const { return factor_; }
  bool constant() const { return changes_.empty(); }
  /// The best that it ever is.
  double fastest() const;
  /// When it changes.
  struct Change {
    double at_ns;
    double times;
  };
  const std::vector<Change>& changes() const { return changes_; }

 private:
  double changing_end_of(double start, double work) const;
  double factor_ = 1;
  double slowness_ = 1;
  std::vector<Change> changes_;
};

struct Machine {
  Speed speed;
  std::int64_t joins_ns = 0;  ///< 0: it is there from the beginning
  std::int64_t leaves_ns = kNever;
};

/// All that one seed decides.
struct Case {
  std::uint64_t seed = 1;
  std::uint32_t slots = 1;
  ItemWork work;
  std::vector<Machine> machines;  ///< in the order of their numbers; those that join later come last
};

/// Throws std::invalid_argument.
Case make_case(const Options& options, std::uint64_t seed);

}  // namespace betterbox::sim
