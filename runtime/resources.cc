#include "runtime/resources.h"

#include <algorithm>
#include <cstdio>
#include <vector>

#include "runtime/check.h"
#include "runtime/printable.h"

namespace betterbox {
namespace {

std::uint64_t amount_of(const Resources& resources, const std::string& name) {
  for (const Amount& a : resources.named) {
    if (a.name == name) return a.milli;
  }
  return 0;
}

void limit(std::uint64_t& items, std::uint64_t has, std::uint64_t needs) {
  if (needs > 0) items = std::min(items, has / needs);
}

std::string number(std::uint64_t milli) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", static_cast<double>(milli) / 1000);
  return text;
}

std::string bytes(std::uint64_t n) {
  constexpr const char* kUnits[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(n);
  std::size_t unit = 0;
  while (value >= 1024 && unit + 1 < std::size(kUnits)) value /= 1024, ++unit;
  char text[48];
  std::snprintf(text, sizeof text, "%.4g %s of memory", value, kUnits[unit]);
  return text;
}

std::string counted(std::uint64_t milli, const char* one) {
  return number(milli) + " " + one + (milli == 1000 ? "" : "s");
}

Amount& named(Resources& resources, const std::string& name) {
  const auto at = std::find_if(resources.named.begin(), resources.named.end(),
                               [&](const Amount& a) { return a.name == name; });
  BB_CHECK(at != resources.named.end());
  return *at;
}

}  // namespace

std::uint64_t items_that_fit(const Resources& capacity, const Resources& needs, std::uint64_t slots) {
  std::uint64_t items = slots;
  limit(items, capacity.cpus_milli, needs.cpus_milli);
  limit(items, capacity.memory_bytes, needs.memory_bytes);
  limit(items, capacity.gpus_milli, needs.gpus_milli);
  for (const Amount& a : needs.named) limit(items, amount_of(capacity, a.name), a.milli);
  return items;
}

void take_needs(Resources& left, const Resources& needs) {
  BB_CHECK(items_that_fit(left, needs, 1) == 1);
  left.cpus_milli -= needs.cpus_milli;
  if (left.memory_bytes != kAnyMemory) left.memory_bytes -= needs.memory_bytes;
  left.gpus_milli -= needs.gpus_milli;
  for (const Amount& a : needs.named) {
    if (a.milli > 0) named(left, a.name).milli -= a.milli;
  }
}

void give_back_needs(Resources& left, const Resources& needs) {
  left.cpus_milli += needs.cpus_milli;
  if (left.memory_bytes != kAnyMemory) left.memory_bytes += needs.memory_bytes;
  left.gpus_milli += needs.gpus_milli;
  for (const Amount& a : needs.named) {
    if (a.milli > 0) named(left, a.name).milli += a.milli;
  }
}

std::string describe(const Resources& resources) {
  std::vector<std::string> parts;
  if (resources.cpus_milli > 0) parts.push_back(counted(resources.cpus_milli, "cpu"));
  if (resources.memory_bytes > 0 && resources.memory_bytes != kAnyMemory)
    parts.push_back(bytes(resources.memory_bytes));
  if (resources.gpus_milli > 0) parts.push_back(counted(resources.gpus_milli, "gpu"));
  for (const Amount& a : resources.named) parts.push_back(number(a.milli) + " " + printable(a.name));
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : ", ") + part;
  return text.empty() ? "nothing" : text;
}

}  // namespace betterbox
