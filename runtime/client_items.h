// What a client has of items: encoded ones on their way out, and outcomes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "runtime/frame.h"
#include "runtime/page.h"

namespace betterbox {

/// Items that were encoded and not yet given to a call.
struct EncodedItems {
  struct Page {
    Frame frame;
    std::uint64_t count = 0;
    std::uint64_t shared = 0;  ///< bytes in shared memory that the frame keeps
  };
  std::vector<Page> pages;
  std::uint64_t count = 0;
  std::vector<float> costs;  ///< empty, or one per item (Items::costs)
};

/// True for the items that stand for failures.
inline bool is_failed(ItemBytes item) {
  return item[0] == std::byte{static_cast<std::uint8_t>(ItemTag::kError)} ||
         item[0] == std::byte{static_cast<std::uint8_t>(ItemTag::kLost)};
}

/// The outcome of one item: a look into a page that it keeps alive.
struct Outcome {
  Frame page;
  ItemBytes item;  ///< inside `page`
  bool failed() const { return is_failed(item); }
};

}  // namespace betterbox
