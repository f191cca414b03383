#include "simulator/pages.h"

#include <cstddef>

#include "runtime/check.h"
#include "runtime/page.h"

namespace betterbox::sim {

const Frame& OutcomePages::of(std::uint32_t count) {
  BB_CHECK(count >= 1 && count <= kMostItems);
  if (pages_.size() <= count) pages_.resize(count + 1);
  Frame& page = pages_[count];
  if (!page.empty()) return page;
  static constexpr std::byte kNone[1] = {static_cast<std::byte>(ItemTag::kNone)};
  PageBuilder builder;
  for (std::uint32_t i = 0; i < count; ++i) builder.add(kNone);
  page = builder.finish();
  return page;
}

}  // namespace betterbox::sim
