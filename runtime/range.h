// Ranges of items and sets of them. Everything that is scheduled is a range (docs/decisions/0001).
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <vector>

#include "runtime/check.h"

namespace betterbox {

/// Items [begin, end) of one call.
struct Range {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;

  constexpr std::uint64_t size() const { return end - begin; }
  constexpr bool empty() const { return begin >= end; }
  constexpr bool contains(std::uint64_t i) const { return begin <= i && i < end; }
  constexpr bool contains(const Range& r) const { return begin <= r.begin && r.end <= end; }
  constexpr bool overlaps(const Range& r) const { return begin < r.end && r.begin < end; }
  friend constexpr bool operator==(const Range&, const Range&) = default;
};

/// A set of items kept as disjoint, coalesced ranges. Cost and memory go with the number of ranges:
/// every operation is O(log n + ranges touched).
class RangeSet {
 public:
  RangeSet() = default;
  explicit RangeSet(Range r) { insert(r); }

  /// Adds `r`; returns how many items were new.
  std::uint64_t insert(Range r);
  /// Removes `r`; returns how many items were there.
  std::uint64_t erase(Range r);
  /// True if every item of `r` is in the set (an empty range is).
  bool contains(Range r) const;
  bool contains(std::uint64_t item) const { return contains(Range{item, item + 1}); }
  /// The parts of `r` that are in the set, ascending.
  std::vector<Range> intersection(Range r) const;
  /// The parts of `r` that are not in the set, ascending.
  std::vector<Range> missing(Range r) const;
  /// Removes and returns at most `count` items from the front, as one contiguous range.
  /// The set must not be empty and count must be positive.
  Range take_front(std::uint64_t count);

  bool empty() const { return by_begin_.empty(); }
  /// Number of items.
  std::uint64_t size() const { return size_; }
  std::size_t range_count() const { return by_begin_.size(); }
  std::vector<Range> ranges() const;
  Range front() const {
    BB_CHECK(!empty());
    return {by_begin_.begin()->first, by_begin_.begin()->second};
  }
  Range back() const {
    BB_CHECK(!empty());
    return {by_begin_.rbegin()->first, by_begin_.rbegin()->second};
  }
  void clear() { by_begin_.clear(), size_ = 0; }

 private:
  std::map<std::uint64_t, std::uint64_t> by_begin_;  // begin -> end; disjoint, never adjacent
  std::uint64_t size_ = 0;
};

}  // namespace betterbox
