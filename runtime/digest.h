// Names for bytes by what they are: 128 bits, for tables that compare digests of one client only. Quick (16 bytes a
// multiplication, twice), evenly spread, and no defence against somebody who looks for collisions: he would find his own.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "runtime/limits.h"
#include "runtime/messages.h"

namespace betterbox {
namespace digest {

/// Both halves of the product, folded.
inline std::uint64_t fold(std::uint64_t a, std::uint64_t b) {
  __extension__ using Wide = unsigned __int128;
  const Wide product = static_cast<Wide>(a) * b;
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

inline constexpr std::uint64_t kOdd[] = {0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9,
                                         0xD6E8FEB86659FD93};

/// Nothing is lost where a factor happens to be 0: what went in is added again.
inline void stir(ContentId& state, std::uint64_t a, std::uint64_t b) {
  state.high = fold(a ^ kOdd[0], b ^ state.high ^ kOdd[1]) + a + (state.high << 1 | state.high >> 63);
  state.low = fold(b ^ kOdd[2], a ^ state.low ^ kOdd[3]) + b + (state.low << 1 | state.low >> 63);
}

}  // namespace digest

/// Never zero.
inline ContentId digest_of(std::span<const std::byte> bytes) {
  ContentId state{bytes.size(), ~std::uint64_t{bytes.size()}};
  while (!bytes.empty()) {
    std::uint64_t words[2] = {0, 0};
    const std::size_t taken = std::min(bytes.size(), sizeof words);
    std::memcpy(words, bytes.data(), taken);
    digest::stir(state, words[0], words[1]);
    bytes = bytes.subspan(taken);
  }
  for (int i = 0; i < 3; ++i) digest::stir(state, state.low, state.high);
  if (!state) state.low = 1;
  return state;
}

/// The name of a context, or none: it is too small for one to pay, or so large that it travels in another way.
inline ContentId content_of(std::span<const std::byte> context) {
  const bool named = context.size() >= kContentMinBytes && context.size() <= kContentMaxBytes;
  return named ? digest_of(context) : ContentId{};
}

}  // namespace betterbox
