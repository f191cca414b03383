// The sum of two times that others measured, of which nothing is known but that they are not negative.
#pragma once

#include <cstdint>
#include <limits>

namespace betterbox {

/// What is claimed may be any number: a sum that is too large for 64 bits is the largest one.
inline std::int64_t add_times(std::int64_t a_ns, std::int64_t b_ns) {
  std::int64_t sum = 0;
  return __builtin_add_overflow(a_ns, b_ns, &sum) ? std::numeric_limits<std::int64_t>::max() : sum;
}

}  // namespace betterbox
