// How long items take, for a slot that runs one after the other.
#pragma once

#include <algorithm>
#include <cstdint>

#include "runtime/time.h"

namespace betterbox {

/// Reading the clock costs as much as a very short item: while all items are short it is read once for a few of
/// them, and those between get what the ones before took. So an item that is long all of a sudden may be booked to
/// one of the few behind it: the sum is right, and the longest one, and both are before anything else is done for long
/// (`pause`).
class ItemClock {
 public:
  explicit ItemClock(TimePoint now) : read_(now) {}
  /// `pause`: no item follows now (the part is used up, or cut short, or something has come), so there is none behind
  /// that could be charged. Result: what the item that has just ended took.
  template <class Now = TimePoint (*)()> Duration item_ended(bool pause, Now now_is = monotonic_now) {
    if (++since_ < stride_ && !pause) {
      guessed_ = guessed_ + typical_;
      return typical_;
    }
    const TimePoint now = now_is();
    const Duration all = now - read_;
    const Duration rest = all - guessed_;
    typical_ = {all.ns / since_};
    const bool is_short = typical_.ns < kShort.ns;
    stride_ = is_short ? std::min(stride_ * 2, kLongestStride) : 1;
    read_ = now;
    since_ = 0;
    guessed_ = {std::max<std::int64_t>(0, -rest.ns)};  // too much was booked: the next ones make up for it
    return {std::max<std::int64_t>(0, rest.ns)};
  }
  /// When it was read.
  TimePoint last() const { return read_; }

 private:
  static constexpr Duration kShort = microseconds(2);
  static constexpr std::int64_t kLongestStride = 8;
  TimePoint read_;
  Duration typical_{}, guessed_{};
  std::int64_t since_ = 0, stride_ = 1;
};

}  // namespace betterbox
