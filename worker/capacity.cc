#include "worker/capacity.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <fstream>
#include <map>
#include <stdexcept>

#include "worker/core.h"

namespace betterbox {
namespace {

/// A number, not negative, with what follows it.
std::pair<double, std::string> number_and_rest(const std::string& option, const std::string& text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || !(value >= 0) || value > 1e15) {
    throw std::invalid_argument(option + " takes a number, not '" + text + "'");
  }
  return {value, std::string(end, static_cast<std::size_t>(text.data() + text.size() - end))};
}

/// The number in a file that holds one; nothing that counts as a limit otherwise ("max").
std::uint64_t limit_in(const std::string& path) {
  std::ifstream file(path);
  std::uint64_t limit = 0;
  return file >> limit ? limit : ~std::uint64_t{0};
}

/// The least limit of this process's control group and those around it (version 2, then 1).
std::uint64_t control_group_limit() {
  std::uint64_t least = ~std::uint64_t{0};
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool unified = controllers.empty();
    if (!unified && controllers.find("memory") == std::string::npos) continue;
    std::string folder = line.substr(second + 1);
    const std::string root = unified ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory";
    const std::string name = unified ? "/memory.max" : "/memory.limit_in_bytes";
    for (;; folder.erase(folder.rfind('/'))) {
      least = std::min(least, limit_in(root + folder + name));
      if (folder.empty() || folder.rfind('/') == std::string::npos) break;
    }
  }
  return least;
}

}  // namespace

std::uint64_t parse_thousandths(const std::string& option, const std::string& text) {
  const auto [value, rest] = number_and_rest(option, text);
  if (!rest.empty()) throw std::invalid_argument(option + " takes a number, not '" + text + "'");
  return static_cast<std::uint64_t>(std::llround(value * 1000));
}

std::uint64_t parse_memory(const std::string& text) {
  auto [value, unit] = number_and_rest("--memory", text);
  std::transform(unit.begin(), unit.end(), unit.begin(), [](unsigned char c) { return std::toupper(c); });
  static const std::map<std::string, int> kPowers = {{"", 0},    {"B", 0},  {"K", 1},   {"KB", 1}, {"KIB", 1},
                                                     {"M", 2},   {"MB", 2}, {"MIB", 2}, {"G", 3},  {"GB", 3},
                                                     {"GIB", 3}, {"T", 4},  {"TB", 4},  {"TIB", 4}};
  const auto power = kPowers.find(unit);
  if (power == kPowers.end()) {
    throw std::invalid_argument("--memory takes bytes, or a number with K, M, G or T, not '" + text + "'");
  }
  const double bytes = std::ldexp(value, 10 * power->second);
  if (bytes >= 0x1p63) throw std::invalid_argument("--memory takes less than 8388608T, not '" + text + "'");
  return static_cast<std::uint64_t>(bytes);
}

std::vector<std::string> parse_devices(const std::string& text, const std::string& visible) {
  auto split = [](const std::string& list) {
    std::vector<std::string> names;
    for (std::size_t at = 0; at < list.size();) {
      const std::size_t end = std::min(list.find(',', at), list.size());
      const std::size_t from = list.find_first_not_of(' ', at), to = list.find_last_not_of(' ', end - 1);
      if (from < end) names.push_back(list.substr(from, to - from + 1));
      at = end + 1;
    }
    return names;
  };
  std::vector<std::string> names = split(text);
  if (text.find(',') == std::string::npos) {
    const std::uint64_t milli = parse_thousandths("--gpus", text);
    const std::size_t count = milli / 1000;
    if (milli % 1000 != 0) throw std::invalid_argument("--gpus takes whole devices, not '" + text + "'");
    if (count > kMaxDevices)
      throw std::invalid_argument("--gpus takes at most " + std::to_string(kMaxDevices) + " devices");
    names = split(visible);
    if (visible.empty()) {
      for (std::size_t i = 0; i < count; ++i) names.push_back(std::to_string(i));
    }
    if (names.size() < count) {
      throw std::invalid_argument("--gpus " + text + ", but CUDA_VISIBLE_DEVICES names only '" + visible +
                                  "'");
    }
    names.resize(count);
  }
  if (names.size() > kMaxDevices)
    throw std::invalid_argument("--gpus takes at most " + std::to_string(kMaxDevices) + " devices");
  std::vector<std::string> sorted = names;
  std::sort(sorted.begin(), sorted.end());
  if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end())
    throw std::invalid_argument("--gpus names a device twice: '" + text + "'");
  return names;
}

std::vector<Amount> parse_amounts(const std::vector<std::string>& texts) {
  std::map<std::string, std::uint64_t> amounts;
  for (const std::string& text : texts) {
    const std::size_t sign = text.find('=');
    if (sign == std::string::npos || sign == 0)
      throw std::invalid_argument("--resource takes NAME=AMOUNT, not '" + text + "'");
    const std::string name = text.substr(0, sign);
    amounts[name] = parse_thousandths("--resource " + name, text.substr(sign + 1));
  }
  std::vector<Amount> sorted;
  for (const auto& [name, milli] : amounts) sorted.push_back({name, milli});
  return sorted;
}

std::uint64_t usable_memory() {
  const auto pages = static_cast<std::uint64_t>(std::max(0L, ::sysconf(_SC_PHYS_PAGES)));
  const auto page = static_cast<std::uint64_t>(std::max(0L, ::sysconf(_SC_PAGESIZE)));
  return std::min(pages * page, control_group_limit());
}

}  // namespace betterbox
