// Ranges of items and sets of them. Everything that is scheduled is a range (docs/decisions/0001).
#pragma once

#include <algorithm>
#include <cstdint>
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

/// A set of items kept as disjoint, coalesced ranges. Cost and memory go with the number of ranges: an
/// operation looks one place up and moves at most a chunk of ranges; a set of one range allocates nothing.
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

  bool empty() const { return size_ == 0; }
  /// Number of items.
  std::uint64_t size() const { return size_; }
  std::size_t range_count() const;
  std::vector<Range> ranges() const;
  Range front() const {
    BB_CHECK(!empty());
    return chunks_.empty() ? only_ : chunks_.front().front();
  }
  Range back() const {
    BB_CHECK(!empty());
    return chunks_.empty() ? only_ : chunks_.back().back();
  }
  void clear() { only_ = {}, chunks_.clear(), size_ = 0; }

 private:
  static constexpr std::size_t kChunkRanges = 128;
  using Chunk = std::vector<Range>;
  struct Place {
    std::size_t chunk = 0, at = 0;
  };

  bool is_end(Place p) const { return p.chunk == chunks_.size(); }
  Range& range_at(Place p) { return chunks_[p.chunk][p.at]; }
  const Range& range_at(Place p) const { return chunks_[p.chunk][p.at]; }
  Place next(Place p) const;
  Place first_ending_after(std::uint64_t item) const;
  Place insert_at(Place p, Range r);
  Place erase_at(Place p);
  void spill();
  void settle_down();

  Range only_;                 // the set, if it is one range; else empty
  std::vector<Chunk> chunks_;  // the set, if it is more than one; ascending, none empty
  std::uint64_t size_ = 0;
};

}  // namespace betterbox
