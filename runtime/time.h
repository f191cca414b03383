// Time as the cores see it: nanoseconds of a monotonic clock, handed in by the driver.
#pragma once

#include <compare>
#include <cstdint>
#include <limits>

namespace betterbox {

/// A span of time in nanoseconds.
struct Duration {
  std::int64_t ns = 0;

  friend constexpr auto operator<=>(Duration, Duration) = default;
  friend constexpr Duration operator+(Duration a, Duration b) { return {a.ns + b.ns}; }
  friend constexpr Duration operator-(Duration a, Duration b) { return {a.ns - b.ns}; }
  friend constexpr Duration operator*(Duration a, std::int64_t k) { return {a.ns * k}; }
  friend constexpr Duration operator/(Duration a, std::int64_t k) { return {a.ns / k}; }
  constexpr double seconds() const { return static_cast<double>(ns) * 1e-9; }
};

constexpr Duration microseconds(std::int64_t n) { return {n * 1'000}; }
constexpr Duration milliseconds(std::int64_t n) { return {n * 1'000'000}; }
constexpr Duration seconds(std::int64_t n) { return {n * 1'000'000'000}; }

/// A point on the driver's monotonic clock (CLOCK_MONOTONIC; simulated time in the simulator).
struct TimePoint {
  std::int64_t ns = 0;

  friend constexpr auto operator<=>(TimePoint, TimePoint) = default;
  friend constexpr TimePoint operator+(TimePoint t, Duration d) { return {t.ns + d.ns}; }
  friend constexpr Duration operator-(TimePoint a, TimePoint b) { return {a.ns - b.ns}; }
  static constexpr TimePoint never() { return {std::numeric_limits<std::int64_t>::max()}; }
};

/// Reads CLOCK_MONOTONIC. For drivers only; cores are told the time.
TimePoint monotonic_now();

}  // namespace betterbox
