// RangeWord: a slot's position in its lease, one 64-bit word (next, end) in memory shared between a
// worker and a slot process (docs/decisions/0002).
//
// The slot claims items from the front (`claim`), the worker cuts the tail (`cut`), both by
// compare-and-swap on the one word, so an item is either claimed or cut away, never both, and no
// message and no cooperation of the running user code is needed.
//
// Memory order. The word carries no other data: what an item *is* (context, arguments) reaches the
// slot through the inbox ring, whose own release/acquire pair orders it before the claim. So `claim`
// and `cut` need only atomicity of the word itself; they use acq_rel so that a cut observed by the
// slot is ordered after whatever the worker wrote before it, and a claim observed by the worker
// (its `position`) is ordered after the slot's publication of the item before
// (`done` is stored with release before the next `claim`). `install` is a release store made only
// while the slot does not work on this station (the previous lease's end was received from it), so
// there is no ABA: between install and the slot's lease-finished record only claim and cut happen,
// next only grows and end only falls, and no value of the word can come back.
// tests/unit/runtime/range_word_test.cc explores every interleaving of small cases.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>

#include "runtime/check.h"

namespace betterbox {

/// Offsets from the base of the lease that is installed.
struct Position {
  std::uint32_t next = 0;
  std::uint32_t end = 0;

  constexpr std::uint32_t remaining() const { return next < end ? end - next : 0; }
  friend constexpr bool operator==(const Position&, const Position&) = default;
};

class RangeWord {
 public:
  /// Worker only, while no slot works on this word.
  void install(std::uint32_t count) { word_.store(pack({0, count}), std::memory_order_release); }

  /// Slot only: claims the next item and returns its offset; empty when the lease is used up.
  std::optional<std::uint32_t> claim() {
    std::uint64_t seen = word_.load(std::memory_order_acquire);
    for (;;) {
      const Position p = unpack(seen);
      if (p.next >= p.end) return std::nullopt;
      if (word_.compare_exchange_weak(seen, pack({p.next + 1, p.end}), std::memory_order_acq_rel,
                                      std::memory_order_acquire)) {
        return p.next;
      }
    }
  }

  /// Worker only: cuts at most `count` items off the untouched tail.
  /// Returns the cut part as offsets (next = begin, end = end); empty part if nothing was left.
  Position cut(std::uint32_t count) {
    std::uint64_t seen = word_.load(std::memory_order_acquire);
    for (;;) {
      const Position p = unpack(seen);
      const std::uint32_t taken = p.remaining() < count ? p.remaining() : count;
      if (taken == 0) return {p.end, p.end};
      if (word_.compare_exchange_weak(seen, pack({p.next, p.end - taken}), std::memory_order_acq_rel,
                                      std::memory_order_acquire)) {
        return {p.end - taken, p.end};
      }
    }
  }

  Position position() const { return unpack(word_.load(std::memory_order_acquire)); }

 private:
  static constexpr std::uint64_t pack(Position p) {
    return (static_cast<std::uint64_t>(p.end) << 32) | p.next;
  }
  static constexpr Position unpack(std::uint64_t w) {
    return {static_cast<std::uint32_t>(w), static_cast<std::uint32_t>(w >> 32)};
  }

  std::atomic<std::uint64_t> word_{0};
  static_assert(std::atomic<std::uint64_t>::is_always_lock_free, "shared between processes");
};

}  // namespace betterbox
