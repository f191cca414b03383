// Unsent: how many bytes of one connection wait inside libzmq, which does not tell. Each message is charged when it is
// given to libzmq and settled when libzmq lets its frames go, which is when their bytes are written, or dropped.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace betterbox {

class Unsent {
 public:
  /// By the owner's thread.
  void charge(std::size_t bytes) { charged_ += bytes; }
  /// By any thread.
  void settle(std::size_t bytes) { settled_.fetch_add(bytes, std::memory_order_relaxed); }
  std::uint64_t settled() const { return settled_.load(std::memory_order_relaxed); }
  std::size_t bytes() const { return charged_ - settled(); }

 private:
  std::uint64_t charged_ = 0;
  std::atomic<std::uint64_t> settled_{0};
};

}  // namespace betterbox
