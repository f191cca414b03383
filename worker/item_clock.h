// How long items take, for a slot that runs one after the other.
#pragma once

#include <algorithm>
#include <cstdint>

#include "runtime/time.h"

namespace betterbox {

/// Reading the clock costs as much as a very short item: while all items are short it is read once for a few of
/// them, and those between get what the ones before took.
class ItemClock {
 public:
  explicit ItemClock(TimePoint now) : read_(now) {}
  /// Result: what the item that has just ended took.
  Duration item_ended() {
    if (++since_ < stride_) {
      guessed_ = guessed_ + typical_;
      return typical_;
    }
    const TimePoint now = monotonic_now();
    const Duration all = now - read_;
    const Duration rest{std::max<std::int64_t>(0, (all - guessed_).ns)};
    typical_ = {all.ns / since_};
    const bool is_short = typical_.ns < kShort.ns;
    stride_ = is_short ? std::min(stride_ * 2, kLongestStride) : 1;
    read_ = now;
    guessed_ = {};
    since_ = 0;
    return rest;
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
