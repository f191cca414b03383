// CallItems: where every item of one call is. Each known item is settled, or waits here (pending), or
// is out in a lease. Memory and time go with ranges and pages, never with items: a call may grow by
// single items for months, and what is settled in order is one range.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "runtime/frame.h"
#include "runtime/messages.h"
#include "runtime/range.h"
#include "scheduler/item_costs.h"

namespace betterbox::scheduler {

/// A contiguous range that was or will be granted.
struct Part {
  Range range;
  std::uint32_t attempt = 0;  ///< how often a process was lost with it
  bool stolen = false;        ///< it was cut from a lease
};

class CallItems {
 public:
  /// Indices stay below this, so that sums of two never wrap.
  static constexpr std::uint64_t kMaxIndex = std::uint64_t{1} << 62;

  CallItems() = default;
  /// `delivered`: items that were settled before this scheduler knew the call.
  explicit CallItems(const std::vector<Range>& delivered);

  /// True if these items may come next: no gap but over delivered items, no overlap, no overflow.
  bool may_append(const PageSpan& span) const;
  /// `costs`: of each item, or none. REQUIRES: may_append(span), and costs for all unsettled items
  /// or for none, but for pages of which every item is settled.
  void append(const PageSpan& span, Frame page, std::span<const float> costs = {});
  /// No items will follow: delivered items right behind the last one count as known.
  void close();

  std::uint64_t known_end() const { return known_end_; }
  std::uint64_t unsettled_items() const { return unsettled_; }
  std::uint64_t settled_items() const { return known_end_ - unsettled_; }
  std::uint64_t pending_items() const { return pending_items_; }
  /// Bytes of the pages that are held: a page goes when its last item is settled.
  std::size_t held_bytes() const { return held_bytes_; }
  std::size_t held_pages() const { return pages_.size(); }

  /// The user said what items cost. Below, an *average item* is one of the mean cost of the items that came first
  /// (so that what was measured stays true while others come); without costs every item is.
  bool has_costs() const { return costs_ != nullptr; }
  /// What the items cost; 0 without costs. REQUIRES: known, and their pages are held.
  double cost_of(Range r) const { return costs_ ? costs_->sum(r) : 0; }
  /// How many average items these are that cost so much in all.
  double average_items(double cost, std::uint64_t items) const;
  double known_average_items() const { return average_items(cost_sum_, known_end_); }
  double pending_average_items() const { return average_items(pending_cost_, pending_items_); }
  /// How many items at the front of what is pending are about so many average items; at least 1.
  /// REQUIRES: pending_items() > 0.
  std::uint64_t items_for(std::uint64_t average_items) const;
  /// Empty without costs.
  std::vector<float> costs_of(Range r) const;

  /// Takes pending items from the front: contiguous, at most `max_items`, and as many pages as fit
  /// `max_bytes` and `max_pages` (at least one item). REQUIRES: pending_items() > 0.
  Part take(std::uint64_t max_items, std::size_t max_bytes, std::size_t max_pages);
  /// Makes items pending again. REQUIRES: they were taken and are not settled.
  void put_back(const Part& part);
  /// Removes what is pending of `r` from the queue; the caller settles it. Result: the parts removed.
  std::vector<Range> withdraw(Range r);
  /// REQUIRES: known, not settled, not pending.
  void settle(Range r);

  /// Appends the pages that hold items of `r`. REQUIRES: `r` is not settled.
  void pages_of(Range r, std::vector<PageSpan>& spans, Frames& frames) const;

  /// Appends all pages that are held.
  void all_pages(std::vector<PageSpan>& spans, Frames& frames) const;

  /// Items that were settled before this scheduler knew the call.
  const RangeSet& delivered() const { return delivered_; }
  /// The parts of `r` that are pending, ascending.
  std::vector<Range> pending_in(Range r) const;
  std::vector<Range> pending_ranges() const { return pending_in({0, kMaxIndex}); }
  void sanity_check() const;

 private:
  struct Queued {
    std::uint64_t end = 0;
    std::uint32_t attempt = 0;
    bool stolen = false;
  };
  struct Page {
    std::uint64_t count = 0;
    std::uint64_t unsettled = 0;
    Frame frame;
  };
  using Pages = std::map<std::uint64_t, Page>;

  std::size_t bytes_of(const Page& page) const;
  Pages::const_iterator page_of(std::uint64_t item) const;
  void add_pending(const Part& part);
  void count_pending(Range r, int sign);
  void forget_costs();

  std::uint64_t known_end_ = 0;
  std::uint64_t unsettled_ = 0;
  std::uint64_t pending_items_ = 0;
  std::size_t held_bytes_ = 0;
  std::map<std::uint64_t, Queued> pending_;  // by begin; disjoint
  Pages pages_;                              // by first item; disjoint
  RangeSet delivered_;
  std::unique_ptr<ItemCosts> costs_;
  double unit_ = 0;  // cost of an average item; 0: no item has cost anything yet
  double cost_sum_ = 0;
  double pending_cost_ = 0;
};

}  // namespace betterbox::scheduler
