// Frame: an immutable, shared span of bytes. Pages, contexts and arguments travel as frames that no
// layer copies or looks into unless it must. Thread safety: like std::shared_ptr<const T>.
#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace betterbox {

class Frame {
 public:
  Frame() = default;

  /// Wraps memory that `owner` keeps alive and unchanged.
  Frame(std::shared_ptr<const void> owner, const void* data, std::size_t size)
      : owner_(std::move(owner)), data_(static_cast<const std::byte*>(data)), size_(size) {}

  /// Takes the string's bytes without copying them (a move).
  explicit Frame(std::string bytes) {
    auto held = std::make_shared<const std::string>(std::move(bytes));
    data_ = reinterpret_cast<const std::byte*>(held->data());
    size_ = held->size();
    owner_ = std::move(held);
  }

  static Frame copy_of(std::span<const std::byte> bytes) {
    return Frame(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  }

  const std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  std::string_view view() const { return {reinterpret_cast<const char*>(data_), size_}; }
  const std::shared_ptr<const void>& owner() const { return owner_; }

  /// A part of this frame that shares its memory. REQUIRES: offset + size <= this->size().
  Frame slice(std::size_t offset, std::size_t size) const { return {owner_, data_ + offset, size}; }

  /// Equal bytes (for tests).
  friend bool operator==(const Frame& a, const Frame& b) { return a.view() == b.view(); }

 private:
  std::shared_ptr<const void> owner_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

using Frames = std::vector<Frame>;

}  // namespace betterbox
