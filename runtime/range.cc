#include "runtime/range.h"

#include <iterator>

namespace betterbox {

std::uint64_t RangeSet::insert(Range r) {
  if (r.empty()) return 0;
  auto it = by_begin_.upper_bound(r.begin);
  std::uint64_t had = 0;
  if (it != by_begin_.begin() && std::prev(it)->second >= r.begin) {
    // Grow the range before in place: the usual case, items settled in order, allocates nothing.
    --it;
    had = it->second - it->first;
    it->second = std::max(it->second, r.end);
  } else {
    it = by_begin_.emplace_hint(it, r.begin, r.end);
  }
  auto next = std::next(it);
  while (next != by_begin_.end() && next->first <= it->second) {
    had += next->second - next->first;
    it->second = std::max(it->second, next->second);
    next = by_begin_.erase(next);
  }
  const std::uint64_t added = (it->second - it->first) - had;
  size_ += added;
  return added;
}

std::uint64_t RangeSet::erase(Range r) {
  if (r.empty()) return 0;
  std::uint64_t erased = 0;
  auto it = by_begin_.upper_bound(r.begin);
  if (it != by_begin_.begin() && std::prev(it)->second > r.begin) --it;
  while (it != by_begin_.end() && it->first < r.end) {
    const Range had{it->first, it->second};
    erased += std::min(had.end, r.end) - std::max(had.begin, r.begin);
    if (had.begin < r.begin) {
      it->second = r.begin;
      ++it;
    } else {
      it = by_begin_.erase(it);
    }
    if (had.end > r.end) {
      by_begin_.emplace_hint(it, r.end, had.end);
      break;
    }
  }
  size_ -= erased;
  return erased;
}

bool RangeSet::contains(Range r) const {
  if (r.empty()) return true;
  const auto it = by_begin_.upper_bound(r.begin);
  return it != by_begin_.begin() && std::prev(it)->second >= r.end;
}

std::vector<Range> RangeSet::intersection(Range r) const {
  std::vector<Range> parts;
  if (r.empty()) return parts;
  auto it = by_begin_.upper_bound(r.begin);
  if (it != by_begin_.begin() && std::prev(it)->second > r.begin) --it;
  for (; it != by_begin_.end() && it->first < r.end; ++it) {
    parts.push_back({std::max(it->first, r.begin), std::min(it->second, r.end)});
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

std::vector<Range> RangeSet::ranges() const {
  std::vector<Range> all;
  all.reserve(by_begin_.size());
  for (const auto& [begin, end] : by_begin_) all.push_back({begin, end});
  return all;
}

}  // namespace betterbox
