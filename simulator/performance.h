// One performance run: the real cores on a simulated clock, network and slots, and one client that makes one call.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "simulator/cluster.h"

namespace betterbox::sim {

/// What was run where and when. Times in ns from the submission.
struct Execution {
  std::int64_t start = 0;
  std::int64_t end = -1;   ///< before `start`: it was not run
  std::uint32_t slot = 0;  ///< of all: worker times slots plus its slot
};

struct Measured {
  std::uint64_t seed = 0;
  std::uint64_t items = 0;
  std::uint64_t workers = 0;
  double makespan_ns = 0;
  double ideal_ns = 0;
  double greedy_ns = 0;
  double percent_imbalance = 0;
  double utilisation = 0;      ///< busy time over slots times makespan
  std::uint64_t messages = 0;  ///< to and from the scheduler, from the submission on
  std::vector<std::pair<std::string, std::uint64_t>> messages_by_kind;
  std::uint64_t leases = 0;
  std::uint64_t splits = 0;  ///< leases cut while they ran, for another worker
  std::uint64_t steals = 0;  ///< cuts between slots of one worker
  std::uint64_t revokes = 0;
  std::uint64_t run_twice = 0;  ///< items with more than one whole execution
  std::uint64_t stale_outcomes = 0;
  double scheduler_ns = 0;             ///< CPU time in the scheduler core
  double scheduler_load_peak = 0;      ///< largest share of one core in a tenth of the makespan
  std::vector<double> scheduler_load;  ///< by tenths
  std::uint64_t bytes_peak = 0;
  double wasted_ns = 0;
  double start_idle_ns = 0;   ///< slots' time before their first item
  double end_idle_ns = 0;     ///< ... behind their last item
  double middle_idle_ns = 0;  ///< ... between items
  double wall_s = 0;          ///< what the simulation itself took
};

struct RunOptions {
  std::string policy = "auto";
  double latency_us = 100;
  double wake_us = 20;
  std::uint32_t copies_permille = 0;  ///< above 0: of an item that ran twice the first outcome counts
  bool hints = false;                 ///< items come with their costs
};

/// Runs the case to its end. `executions`: null, or filled by item. Throws std::runtime_error if it never ends or an
/// item has not exactly one outcome.
Measured run_performance(const Case& all, const RunOptions& options, std::vector<Execution>* executions);

}  // namespace betterbox::sim
