// libFuzzer target: what the other side may have written into memory that is shared: a slot's outbox and strip, a lane's
// rings. Whoever reads finds records, nothing, or that it makes no sense, and stays within the memory.
#include <cstring>
#include <memory>
#include <vector>

#include "runtime/lane.h"
#include "runtime/shm.h"
#include "runtime/strip.h"
#include "tests/fuzz/drawn_messages.h"

namespace betterbox {
namespace {

constexpr int kReads = 64;

/// A counter as a writer at `at` would have it, or anything.
std::uint64_t draw_counter(fuzz::Input& input, std::uint64_t at) {
  return input.below(3) == 0 ? input.number() : at + input.byte() * (1 + input.below(200));
}

void fill(fuzz::Input& input, std::byte* data, std::size_t size, std::uint64_t at) {
  for (unsigned i = 0; i < 12; ++i) {
    RecordHeader header{input.byte(), 0, input.below(2) == 0 ? input.number() : input.byte()};
    std::byte bytes[sizeof header];
    std::memcpy(bytes, &header, sizeof header);
    for (const std::byte b : bytes) data[at++ & (size - 1)] = b;
    at += (header.size < size ? header.size + 7 : 7) / 8 * 8;
  }
}

void read_outbox(fuzz::Input& input) {
  static SlotArena arena = SlotArena::create_private();
  RingHeader& ring = arena.header().outbox;
  const std::uint64_t start = draw_counter(input, 0) / 8 * 8;
  ring.tail = start;
  ring.head = start;
  RingReader reader(ring, arena.outbox_data());
  Record record;
  for (int round = 0; round < 4; ++round) {
    fill(input, arena.outbox_data(), ring.capacity, start);
    ring.head = draw_counter(input, start);
    for (int i = 0; i < kReads && reader.next(record); ++i) {}
  }
}

void read_lane(fuzz::Input& input) {
  static std::vector<std::byte> data(kLaneRingBytes);
  LaneCounters counters;
  const std::uint64_t start = draw_counter(input, 0);
  counters.tail = start;
  LaneRing ring(counters, data.data());
  Record record;
  for (int round = 0; round < 4 && !ring.broken(); ++round) {
    fill(input, data.data(), data.size(), start);
    counters.head = draw_counter(input, start);
    for (int i = 0; i < kReads && ring.read(record); ++i) {}
    if (input.below(4) == 0) counters.tail = input.number();
    const std::string text(input.byte(), 'x');
    ring.write(LaneRecord::kReply, {std::as_bytes(std::span(text))});
  }
}

void read_strip(fuzz::Input& input) {
  static const auto strip = std::make_unique<Strip>();
  strip->opened = 0;
  strip->taken_segments = 0;
  strip->taken_words = 0;
  StripReader reader(*strip);
  std::uint64_t at = 0;
  for (int round = 0; round < 4; ++round) {
    for (unsigned i = 0; i < 1 + input.below(4); ++i) {
      StripSegment& segment = strip->segments[input.below(2) == 0 ? i : input.below(kStripSegments)];
      segment.count = static_cast<std::uint32_t>(input.number());
      segment.station = static_cast<std::uint32_t>(input.number());
      segment.first = static_cast<std::uint32_t>(input.number());
      segment.start = input.below(3) == 0 ? input.number() : at;
      segment.type = static_cast<std::uint32_t>(input.number());
      segment.dtype = input.below(2) == 0 ? 0x346966 : input.number();
      segment.busy_ns = static_cast<std::int64_t>(input.number());
      segment.longest_ns = static_cast<std::int64_t>(input.number());
      segment.busy_squares = static_cast<double>(input.number());
      at += segment.count;
    }
    strip->opened = static_cast<std::uint32_t>(input.below(3) == 0 ? input.number() : input.below(8));
    for (int i = 0; i < kReads; ++i) {
      const auto part = reader.next();
      if (!part) break;
      const Frame column = reader.column_of(*part);
      BB_CHECK(PageView::parse(column.bytes()).has_value());
      std::string item;
      if (part->count > 0) reader.append_item(*part, part->count - 1, item);
    }
    reader.release();
  }
}

}  // namespace
}  // namespace betterbox

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  betterbox::fuzz::Input input(data, size);
  switch (input.below(3)) {
    case 0: betterbox::read_outbox(input); break;
    case 1: betterbox::read_lane(input); break;
    default: betterbox::read_strip(input);
  }
  return 0;
}
