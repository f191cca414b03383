#include "scheduler/item_costs.h"

#include <algorithm>
#include <iterator>
#include <numeric>

#include "runtime/check.h"

namespace betterbox::scheduler {
namespace {

/// Calls `part(page, begin, end)`, with places in the page, for each page that `r` touches.
template <class Iterator, class Part> void for_each_part(Iterator page, Range r, Part part) {
  for (std::uint64_t at = r.begin; at < r.end; ++page) {
    const std::uint64_t end = std::min<std::uint64_t>(r.end, page->first + page->second.costs.size());
    part(page->second, static_cast<std::size_t>(at - page->first),
         static_cast<std::size_t>(end - page->first));
    at = end;
  }
}

}  // namespace

double ItemCosts::Page::sum_to(std::size_t end) const {
  const std::size_t block = end / kBlock;
  const auto from = costs.begin() + static_cast<std::ptrdiff_t>(block * kBlock);
  return std::accumulate(from, costs.begin() + static_cast<std::ptrdiff_t>(end), before[block]);
}

void ItemCosts::add_page(std::uint64_t first, std::span<const float> costs) {
  Page page{{costs.begin(), costs.end()}, {}};
  double sum = 0;
  for (std::size_t i = 0; i < costs.size(); ++i) {
    if (i % kBlock == 0) page.before.push_back(sum);
    sum += static_cast<double>(costs[i]);
  }
  if (costs.size() % kBlock == 0) page.before.push_back(sum);
  pages_.emplace_hint(pages_.end(), first, std::move(page));
}

ItemCosts::Pages::const_iterator ItemCosts::page_of(std::uint64_t item) const {
  auto it = pages_.upper_bound(item);
  BB_CHECK(it != pages_.begin());
  --it;
  BB_CHECK(item < it->first + it->second.costs.size());
  return it;
}

double ItemCosts::sum(Range r) const {
  if (r.empty()) return 0;
  double sum = 0;
  for_each_part(page_of(r.begin), r, [&](const Page& page, std::size_t begin, std::size_t end) {
    sum += page.sum_to(end) - page.sum_to(begin);
  });
  return sum;
}

std::uint64_t ItemCosts::items_for(Range r, double cost) const {
  std::uint64_t items = 0;
  double left = cost;
  bool full = false;
  for_each_part(page_of(r.begin), r, [&](const Page& page, std::size_t begin, std::size_t end) {
    while (!full && begin < end) {
      if (begin % kBlock == 0 && begin + kBlock <= end) {
        const double block = page.before[begin / kBlock + 1] - page.before[begin / kBlock];
        if (block <= left) {
          left -= block;
          items += kBlock;
          begin += kBlock;
          continue;
        }
      }
      const auto next = static_cast<double>(page.costs[begin]);
      full = next / 2 > left;  // to the nearest
      if (full) break;
      left -= next;
      ++items;
      ++begin;
    }
  });
  return std::clamp<std::uint64_t>(items, 1, r.size());
}

std::vector<float> ItemCosts::slice(Range r) const {
  std::vector<float> costs;
  costs.reserve(r.size());
  for_each_part(page_of(r.begin), r, [&](const Page& page, std::size_t begin, std::size_t end) {
    costs.insert(costs.end(), page.costs.begin() + static_cast<std::ptrdiff_t>(begin),
                 page.costs.begin() + static_cast<std::ptrdiff_t>(end));
  });
  return costs;
}

}  // namespace betterbox::scheduler
