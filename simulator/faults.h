// Fault runs: small buses of real cores and modelled clients in which everything may break, then heals and must
// converge. Checkers look at every message; the first broken rule ends a run.
#pragma once

#include <cstdint>
#include <deque>
#include <string>

#include "simulator/links.h"

namespace betterbox::sim {

struct FaultOptions {
  std::uint32_t workers = 0;  ///< 0: drawn from the seed, as the others
  std::uint32_t slots = 0;
  std::uint64_t items = 0;                 ///< of all calls together
  bool plant_bug = false;                  ///< the driver sends before it commits
  std::deque<std::string>* log = nullptr;  ///< the last events, for people
};

struct FaultResult {
  FaultCounts faults;
  std::uint64_t items_delivered = 0;
  std::uint64_t items_lost = 0;  ///< of these: poisoned or cancelled
  std::uint64_t items_run_twice = 0;
  std::uint64_t items_copied = 0;  ///< given out a second time on purpose, near the end of a call
  std::uint64_t executions = 0;
  std::uint64_t stale_results_dropped = 0;  ///< by the scheduler (stale attempts) and by clients (sent again)
  std::uint64_t messages = 0;
  std::uint64_t records = 0;
  double simulated_s = 0;
  std::string checker;  ///< empty: no rule was broken
  std::string what;
};

FaultResult run_faults(std::uint64_t seed, const FaultOptions& options);

}  // namespace betterbox::sim
