// Waiting for what a transport tells, as an owner does.
#pragma once

#include <poll.h>

#include <optional>
#include <vector>

#include "runtime/time.h"
#include "runtime/transport.h"

namespace betterbox {

inline constexpr Duration kPatience = seconds(20);

/// The next event, waited for as an owner does: receive until it is empty, then poll.
inline std::optional<TransportEvent> next_event(Transport& transport, Duration patience = kPatience) {
  const TimePoint deadline = monotonic_now() + patience;
  for (;;) {
    if (auto event = transport.receive()) return event;
    std::vector<pollfd> waited;
    for (const int fd : transport.wait_fds()) waited.push_back({fd, POLLIN, 0});
    const std::int64_t left_ms = (deadline - monotonic_now()).ns / 1'000'000;
    if (left_ms <= 0) return std::nullopt;
    ::poll(waited.data(), waited.size(), static_cast<int>(left_ms));
  }
}

}  // namespace betterbox
