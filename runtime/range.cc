#include "runtime/range.h"

#include <iterator>

namespace betterbox {

RangeSet::Place RangeSet::next(Place p) const {
  return p.at + 1 < chunks_[p.chunk].size() ? Place{p.chunk, p.at + 1} : Place{p.chunk + 1, 0};
}

/// The first range whose end is above `item`. (No range is empty, so ends ascend as begins do.)
RangeSet::Place RangeSet::first_ending_after(std::uint64_t item) const {
  const auto ends_below = [item](const Range& r) { return r.end <= item; };
  const auto chunk = std::partition_point(chunks_.begin(), chunks_.end(),
                                          [&](const Chunk& c) { return ends_below(c.back()); });
  if (chunk == chunks_.end()) return {chunks_.size(), 0};
  const auto at = std::partition_point(chunk->begin(), chunk->end(), ends_below);
  return {static_cast<std::size_t>(chunk - chunks_.begin()), static_cast<std::size_t>(at - chunk->begin())};
}

/// Puts `r` before `p`. Result: where it is.
RangeSet::Place RangeSet::insert_at(Place p, Range r) {
  if (is_end(p)) p = {chunks_.size() - 1, chunks_.back().size()};
  if (chunks_[p.chunk].size() == kChunkRanges) {
    Chunk& full = chunks_[p.chunk];
    const auto middle = full.begin() + kChunkRanges / 2;
    Chunk upper(middle, full.end());
    full.erase(middle, full.end());
    chunks_.insert(chunks_.begin() + static_cast<std::ptrdiff_t>(p.chunk) + 1, std::move(upper));
    if (p.at > kChunkRanges / 2) p = {p.chunk + 1, p.at - kChunkRanges / 2};
  }
  Chunk& chunk = chunks_[p.chunk];
  chunk.insert(chunk.begin() + static_cast<std::ptrdiff_t>(p.at), r);
  return p;
}

/// Result: the range after it.
RangeSet::Place RangeSet::erase_at(Place p) {
  Chunk& chunk = chunks_[p.chunk];
  chunk.erase(chunk.begin() + static_cast<std::ptrdiff_t>(p.at));
  if (chunk.empty()) {
    chunks_.erase(chunks_.begin() + static_cast<std::ptrdiff_t>(p.chunk));
    return {p.chunk, 0};
  }
  return p.at < chunk.size() ? p : Place{p.chunk + 1, 0};
}

/// From one range to chunks.
void RangeSet::spill() {
  if (!chunks_.empty()) return;
  chunks_.push_back({only_});
  only_ = {};
}

/// Back to one range where one is left.
void RangeSet::settle_down() {
  if (chunks_.size() != 1 || chunks_.front().size() != 1) return;
  only_ = chunks_.front().front();
  chunks_.clear();
}

std::uint64_t RangeSet::insert(Range r) {
  if (r.empty()) return 0;
  const std::uint64_t before = size_;
  if (chunks_.empty()) {
    const bool touches = r.begin <= only_.end && only_.begin <= r.end;
    if (empty() || touches) {
      only_ = empty() ? r : Range{std::min(only_.begin, r.begin), std::max(only_.end, r.end)};
      size_ = only_.size();
      return size_ - before;
    }
    spill();
  }
  // The first range that touches `r` grows and takes in those behind it.
  const Place place = first_ending_after(r.begin == 0 ? 0 : r.begin - 1);
  if (is_end(place) || range_at(place).begin > r.end) {
    insert_at(place, r);
    size_ += r.size();
    return r.size();
  }
  std::uint64_t had = range_at(place).size();
  Range grown{std::min(range_at(place).begin, r.begin), std::max(range_at(place).end, r.end)};
  for (Place behind = next(place); !is_end(behind) && range_at(behind).begin <= grown.end;) {
    had += range_at(behind).size();
    grown.end = std::max(grown.end, range_at(behind).end);
    behind = erase_at(behind);
  }
  range_at(place) = grown;
  size_ += grown.size() - had;
  settle_down();
  return size_ - before;
}

std::uint64_t RangeSet::erase(Range r) {
  if (r.empty() || empty()) return 0;
  const std::uint64_t before = size_;
  if (chunks_.empty()) {
    if (!only_.overlaps(r)) return 0;
    if (only_.begin < r.begin && r.end < only_.end) {
      spill();
    } else {
      if (only_.begin < r.begin) {
        only_.end = r.begin;
      } else {
        only_.begin = std::min(only_.end, r.end);
      }
      size_ = only_.size();
      if (empty()) only_ = {};
      return before - size_;
    }
  }
  for (Place place = first_ending_after(r.begin); !is_end(place) && range_at(place).begin < r.end;) {
    Range& had = range_at(place);
    size_ -= std::min(had.end, r.end) - std::max(had.begin, r.begin);
    if (had.begin < r.begin && r.end < had.end) {
      const Range right{r.end, had.end};
      had.end = r.begin;
      insert_at({place.chunk, place.at + 1}, right);
      break;
    }
    if (had.begin < r.begin) {
      had.end = r.begin;
      place = next(place);
    } else if (r.end < had.end) {
      had.begin = r.end;
    } else {
      place = erase_at(place);
    }
  }
  settle_down();
  return before - size_;
}

bool RangeSet::contains(Range r) const {
  if (r.empty()) return true;
  if (chunks_.empty()) return only_.contains(r);
  const Place place = first_ending_after(r.begin);
  return !is_end(place) && range_at(place).contains(r);
}

std::vector<Range> RangeSet::intersection(Range r) const {
  std::vector<Range> parts;
  if (r.empty()) return parts;
  if (chunks_.empty()) {
    if (only_.overlaps(r)) parts.push_back({std::max(only_.begin, r.begin), std::min(only_.end, r.end)});
    return parts;
  }
  for (Place p = first_ending_after(r.begin); !is_end(p) && range_at(p).begin < r.end; p = next(p)) {
    parts.push_back({std::max(range_at(p).begin, r.begin), std::min(range_at(p).end, r.end)});
  }
  return parts;
}

std::vector<Range> RangeSet::missing(Range r) const {
  std::vector<Range> parts;
  std::uint64_t at = r.begin;
  for (const Range& had : intersection(r)) {
    if (at < had.begin) parts.push_back({at, had.begin});
    at = had.end;
  }
  if (at < r.end) parts.push_back({at, r.end});
  return parts;
}

Range RangeSet::take_front(std::uint64_t count) {
  BB_CHECK(!empty() && count > 0);
  const Range first = front();
  const Range taken{first.begin, first.begin + std::min(count, first.size())};
  erase(taken);
  return taken;
}

std::size_t RangeSet::range_count() const {
  if (chunks_.empty()) return empty() ? 0 : 1;
  std::size_t count = 0;
  for (const Chunk& chunk : chunks_) count += chunk.size();
  return count;
}

std::vector<Range> RangeSet::ranges() const {
  std::vector<Range> all;
  all.reserve(range_count());
  if (chunks_.empty()) {
    if (!empty()) all.push_back(only_);
    return all;
  }
  for (const Chunk& chunk : chunks_) all.insert(all.end(), chunk.begin(), chunk.end());
  return all;
}

}  // namespace betterbox
