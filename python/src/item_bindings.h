// Pages: Python items encoded and not yet given to a call.
#pragma once

#include "python/src/text_caster.h"

#include <pybind11/pybind11.h>

#include <string>
#include <string_view>

#include "runtime/client.h"
#include "runtime/page.h"
#include "runtime/shared_items.h"

namespace betterbox {

/// Arguments of a direct call, and what keeps their large buffers.
struct Arguments {
  Frame page;
  std::vector<ValueId> values;  ///< for boxes of other stores: their large buffers
};

/// Encodes items one by one into pages of about kPageBytes. Wants the GIL.
class PageWriter {
 public:
  void append(pybind11::handle item, std::string_view path);
  void extend(pybind11::handle items, const std::string& path, std::size_t most, std::uint64_t index = 0);
  void extend_range(std::int64_t start, std::int64_t step, std::uint64_t count);
  /// The items of a NumPy array as they are now. Result: false (and nothing added) if that cannot be.
  bool extend_array(pybind11::handle array);
  void set_costs(const pybind11::bytes& costs);
  std::uint64_t size() const { return count_; }
  std::size_t nbytes() const { return closed_bytes_ + page_.bytes(); }
  /// What was written; the writer is empty afterwards.
  EncodedItems finish();

 private:
  void close_page(std::uint64_t shared = 0);

  EncodedItems items_;
  PageBuilder page_;
  KeptBuffers large_;
  std::string item_;
  std::uint64_t count_ = 0;
  std::size_t closed_bytes_ = 0;
};

}  // namespace betterbox
