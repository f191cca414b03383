// libFuzzer target: a ring of a lane whose other end is written over. Neither end may crash; what is read is what was written,
// or the ring is broken.
// Input: operations of a few bytes each: write, read, write over a counter or a byte.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "runtime/check.h"
#include "runtime/lane.h"
#include "tests/fuzz/input.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace betterbox;
  static std::vector<std::byte> memory(kLaneRingBytes);
  LaneCounters counters;
  LaneRing writer(counters, memory.data()), reader(counters, memory.data());
  bool touched = false;
  std::uint64_t written = 0, read = 0;
  fuzz::Input input(data, size);
  while (!input.empty()) {
    switch (input.below(5)) {
      case 0:
      case 1: {
        const std::string payload(input.word(2) % (kLaneRingBytes / 2), 'x');
        written += writer.write(LaneRecord::kCall, {std::as_bytes(std::span(payload))}) ? 1 : 0;
        break;
      }
      case 2: {
        Record record;
        if (!reader.read(record)) break;
        ++read;
        BB_CHECK(record.payload.size() <= kLaneRingBytes);
        BB_CHECK(touched || (record.kind == 1 && record.payload.find_first_not_of('x') == std::string::npos));
        break;
      }
      case 3:
        touched = true;
        (input.below(2) == 0 ? counters.head : counters.tail).store(input.word());
        break;
      default: touched = true; memory[input.word(2) % kLaneRingBytes] = std::byte(input.byte());
    }
  }
  BB_CHECK(touched || (read <= written && !reader.broken() && !writer.broken()));
  return 0;
}
