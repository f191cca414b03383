#include "scheduler/call_items.h"

#include <algorithm>
#include <iterator>

namespace betterbox::scheduler {

CallItems::CallItems(const std::vector<Range>& delivered) {
  for (const Range& r : delivered) delivered_.insert(r);
}

bool CallItems::may_append(const PageSpan& span) const {
  if (span.count == 0 || span.first >= kMaxIndex || span.count > kMaxIndex - span.first) return false;
  return span.first >= known_end_ && delivered_.contains(Range{known_end_, span.first});
}

void CallItems::append(const PageSpan& span, Frame page, std::span<const float> costs) {
  const Range range{span.first, span.first + span.count};
  if (costs.empty() && unsettled_ == 0) forget_costs();
  if (!costs.empty()) {
    if (!costs_) costs_ = std::make_unique<ItemCosts>();
    costs_->add_page(span.first, costs);
    double sum = 0;
    std::uint64_t items = 0;
    for (const Range& part : delivered_.missing(range)) sum += costs_->sum(part), items += part.size();
    cost_sum_ += sum;
    if (unit_ == 0 && items > 0) unit_ = sum / static_cast<double>(items);
  }
  std::uint64_t fresh = 0;
  for (const Range& part : delivered_.missing(range)) {
    add_pending({part, 0, false});
    fresh += part.size();
  }
  known_end_ = range.end;
  unsettled_ += fresh;
  if (fresh == 0) {
    if (costs_) costs_->drop_page(span.first);
    return;
  }
  const auto added = pages_.emplace_hint(pages_.end(), span.first, Page{span.count, fresh, std::move(page)});
  held_bytes_ += bytes_of(added->second);
}

void CallItems::close() {
  for (const Range& r : delivered_.intersection({known_end_, kMaxIndex})) {
    if (r.begin == known_end_) known_end_ = r.end;
  }
}

void CallItems::add_pending(const Part& part) {
  Range range = part.range;
  count_pending(range, 1);
  auto next = pending_.lower_bound(range.begin);
  if (next != pending_.begin()) {
    const auto before = std::prev(next);
    BB_CHECK(before->second.end <= range.begin);
    if (before->second.end == range.begin && before->second.attempt == part.attempt &&
        before->second.stolen == part.stolen) {
      range.begin = before->first;
    }
  }
  if (next != pending_.end()) {
    BB_CHECK(range.end <= next->first);
    if (next->first == range.end && next->second.attempt == part.attempt &&
        next->second.stolen == part.stolen) {
      range.end = next->second.end;
      next = pending_.erase(next);
    }
  }
  pending_.insert_or_assign(next, range.begin, Queued{range.end, part.attempt, part.stolen});
}

void CallItems::count_pending(Range r, int sign) {
  if (sign > 0) {
    pending_items_ += r.size();
  } else {
    pending_items_ -= r.size();
  }
  if (costs_) pending_cost_ = pending_items_ == 0 ? 0 : pending_cost_ + sign * costs_->sum(r);
}

void CallItems::forget_costs() {
  costs_.reset();
  unit_ = cost_sum_ = pending_cost_ = 0;
}

double CallItems::average_items(double cost, std::uint64_t items) const {
  if (unit_ <= 0) return static_cast<double>(items);
  return std::max(0.0, cost) / unit_;
}

std::size_t CallItems::bytes_of(const Page& page) const {
  return page.frame.size() + (costs_ ? page.count * sizeof(float) : 0);
}

std::uint64_t CallItems::items_for(std::uint64_t average_items) const {
  const Range front{pending_.begin()->first, pending_.begin()->second.end};
  if (unit_ <= 0) return std::max<std::uint64_t>(1, average_items);
  return costs_->items_for(front, static_cast<double>(average_items) * unit_);
}

std::vector<float> CallItems::costs_of(Range r) const {
  return costs_ ? costs_->slice(r) : std::vector<float>();
}

CallItems::Pages::const_iterator CallItems::page_of(std::uint64_t item) const {
  auto it = pages_.upper_bound(item);
  BB_CHECK(it != pages_.begin());
  --it;
  BB_CHECK(item < it->first + it->second.count);
  return it;
}

Part CallItems::take(std::uint64_t max_items, std::size_t max_bytes, std::size_t max_pages) {
  BB_CHECK(!pending_.empty() && max_items > 0 && max_pages > 0);
  const auto front = pending_.begin();
  const Range waiting{front->first, front->second.end};
  const std::uint64_t wanted_end = waiting.begin + std::min(max_items, waiting.size());
  auto page = page_of(waiting.begin);
  std::uint64_t end = std::min(wanted_end, page->first + page->second.count);
  std::size_t bytes = page->second.frame.size();
  std::size_t pages = 1;
  while (end < wanted_end) {
    ++page;
    bytes += page->second.frame.size();
    if (bytes > max_bytes || ++pages > max_pages) break;
    end = std::min(wanted_end, page->first + page->second.count);
  }
  const Part part{{waiting.begin, end}, front->second.attempt, front->second.stolen};
  const Queued rest = front->second;
  auto after = pending_.erase(front);
  if (end < waiting.end) pending_.emplace_hint(after, end, rest);
  count_pending(part.range, -1);
  return part;
}

void CallItems::put_back(const Part& part) { add_pending(part); }

std::vector<Range> CallItems::withdraw(Range r) {
  std::vector<Range> removed;
  auto it = pending_.upper_bound(r.begin);
  if (it != pending_.begin() && std::prev(it)->second.end > r.begin) --it;
  while (it != pending_.end() && it->first < r.end) {
    const Range queued{it->first, it->second.end};
    const Queued old = it->second;
    const Range out{std::max(queued.begin, r.begin), std::min(queued.end, r.end)};
    removed.push_back(out);
    count_pending(out, -1);
    it = pending_.erase(it);
    if (queued.begin < out.begin)
      pending_.emplace_hint(it, queued.begin, Queued{out.begin, old.attempt, old.stolen});
    if (out.end < queued.end) it = std::next(pending_.emplace_hint(it, out.end, old));
  }
  return removed;
}

void CallItems::settle(Range r) {
  BB_CHECK(!r.empty() && r.end <= known_end_ && r.size() <= unsettled_);
  unsettled_ -= r.size();
  auto it = pages_.upper_bound(r.begin);
  BB_CHECK(it != pages_.begin());
  --it;
  while (it != pages_.end() && it->first < r.end) {
    const std::uint64_t overlap =
        std::min(it->first + it->second.count, r.end) - std::max(it->first, r.begin);
    BB_CHECK(overlap <= it->second.unsettled);
    it->second.unsettled -= overlap;
    if (it->second.unsettled > 0) {
      ++it;
      continue;
    }
    held_bytes_ -= bytes_of(it->second);
    if (costs_) costs_->drop_page(it->first);
    it = pages_.erase(it);
  }
}

void CallItems::pages_of(Range r, std::vector<PageSpan>& spans, Frames& frames) const {
  for (auto it = page_of(r.begin); it != pages_.end() && it->first < r.end; ++it) {
    spans.push_back({it->first, it->second.count});
    frames.push_back(it->second.frame);
  }
}

void CallItems::all_pages(std::vector<PageSpan>& spans, Frames& frames) const {
  for (const auto& [first, page] : pages_) {
    spans.push_back({first, page.count});
    frames.push_back(page.frame);
  }
}

std::vector<Range> CallItems::pending_in(Range r) const {
  std::vector<Range> parts;
  auto it = pending_.upper_bound(r.begin);
  if (it != pending_.begin() && std::prev(it)->second.end > r.begin) --it;
  for (; it != pending_.end() && it->first < r.end; ++it)
    parts.push_back({std::max(it->first, r.begin), std::min(it->second.end, r.end)});
  return parts;
}

void CallItems::sanity_check() const {
  std::uint64_t waiting = 0;
  std::uint64_t previous_end = 0;
  for (const auto& [begin, queued] : pending_) {
    BB_CHECK(previous_end <= begin && begin < queued.end && queued.end <= known_end_);
    previous_end = queued.end;
    waiting += queued.end - begin;
  }
  BB_CHECK(waiting == pending_items_);
  std::uint64_t in_pages = 0;
  std::size_t bytes = 0;
  for (const auto& [first, page] : pages_) {
    BB_CHECK(page.unsettled > 0 && page.unsettled <= page.count && first + page.count <= known_end_);
    in_pages += page.unsettled;
    bytes += bytes_of(page);
  }
  BB_CHECK(in_pages == unsettled_ && bytes == held_bytes_);
}

}  // namespace betterbox::scheduler
