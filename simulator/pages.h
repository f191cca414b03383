// Outcome pages for the performance of large runs: every item's outcome is None, and pages of the same size are one.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/frame.h"

namespace betterbox::sim {

class OutcomePages {
 public:
  /// More outcomes than this are several pages.
  static constexpr std::uint32_t kMostItems = 4096;
  /// REQUIRES: 1 <= count <= kMostItems.
  const Frame& of(std::uint32_t count);

 private:
  std::vector<Frame> pages_;  // by count; empty: not made yet
};

}  // namespace betterbox::sim
