#include "runtime/descriptor_limit.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <stdexcept>
#include <vector>

#include "runtime/limits.h"

namespace betterbox {

DescriptorLimit descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return {};
  return {limit.rlim_cur, limit.rlim_max};
}

void raise_descriptor_limit() {
  const DescriptorLimit now = descriptor_limit();
  const std::uint64_t wanted = std::min<std::uint64_t>(now.hard, kMaxDescriptors);
  if (now.soft >= wanted) return;
  const rlimit raised{static_cast<rlim_t>(wanted), static_cast<rlim_t>(now.hard)};
  ::setrlimit(RLIMIT_NOFILE, &raised);  // where it fails the old one holds
}

/// By opening them: a count of those that are open would not tell when it has become old.
bool can_open(std::size_t count) {
  std::vector<int> opened;
  opened.reserve(count);
  const int first = count == 0 ? -1 : ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  for (int fd = first; fd >= 0; fd = ::fcntl(first, F_DUPFD_CLOEXEC, 0)) {
    opened.push_back(fd);
    if (opened.size() == count) break;
  }
  for (const int fd : opened) ::close(fd);
  return opened.size() == count;
}

void require_descriptors(std::size_t count, const std::string& what) {
  if (!can_open(count))
    throw std::runtime_error(what + " needs " + std::to_string(count) +
                             " more descriptors: " + descriptor_advice());
}

std::string descriptor_advice() {
  const DescriptorLimit limit = descriptor_limit();
  return "it may have " + std::to_string(limit.soft) + " descriptors open (hard limit " +
         std::to_string(limit.hard) +
         "); raise the hard limit where it is started: ulimit -Hn, LimitNOFILE= of a systemd unit, or "
         "/etc/security/limits.conf";
}

}  // namespace betterbox
