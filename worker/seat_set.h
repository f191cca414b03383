// A set of seats: a bit per seat, and a bit for each 64 of these that are not all clear. Up to kMaxSlots seats
// the first one is found in two steps, nothing is allocated once the set has grown, and order is that of numbers.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

namespace betterbox {

class SeatSet {
 public:
  static constexpr std::uint32_t kNone = ~std::uint32_t{0};

  void insert(std::uint32_t seat) {
    const std::uint32_t word = seat / 64;
    if (word >= words_.size()) {
      words_.resize(word + 1);
      filled_.resize(word / 64 + 1);
    }
    const std::uint64_t bit = bit_of(seat);
    size_ += (words_[word] & bit) == 0;
    words_[word] |= bit;
    filled_[word / 64] |= bit_of(word);
  }
  void erase(std::uint32_t seat) {
    if (!contains(seat)) return;
    const std::uint32_t word = seat / 64;
    words_[word] &= ~bit_of(seat);
    if (words_[word] == 0) filled_[word / 64] &= ~bit_of(word);
    --size_;
  }
  bool contains(std::uint32_t seat) const {
    return seat / 64 < words_.size() && (words_[seat / 64] & bit_of(seat)) != 0;
  }
  bool empty() const { return size_ == 0; }
  std::uint32_t size() const { return size_; }
  /// The smallest one from `from` on; kNone if there is none.
  std::uint32_t next(std::uint32_t from = 0) const {
    std::uint32_t word = from / 64;
    if (size_ == 0 || word >= words_.size()) return kNone;
    if (const std::uint64_t here = words_[word] & (~std::uint64_t{0} << (from % 64)))
      return word * 64 + low(here);
    ++word;
    for (std::uint32_t group = word / 64; group < filled_.size(); ++group, word = group * 64) {
      const std::uint64_t later = filled_[group] & (~std::uint64_t{0} << (word % 64));
      if (later == 0) continue;
      word = group * 64 + low(later);
      return word * 64 + low(words_[word]);
    }
    return kNone;
  }

 private:
  static std::uint64_t bit_of(std::uint32_t i) { return std::uint64_t{1} << (i % 64); }
  static std::uint32_t low(std::uint64_t bits) { return static_cast<std::uint32_t>(std::countr_zero(bits)); }

  std::vector<std::uint64_t> words_, filled_;
  std::uint32_t size_ = 0;
};

}  // namespace betterbox
