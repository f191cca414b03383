// How loaded this machine is, and whether so little memory is left that nothing more should start: once a second the
// agent's loop asks, and tells the core (event LoadSampled). Reads /proc; what it makes of it is pure, and above.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string_view>

#include "runtime/time.h"
#include "worker/events.h"

namespace betterbox {

inline constexpr Duration kSampleInterval = seconds(1);

/// Ticks that all cores together have been busy: the first line of /proc/stat. Empty if it is none.
std::optional<std::uint64_t> parse_busy_ticks(std::string_view stat);
/// Ticks that a process and its children that it waited for have run, and its parent: /proc/PID/stat.
struct ProcessTimes {
  std::uint64_t ticks = 0;
  pid_t parent = 0;
};
std::optional<ProcessTimes> parse_process_times(std::string_view stat);
/// Pages that are a process's own, not shared with files: /proc/PID/statm.
std::optional<std::uint64_t> parse_own_pages(std::string_view statm);
/// The bytes behind `name` ("MemAvailable") in /proc/meminfo.
std::optional<std::uint64_t> parse_meminfo(std::string_view meminfo, std::string_view name);

/// Pauses above 90 % of the memory that may be used, goes on below 80 %.
class PauseRule {
 public:
  /// `allowed` 0: no bound. Result: paused.
  bool update(std::uint64_t slots_bytes, std::uint64_t allowed, std::uint64_t host_used,
              std::uint64_t host_total);

 private:
  bool paused_ = false;
};

class LoadSampler {
 public:
  /// `memory_bytes`: what the slots may use together (kAnyMemory: no bound but the machine's).
  explicit LoadSampler(std::uint64_t memory_bytes);
  /// `slots`: their processes.
  LoadSampled sample(TimePoint now, std::span<const pid_t> slots);

 private:
  std::uint64_t ticks_of_slots(std::span<const pid_t> slots);
  std::uint64_t bytes_of_slots(std::span<const pid_t> slots) const;

  const std::uint64_t allowed_;
  const double ticks_per_second_;
  const std::uint64_t page_bytes_;
  std::optional<TimePoint> last_;
  std::uint64_t busy_ticks_ = 0;
  std::map<pid_t, std::uint64_t> slot_ticks_;
  pid_t template_ = 0;
  PauseRule rule_;
};

}  // namespace betterbox
