// libFuzzer target: the text of a bus file. What is read of it must do where it is used next: as keys and as addresses.
#include <cstddef>
#include <cstdint>
#include <exception>
#include <string>

#include "runtime/bus_file.h"
#include "runtime/check.h"
#include "runtime/zmq_keys.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace betterbox;
  const auto info = parse_bus_file(std::string(reinterpret_cast<const char*>(data), size));
  if (!info) return 0;
  BB_CHECK(info->endpoint.find('\0') == std::string::npos && info->endpoint.size() <= size);
  try {
    check_bus_keys(*info, "bus.json");
  } catch (const std::exception&) {
    // The keys of no bus.
  }
  return 0;
}
