// Times of the simulated clock, in its nanoseconds.
#pragma once

#include <cstdint>

namespace betterbox::sim {

constexpr std::int64_t kUs = 1'000, kMs = 1'000'000, kSecond = 1'000'000'000;

}  // namespace betterbox::sim
