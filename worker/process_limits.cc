#include "worker/process_limits.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

namespace betterbox {
namespace {

/// A mask of any width: the C library's is for 1,024.
std::vector<unsigned long> current_cpus() {
  std::array<unsigned long, 16384 / (8 * sizeof(unsigned long))> mask;
  const long size = ::syscall(SYS_sched_getaffinity, 0, sizeof mask, mask.data());
  return {mask.data(), mask.data() + (size > 0 ? static_cast<std::size_t>(size) / sizeof mask[0] : 0)};
}

}  // namespace

void ProcessLimits::note() {
  for (std::size_t i = 0; i < kKinds.size(); ++i) {
    rlimit limit{};
    soft_[i] = ::getrlimit(kKinds[i], &limit) == 0 ? limit.rlim_cur : RLIM_INFINITY;
  }
  nice_ = ::getpriority(PRIO_PROCESS, 0);
  cpus_ = current_cpus();
}

void ProcessLimits::restore() const {
  for (std::size_t i = 0; i < kKinds.size(); ++i) {
    rlimit limit{};
    if (::getrlimit(kKinds[i], &limit) != 0) continue;
    const rlim_t wanted = std::min(soft_[i], limit.rlim_max);
    if (limit.rlim_cur == wanted) continue;
    limit.rlim_cur = wanted;
    ::setrlimit(kKinds[i], &limit);
  }
  if (::getpriority(PRIO_PROCESS, 0) != nice_) ::setpriority(PRIO_PROCESS, 0, nice_);
  if (current_cpus() != cpus_)
    ::syscall(SYS_sched_setaffinity, 0, cpus_.size() * sizeof(unsigned long), cpus_.data());
}

}  // namespace betterbox
