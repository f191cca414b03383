// libFuzzer target: bytes as a page and as the item of a lost outcome. Every item of what parses is read.
#include <cstddef>
#include <cstdint>

#include "runtime/page.h"
#include "runtime/shared_items.h"

namespace {

/// Kept from being optimised away.
volatile unsigned sum = 0;

void read_all(std::span<const std::byte> bytes) {
  for (const std::byte b : bytes) sum = sum + std::to_integer<unsigned>(b);
}
void read_all(std::string_view text) { read_all(std::as_bytes(std::span(text))); }

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace betterbox;
  const auto bytes = std::as_bytes(std::span(data, size));
  if (const auto page = PageView::parse(bytes)) {
    for (std::uint64_t i = 0; i < page->count() && i < 1000; ++i) {
      if (page->kind() == PageKind::kIntRange) {
        sum = sum + static_cast<unsigned>(page->int_item(i));
      } else if (page->has_items()) {
        read_all(page->item(i));
      }
      read_all(page->copy_item(i));
    }
    if (page->kind() != PageKind::kFold && page->count() > 1)
      sum = sum + static_cast<unsigned>(slice_page(Frame::copy_of(bytes), *page, 1, page->count()).size());
  }
  if (const auto shared = parse_shared_item(bytes)) {
    read_all(shared->name);
    read_all(shared->rest);
    sum = sum + static_cast<unsigned>(shared->end());
  }
  if (const auto lost = parse_lost_item(bytes)) {
    read_all(lost->host);
    read_all(lost->stderr_tail);
    read_all(lost->detail);
  }
  return 0;
}
