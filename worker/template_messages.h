// What a worker and its template say to each other: packets on one SOCK_SEQPACKET socket, each an array of one of these
// structs. Native byte order: both sides are one build on one machine.
#pragma once

#include <cstddef>
#include <cstdint>

namespace betterbox {

/// What the worker asks. A packet holds requests of one kind.
struct TemplateRequest {
  enum Kind : std::uint32_t {
    kFork = 1,  ///< with kDescriptorsPerFork descriptors: arena, stdout, stderr
    kKill = 2,  ///< the slot of this seat and life, with its process group
  };
  std::uint32_t kind = 0;
  std::uint32_t seat = 0;
  std::uint32_t life = 0;
};
inline constexpr std::size_t kDescriptorsPerFork = 3;

/// What the template says.
struct TemplateReport {
  enum Kind : std::uint32_t {
    kUp = 1,      ///< slots can be forked
    kForked = 2,  ///< `pid`, or 0 and `status` is errno
    kExited = 3,  ///< `status` as of waitpid(), `peak_kib`
    kBroken = 4,  ///< the template cannot start: a packet of its own, followed by the reason
  };
  std::uint32_t kind = 0;
  std::uint32_t seat = 0;
  std::uint32_t life = 0;
  std::int32_t pid = 0;
  std::int32_t status = 0;
  std::int32_t reserved = 0;
  std::uint64_t peak_kib = 0;
};
inline constexpr std::size_t kMaxBrokenText = 1024;

}  // namespace betterbox
