// libFuzzer target: texts that people give on command lines and as names. What is read of them is within its bounds, else they
// are refused; what is shown of a name is one line of whole characters.
// Input: one byte that says what the text is, then the text.
#include <cmath>
#include <stdexcept>

#include "runtime/check.h"
#include "runtime/command_line.h"
#include "runtime/printable.h"
#include "simulator/options.h"
#include "tests/fuzz/input.h"
#include "worker/capacity.h"
#include "worker/core.h"

namespace betterbox {
namespace {

void read_devices(const std::string& text) {
  const std::size_t half = text.find('|');
  const auto devices =
      parse_devices(text.substr(0, half), half == std::string::npos ? "" : text.substr(half + 1));
  BB_CHECK(devices.size() <= kMaxDevices);
  for (const std::string& device : devices)
    BB_CHECK(device.find(',') == std::string::npos && !device.empty());
}

void read_amounts(const std::string& text) {
  const auto amounts = parse_amounts({text, "licence=2"});
  for (std::size_t i = 1; i < amounts.size(); ++i) BB_CHECK(amounts[i - 1].name < amounts[i].name);
}

void check_time(const sim::When& when) { BB_CHECK(when.value >= 0 && when.ns(1e9) >= 0); }

void read_seeds(const std::string& text) {
  sim::Options options;
  sim::parse_seeds(text, options);
  BB_CHECK(options.first_seed <= options.last_seed);
}

void show(const std::string& text) {
  const std::string shown = printable(text, 40);
  BB_CHECK(shown.size() <= 40 + 10 + 3);
  for (const char c : shown) BB_CHECK(static_cast<unsigned char>(c) >= 0x20 && c != 0x7F);
  BB_CHECK(printable(shown, shown.size() + 1) == shown);
}

void read(unsigned what, const std::string& text) {
  switch (what) {
    case 0: BB_CHECK(parse_thousandths("--cpus", text) <= 1'000'000'000'000'000'000); return;
    case 1: BB_CHECK(parse_memory(text) < std::uint64_t{1} << 63); return;
    case 2: return read_devices(text);
    case 3: return read_amounts(text);
    case 4: return check_time(sim::parse_when(text));
    case 5: return check_time(sim::parse_slowdown(text).at);
    case 6: return check_time(sim::parse_join(text).at);
    case 7: return check_time(sim::parse_leave(text).at);
    case 8: return read_seeds(text);
    case 9: static_cast<void>(is_number(text)); return;
    default: return show(text);
  }
}

}  // namespace
}  // namespace betterbox

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  betterbox::fuzz::Input input(data, size);
  const unsigned what = input.below(11);
  try {
    betterbox::read(what, input.bytes(size));
  } catch (const std::invalid_argument&) {
    // Refused.
  }
  return 0;
}
