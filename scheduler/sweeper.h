// The sweeper: a small process that outlives the scheduler, however that ends, and removes what is left of
// the bus: its bus file, its sockets, their folder.
#pragma once

#include <cstdint>
#include <string>

namespace betterbox::scheduler {

struct SweepPlan {
  std::string bus_file;
  std::string lock_file;  ///< held by the scheduler of this bus file while it lives
  std::string socket_folder;
  std::uint64_t incarnation = 0;
  bool ephemeral = false;  ///< the folder that holds the bus file goes, too
};

/// Forks the sweeper (twice: nobody has to reap it). It waits for the end of file on a pipe whose other
/// end only this process holds. REQUIRES: no threads yet. Throws std::system_error.
/// Result: that other end; it closes when this process ends.
int start_sweeper(const SweepPlan& plan);

}  // namespace betterbox::scheduler
