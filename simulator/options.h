// What a simulation is asked to do, and the small languages of its options: times, slowdowns, joins, leaves.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace betterbox::sim {

/// Of a worker, over that of a worker of speed 1; and how much slower one may be.
inline constexpr double kMostSpeed = 1e6;

/// A point in time as users give it: seconds from the submission, or a share of the ideal makespan.
struct When {
  double value = 0;
  bool of_ideal = false;
  std::int64_t ns(double ideal_ns) const;
};

/// From `at` on, items take `times` as long on this worker as its speed says.
struct Slowdown {
  std::uint32_t worker = 0;
  When at;
  double times = 1;
};
/// `count` further workers come.
struct Join {
  When at;
  std::uint32_t count = 1;
};
/// The worker ends as if asked to: what runs there is lost.
struct Leave {
  std::uint32_t worker = 0;
  When at;
};

struct Options {
  std::uint32_t workers = 4;
  std::uint32_t slots = 1;
  std::uint64_t items = 4000;
  bool items_given = false;  ///< else a trace says how many, or (with faults) the seed
  bool workers_given = false, slots_given = false;
  std::string distribution = "constant";  ///< or "trace:FILE"
  double mean_us = 10'000;
  double speed_spread = 1;
  std::string speeds_file;
  std::vector<Slowdown> slowdowns;
  std::vector<Join> joins;
  std::vector<Leave> leaves;
  double latency_us = 100;
  double wake_us = 20;
  std::string policy = "auto";
  std::uint32_t copies_permille = 0;
  bool hints = false;
  std::uint64_t first_seed = 1;
  std::uint64_t last_seed = 1;
  bool many_seeds = false;  ///< a range was given
  std::string trace_out;
  bool faults = false;
  bool plant_bug = false;
  bool verbose = false;
};

// Each throws std::invalid_argument with a text for people.

/// "3", "0.25", "1.5s", "20ms", "100us", "0.5x" (of the ideal makespan).
When parse_when(const std::string& text);
/// "WORKER@TIME:TIMES"
Slowdown parse_slowdown(const std::string& text);
/// "TIME:COUNT", or "TIME" for one
Join parse_join(const std::string& text);
/// "WORKER@TIME"
Leave parse_leave(const std::string& text);
/// "A-B" into first_seed and last_seed.
void parse_seeds(const std::string& text, Options& options);
/// What no option says alone: workers that do not exist, too many items.
void check(const Options& options);

}  // namespace betterbox::sim
