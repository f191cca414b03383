// What a context frame begins with (docs/protocol.md, section "Contexts"): all that a worker knows of it.
#pragma once

#include <cstdint>
#include <cstring>

#include "runtime/frame.h"

namespace betterbox {

/// What the slots of a call must be given before they import anything: one that was started with other things of this
/// kind cannot become such a one, and is made anew.
struct ContextHead {
  std::uint64_t birth = 0;  ///< equal if all of it is
  Frame surroundings;       ///< head included, for a slot at its start; empty: it needs none

  static ContextHead of(const Frame& context) {
    std::uint64_t numbers[2] = {};
    if (context.size() < sizeof numbers) return {};
    std::memcpy(numbers, context.data(), sizeof numbers);
    if (numbers[1] > context.size() - sizeof numbers) return {};
    return {numbers[0], context.slice(0, sizeof numbers + numbers[1])};
  }
};

}  // namespace betterbox
