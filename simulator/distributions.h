// Item times: the distributions of load-balancing studies, seeded, and times read from a file.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace betterbox::sim {

/// Item times of one call, as their prefix sums in whole nanoseconds: item i takes sums[i + 1] - sums[i].
struct ItemWork {
  std::vector<std::int64_t> sums;
  /// Of a trace: the times as they were read. Greedy depends on the last digit where two slots finish together.
  std::vector<double> exact_us;

  std::uint64_t items() const { return sums.size() - 1; }
  std::int64_t ns(std::uint64_t i) const { return sums[i + 1] - sums[i]; }
  double us(std::uint64_t i) const {
    return exact_us.empty() ? static_cast<double>(ns(i)) / 1000 : exact_us[i];
  }
  std::int64_t total_ns() const { return sums.back(); }
  std::int64_t longest_ns() const;
};

/// All names but "trace:FILE".
const std::vector<std::string_view>& distribution_names();

/// `items` 0: as many as the trace has, else at most those of the trace. Throws std::invalid_argument for a name
/// that is none, a file that cannot be read or holds something else, or times that are too large for 63 bits of
/// nanoseconds.
ItemWork make_work(const std::string& distribution, std::uint64_t items, double mean_us, std::uint64_t seed);

/// One number a line, from `least` to `most`. Throws std::invalid_argument.
std::vector<double> read_numbers(const std::string& file, double least, double most);

}  // namespace betterbox::sim
