// ItemCosts: what the user expects of the items of one call, page by page, in any unit. Four bytes an item, and
// sums of ranges in steps of blocks. A call without costs has none of this.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "runtime/range.h"

namespace betterbox::scheduler {

class ItemCosts {
 public:
  /// The costs of a page. REQUIRES: they are finite and not negative; the page is behind those before it.
  void add_page(std::uint64_t first, std::span<const float> costs);
  void drop_page(std::uint64_t first) { pages_.erase(first); }

  /// The ranges below must lie in pages that are there.
  double sum(Range r) const;
  /// How many items from r.begin on cost about so much: at least one, at most all. REQUIRES: `r` is not empty.
  std::uint64_t items_for(Range r, double cost) const;
  std::vector<float> slice(Range r) const;

 private:
  static constexpr std::size_t kBlock = 256;
  struct Page {
    std::vector<float> costs;
    std::vector<double> before;  ///< sum of all blocks before each block

    double sum_to(std::size_t end) const;
  };
  using Pages = std::map<std::uint64_t, Page>;

  Pages::const_iterator page_of(std::uint64_t item) const;

  Pages pages_;
};

}  // namespace betterbox::scheduler
