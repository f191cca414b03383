#include "worker/load_sampler.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <string>
#include <utility>

#include "runtime/messages.h"

namespace betterbox {
namespace {

/// The beginning of a file; empty if it cannot be read.
std::string read_start(const std::string& path, std::size_t size) {
  std::string text;
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return text;
  text.resize(size);
  const ssize_t n = ::read(fd, text.data(), size);
  ::close(fd);
  text.resize(static_cast<std::size_t>(std::max<ssize_t>(n, 0)));
  return text;
}

/// The next number of `text`, which is taken off.
std::optional<std::uint64_t> take_number(std::string_view& text) {
  text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc()) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return value;
}

void skip_words(std::string_view& text, int count) {
  for (; count > 0; --count) {
    text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
    text.remove_prefix(std::min(text.find(' '), text.size()));
  }
}

std::string process_file(pid_t pid, const char* name) { return "/proc/" + std::to_string(pid) + "/" + name; }

}  // namespace

std::optional<std::uint64_t> parse_busy_ticks(std::string_view stat) {
  if (!stat.starts_with("cpu ")) return std::nullopt;
  stat.remove_prefix(4);
  std::uint64_t busy = 0;
  for (int field = 0; field < 8; ++field) {  // user nice system idle iowait irq softirq steal
    const auto ticks = take_number(stat);
    if (!ticks) return std::nullopt;
    if (field != 3 && field != 4) busy += *ticks;
  }
  return busy;
}

std::optional<ProcessTimes> parse_process_times(std::string_view stat) {
  const std::size_t name_end = stat.rfind(')');  // a name may hold anything
  if (name_end == std::string_view::npos) return std::nullopt;
  stat.remove_prefix(name_end + 1);
  skip_words(stat, 1);  // state
  const auto parent = take_number(stat);
  skip_words(stat, 9);
  ProcessTimes times;
  for (int field = 0; field < 4; ++field) {  // utime stime cutime cstime
    const auto ticks = take_number(stat);
    if (!ticks) return std::nullopt;
    times.ticks += *ticks;
  }
  if (!parent) return std::nullopt;
  times.parent = static_cast<pid_t>(*parent);
  return times;
}

std::optional<std::uint64_t> parse_own_pages(std::string_view statm) {
  skip_words(statm, 1);
  const auto resident = take_number(statm), shared = take_number(statm);
  if (!resident || !shared) return std::nullopt;
  return *resident > *shared ? *resident - *shared : 0;
}

std::optional<std::uint64_t> parse_meminfo(std::string_view meminfo, std::string_view name) {
  for (std::size_t at = 0; at < meminfo.size();
       at = std::min(meminfo.find('\n', at), meminfo.size() - 1) + 1) {
    std::string_view line = meminfo.substr(at);
    if (!line.starts_with(name) || line.size() <= name.size() || line[name.size()] != ':') continue;
    line.remove_prefix(name.size() + 1);
    const auto kib = take_number(line);
    return kib ? std::optional(*kib << 10) : std::nullopt;
  }
  return std::nullopt;
}

bool PauseRule::update(std::uint64_t slots_bytes, std::uint64_t allowed, std::uint64_t host_used,
                       std::uint64_t host_total) {
  double used = 0;
  if (allowed > 0 && allowed != kAnyMemory)
    used = static_cast<double>(slots_bytes) / static_cast<double>(allowed);
  if (host_total > 0)
    used = std::max(used, static_cast<double>(host_used) / (0.95 * static_cast<double>(host_total)));
  paused_ = paused_ ? used >= 0.8 : used > 0.9;
  return paused_;
}

LoadSampler::LoadSampler(std::uint64_t memory_bytes)
    : allowed_(memory_bytes),
      ticks_per_second_(static_cast<double>(::sysconf(_SC_CLK_TCK))),
      page_bytes_(static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE))) {}

/// Since the last sample. Times of processes that ended meanwhile count as others'.
std::uint64_t LoadSampler::ticks_of_slots(std::span<const pid_t> slots) {
  std::map<pid_t, std::uint64_t> now;
  std::uint64_t ticks = 0;
  for (const pid_t pid : slots) {
    const auto times = parse_process_times(read_start(process_file(pid, "stat"), 1024));
    if (!times) continue;
    template_ = times->parent;
    now[pid] = times->ticks;
    const auto before = slot_ticks_.find(pid);
    ticks += times->ticks - (before == slot_ticks_.end() ? 0 : std::min(before->second, times->ticks));
  }
  slot_ticks_ = std::move(now);
  return ticks;
}

/// What slots have from the template they share with it and each other.
std::uint64_t LoadSampler::bytes_of_slots(std::span<const pid_t> slots) const {
  if (slots.empty()) return 0;
  const std::uint64_t common = parse_own_pages(read_start(process_file(template_, "statm"), 256)).value_or(0);
  std::uint64_t pages = common;
  for (const pid_t pid : slots) {
    const std::uint64_t own = parse_own_pages(read_start(process_file(pid, "statm"), 256)).value_or(0);
    pages += own > common ? own - common : 0;
  }
  return pages * page_bytes_;
}

LoadSampled LoadSampler::sample(TimePoint now, std::span<const pid_t> slots) {
  LoadSampled load;
  const std::uint64_t slot_ticks = ticks_of_slots(slots);
  const auto busy = parse_busy_ticks(read_start("/proc/stat", 512));
  if (busy && last_ && now > *last_ && *busy >= busy_ticks_) {
    const std::uint64_t all = *busy - busy_ticks_;
    const double others = static_cast<double>(all - std::min(all, slot_ticks));
    const double ticks = ticks_per_second_ * static_cast<double>((now - *last_).ns) * 1e-9;
    load.others_cpus_milli = static_cast<std::uint32_t>(1000 * others / ticks);
  }
  busy_ticks_ = busy.value_or(0);
  last_ = now;
  load.memory_bytes = bytes_of_slots(slots);
  const std::string meminfo = read_start("/proc/meminfo", 4096);
  const std::uint64_t total = parse_meminfo(meminfo, "MemTotal").value_or(0);
  const std::uint64_t available = parse_meminfo(meminfo, "MemAvailable").value_or(total);
  load.paused = rule_.update(load.memory_bytes, allowed_, total - std::min(available, total), total);
  return load;
}

}  // namespace betterbox
