// Items whose large buffers lie in shared memory (runtime/segment_pool.h, docs/protocol.md, "Pages"): what such an item
// says, and how the process that a result is for takes what was sent to it.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/frame.h"
#include "runtime/limits.h"
#include "runtime/page.h"
#include "runtime/segment_pool.h"
#include "runtime/value_messages.h"

namespace betterbox {

/// The parsed form of an item with tag kShared. It refers to the item.
struct SharedItemView {
  ItemTag form{};  ///< kBytes, kPickleBuffers or kArray
  std::uint64_t serial = 0;
  std::string_view name;
  std::string_view store;                                      ///< where it was written
  std::vector<std::pair<std::uint64_t, std::uint64_t>> parts;  ///< offset and size
  ItemBytes rest;  ///< of kPickleBuffers the pickle, of kArray dtype and shape
  std::uint64_t end() const;
};
std::optional<SharedItemView> parse_shared_item(ItemBytes item);
/// Appends the item, without what comes last. REQUIRES: `parts` of one segment.
void append_shared_item(std::string& out, ItemTag form, const std::vector<SegmentRef>& parts);

/// What an item refers to: as taken by this process, or else by its name. Null if it is not there (any more).
std::shared_ptr<const HeldSegment> held_for(const SharedItemView& item);

/// Takes everything that the items of a page refer to: it stays as long as the frame that is returned. Items whose
/// values are gone are replaced by lost ones. A page that refers to nothing, or is none, comes back as it is.
/// `first`: the number of its first item.
Frame take_shared(Frame page, std::uint64_t first);

/// Where an item's large buffers may go instead of into its bytes.
class LargeBuffers {
 public:
  using Parts = std::span<const std::span<const std::byte>>;
  virtual ~LargeBuffers() = default;
  /// Smaller ones stay in the bytes.
  virtual std::uint64_t min_bytes() const { return kSharedItemMinBytes; }
  /// Empty if there is no room.
  virtual std::optional<std::vector<SegmentRef>> put(Parts parts) = 0;
};

/// Handed over to the process that takes the item.
class SentBuffers final : public LargeBuffers {
 public:
  std::optional<std::vector<SegmentRef>> put(Parts parts) override { return segment_pool()->send(parts); }
};

/// Kept by this process for as long as `hold` lives.
class KeptBuffers final : public LargeBuffers {
 public:
  explicit KeptBuffers(std::uint64_t min_bytes = kSharedItemMinBytes) : min_bytes_(min_bytes) {}
  std::uint64_t min_bytes() const override { return min_bytes_; }
  std::optional<std::vector<SegmentRef>> put(Parts parts) override;
  std::uint64_t bytes() const { return bytes_; }
  /// Of all that was put since the last time. Null if nothing was.
  std::shared_ptr<const void> hold();
  /// What was put, as values that other stores may get.
  const std::vector<ValueId>& values() const { return values_; }

 private:
  const std::uint64_t min_bytes_;
  std::vector<ValueId> values_;
  std::vector<std::shared_ptr<const void>> holds_;
  std::uint64_t bytes_ = 0;
};

/// `frame` that also keeps `hold`.
Frame with_hold(const Frame& frame, std::shared_ptr<const void> hold);

}  // namespace betterbox
