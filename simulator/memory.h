// Whose memory an allocation is: the program replaces operator new (memory.cc) and counts what the scheduler core
// allocates, until it is freed, wherever that is. Without memory.cc in a program, nothing is counted.
#pragma once

#include <cstddef>

namespace betterbox::sim {

/// What the scheduler owns now and owned at most.
struct SchedulerMemory {
  static inline bool counting = false;  ///< allocations of this moment are the scheduler's
  static inline std::size_t bytes = 0;
  static inline std::size_t peak = 0;
};

/// While it lives, allocations are (or are not) the scheduler's.
class Allocating {
 public:
  explicit Allocating(bool for_scheduler) : before_(SchedulerMemory::counting) {
    SchedulerMemory::counting = for_scheduler;
  }
  ~Allocating() { SchedulerMemory::counting = before_; }
  Allocating(const Allocating&) = delete;
  Allocating& operator=(const Allocating&) = delete;

 private:
  bool before_;
};

}  // namespace betterbox::sim
