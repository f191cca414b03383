// Large buffers of a pickle in shared memory (runtime/segment_pool.h), for betterbox._context.
#pragma once

#include <Python.h>

#include <optional>
#include <utility>
#include <vector>

#include "runtime/frame.h"
#include "runtime/messages.h"
#include "runtime/segment_pool.h"
#include "runtime/shared_items.h"

namespace betterbox {

/// Buffers in shared memory. Empty if they are too small, or there is no room. `large` may be null: they stay where
/// they are.
std::optional<std::vector<SegmentRef>> put_large(LargeBuffers* large, const std::vector<Py_buffer>& views);

/// What an item refers to as a list of new objects with the buffer protocol, private and writable. Null with a Python
/// error.
PyObject* mapped_parts(const SharedItemView& item);

/// Buffers that were copied into a segment, which stays as it is while this or a frame it was attached to lives.
class SharedBuffers {
 public:
  explicit SharedBuffers(SegmentPool::Lease lease) : lease_(std::move(lease)) {}
  const std::vector<SegmentRef>& parts() const { return lease_.parts; }
  /// All of them. REQUIRES: there are some.
  ValueId value() const {
    const SegmentRef& last = lease_.parts.back();
    return {last.name, last.serial, last.offset + last.size};
  }

  /// The same bytes, which now also keep the segment.
  Frame attach(const Frame& frame) const {
    auto both = std::make_shared<const std::pair<Frame, std::shared_ptr<const void>>>(frame, lease_.hold);
    return Frame(std::move(both), frame.data(), frame.size());
  }

 private:
  SegmentPool::Lease lease_;
};

}  // namespace betterbox
