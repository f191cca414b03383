// A seeded source of numbers that gives the same ones everywhere (splitmix64; std distributions differ between
// libraries).
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>

namespace betterbox::sim {

class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15ULL + 0x6A09E667F3BCC909ULL) {}

  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9E3779B97F4A7C15ULL);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
  }
  /// In [0, n). REQUIRES: n > 0.
  std::uint64_t below(std::uint64_t n) { return next() % n; }
  bool chance(double probability) { return unit() < probability; }
  /// In (0, 1).
  double unit() { return (static_cast<double>(next() >> 11) + 0.5) * 0x1p-53; }
  double exponential() { return -std::log(unit()); }
  double gaussian() { return std::sqrt(2 * exponential()) * std::cos(2 * std::numbers::pi * unit()); }

 private:
  std::uint64_t state_;
};

}  // namespace betterbox::sim
