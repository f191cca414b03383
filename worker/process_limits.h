// What the kernel grants a process and items may narrow: soft limits, priority, cores. A look takes some microseconds.
#pragma once

#include <sys/resource.h>

#include <array>
#include <vector>

namespace betterbox {

class ProcessLimits {
 public:
  /// What is there now is what `restore` puts back.
  void note();
  /// As far as that needs no privilege: a priority, or a hard limit, may stay lower.
  void restore() const;

 private:
  static constexpr std::array kKinds = {RLIMIT_AS,    RLIMIT_CORE,   RLIMIT_CPU,   RLIMIT_DATA,
                                        RLIMIT_FSIZE, RLIMIT_NOFILE, RLIMIT_NPROC, RLIMIT_STACK};

  std::array<rlim_t, kKinds.size()> soft_{};
  int nice_ = 0;
  std::vector<unsigned long> cpus_;
};

}  // namespace betterbox
