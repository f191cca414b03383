// close_range() where the C library has no wrapper (glibc before 2.34) or the kernel no such call (before 5.9). Safe after a fork.
#pragma once

#include <fcntl.h>
#include <linux/close_range.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

namespace betterbox {

/// Closes the descriptors from `first` to `last`; with CLOSE_RANGE_CLOEXEC a program that is started closes them.
inline void close_descriptors(unsigned first, unsigned last, unsigned flags = 0) {
  if (first > last || ::syscall(SYS_close_range, first, last, flags) == 0) return;
  rlimit most{};
  if (::getrlimit(RLIMIT_NOFILE, &most) != 0) return;
  const rlim_t end = std::min<rlim_t>(most.rlim_cur, rlim_t{last} + 1);
  for (rlim_t fd = first; fd < end; ++fd) {
    if (flags == 0) {
      ::close(static_cast<int>(fd));
    } else {
      ::fcntl(static_cast<int>(fd), F_SETFD, FD_CLOEXEC);
    }
  }
}

}  // namespace betterbox
