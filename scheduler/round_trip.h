// How long it takes from a grant to word of it, work aside: by this the scheduler grants ahead of time, so that an agent
// far away is not idle while its next items travel.
#pragma once

#include <algorithm>
#include <cmath>

#include "runtime/time.h"

namespace betterbox::scheduler {

/// From the report that an agent runs dry to the items that it then has, with a margin: what is assumed of every
/// agent, and enough for those on the same host or in the same room.
inline constexpr Duration kRoundTrip = milliseconds(1);
/// Longer ones are cuts, not distances.
inline constexpr Duration kLongestRoundTrip = seconds(1);

/// Smoothed mean and deviation, with the weights of TCP's retransmission timer (RFC 6298, section 2).
class RoundTrip {
 public:
  void add(Duration sample) {
    const double ns = static_cast<double>(std::clamp(sample, Duration{0}, kLongestRoundTrip).ns);
    if (mean_ < 0) {
      mean_ = ns, deviation_ = ns / 2;
    } else {
      const double error = std::abs(ns - mean_) - deviation_;
      deviation_ += error / (error > 0 ? 2 : 64);
      mean_ += (ns - mean_) / 8;
    }
  }
  /// With a margin for those that take longer; never less than kRoundTrip.
  Duration expected() const { return at_least(mean_ + deviation_); }
  /// For how long an agent should have work when it asks for more: for two, so that a message which is late, as those
  /// are that follow a lost packet, leaves it something to do.
  Duration ahead() const { return at_least(2 * (mean_ + deviation_)); }
  /// True if that is more than is assumed of all.
  bool is_far() const { return ahead() > kRoundTrip; }

 private:
  static Duration at_least(double ns) {
    return std::max(kRoundTrip, Duration{static_cast<std::int64_t>(ns)});
  }
  double mean_ = -1, deviation_ = 0;  // in ns; below 0: none seen
};

}  // namespace betterbox::scheduler
