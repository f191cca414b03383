#include "simulator/options.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <stdexcept>

#include "runtime/limits.h"
#include "runtime/policy.h"

namespace betterbox::sim {
namespace {

/// The farthest that anything is planned, and by how much anything slows down: nanoseconds have 64 bits.
constexpr double kMostSeconds = 1e9;
constexpr double kMostTimes = 1e6;

[[noreturn]] void refuse(const std::string& text, const char* form) {
  throw std::invalid_argument("'" + text + "' is not of the form " + form);
}

double parse_number(const std::string& text, const std::string& whole, const char* form) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) refuse(whole, form);
  return value;
}

template <class Number>
Number parse_count(const std::string& text, const std::string& whole, const char* form) {
  Number value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) refuse(whole, form);
  return value;
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() > end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

When parse_when_in(std::string text, const std::string& whole, const char* form) {
  double unit = 1;
  bool of_ideal = false;
  auto strip = [&](const char* suffix, double scale) {
    if (!ends_with(text, suffix)) return false;
    text.resize(text.size() - std::string(suffix).size());
    unit = scale;
    return true;
  };
  if (strip("x", 1)) {
    of_ideal = true;
  } else if (!strip("us", 1e-6) && !strip("ms", 1e-3)) {
    strip("s", 1);
  }
  const double value = parse_number(text, whole, form) * unit;
  if (value < 0 || value > kMostSeconds) refuse(whole, form);
  return {value, of_ideal};
}

}  // namespace

std::int64_t When::ns(double ideal_ns) const {
  return std::llround(std::min(kMostSeconds * 1e9, of_ideal ? value * ideal_ns : value * 1e9));
}

When parse_when(const std::string& text) { return parse_when_in(text, text, "SECONDS or 0.5x"); }

Slowdown parse_slowdown(const std::string& text) {
  static constexpr const char* kForm = "WORKER@TIME:TIMES";
  const auto at = text.find('@');
  const auto colon = text.find(':');
  if (at == std::string::npos || colon == std::string::npos || colon < at) refuse(text, kForm);
  Slowdown slowdown;
  slowdown.worker = parse_count<std::uint32_t>(text.substr(0, at), text, kForm);
  slowdown.at = parse_when_in(text.substr(at + 1, colon - at - 1), text, kForm);
  slowdown.times = parse_number(text.substr(colon + 1), text, kForm);
  if (slowdown.times < 1 / kMostTimes || slowdown.times > kMostTimes) refuse(text, kForm);
  return slowdown;
}

Join parse_join(const std::string& text) {
  static constexpr const char* kForm = "TIME:COUNT";
  const auto colon = text.find(':');
  Join join;
  join.at = parse_when_in(text.substr(0, colon), text, kForm);
  if (colon != std::string::npos)
    join.count = parse_count<std::uint32_t>(text.substr(colon + 1), text, kForm);
  if (join.count == 0) refuse(text, kForm);
  return join;
}

Leave parse_leave(const std::string& text) {
  static constexpr const char* kForm = "WORKER@TIME";
  const auto at = text.find('@');
  if (at == std::string::npos) refuse(text, kForm);
  return {parse_count<std::uint32_t>(text.substr(0, at), text, kForm),
          parse_when_in(text.substr(at + 1), text, kForm)};
}

void parse_seeds(const std::string& text, Options& options) {
  static constexpr const char* kForm = "A-B";
  const auto dash = text.find('-');
  if (dash == std::string::npos) refuse(text, kForm);
  options.first_seed = parse_count<std::uint64_t>(text.substr(0, dash), text, kForm);
  options.last_seed = parse_count<std::uint64_t>(text.substr(dash + 1), text, kForm);
  if (options.last_seed < options.first_seed) refuse(text, "A-B with A at most B");
  options.many_seeds = true;
}

void check(const Options& options) {
  auto require = [](bool condition, const std::string& text) {
    if (!condition) throw std::invalid_argument(text);
  };
  // Seeds are counted up to the last one, and past it.
  require(options.last_seed < ~std::uint64_t{0}, "--seed and --seeds are at most 18446744073709551614");
  require(options.workers > 0 || !options.joins.empty(), "--workers must be at least 1");
  require(options.workers <= 1'000'000, "--workers is at most 1000000");
  require(options.slots > 0 && options.slots <= kMaxSlots,
          "--slots is from 1 to " + std::to_string(kMaxSlots));
  require(options.items > 0, "--items must be at least 1");
  require(options.items <= 2'000'000'000, "--items is at most 2000000000");
  require(std::isfinite(options.mean_us) && options.mean_us >= 0.01 && options.mean_us <= 1e11,
          "--mean-us is from 0.01 to 1e11");
  require(options.speed_spread >= 1 && options.speed_spread <= kMostSpeed,
          "--speed-spread is the fastest worker's speed over the slowest's, so from 1 to 1e6");
  require(options.latency_us >= 0 && options.latency_us <= 1e8, "--latency-us is from 0 to 1e8");
  require(options.wake_us >= 0 && options.wake_us <= 1e8, "--wake-us is from 0 to 1e8");
  require(find_policy(options.policy) != nullptr, "there is no policy '" + options.policy + "'");
  require(options.copies_permille <= 1000, "--copies is at most 1000");
  require(options.faults || !options.plant_bug, "--plant-bug needs --faults");
  require(!options.faults || options.trace_out.empty(), "--trace-out is not written with --faults");
  require(!options.faults || !options.workers_given || options.workers <= 64,
          "--workers is at most 64 with --faults");
  require(!options.faults || !options.slots_given || options.slots <= 64,
          "--slots is at most 64 with --faults");
  require(!options.faults || !options.items_given || options.items <= 100'000,
          "--items is at most 100000 with --faults");
  std::uint64_t all = options.workers;
  for (const Join& join : options.joins) all += join.count;
  require(all <= 1'000'000, "--join: too many workers");
  for (const Slowdown& s : options.slowdowns)
    require(s.worker < all, "--slowdown: there is no worker " + std::to_string(s.worker));
  for (const Leave& l : options.leaves)
    require(l.worker < all, "--leave: there is no worker " + std::to_string(l.worker));
}

}  // namespace betterbox::sim
