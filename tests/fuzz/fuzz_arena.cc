// libFuzzer target: what a slot's memory may hold when user code writes over it, read by the agent's side. Nothing may crash,
// nothing may be made of it but outcomes of what was installed, and it must be noticed or settle.
// Input: operations of a few bytes each: the agent installs, cuts, sends and reads; a slot that works claims, writes and
// finishes; and words of the arena are written over.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "runtime/check.h"
#include "runtime/page.h"
#include "tests/fuzz/input.h"
#include "worker/slot_reader.h"

namespace {

using namespace betterbox;

class Bench {
 public:
  void run(fuzz::Input& input) {
    while (!input.empty()) step(input);
    for (int i = 0; i < 2; ++i) drain();
    for (std::uint32_t station = 0; station < kStations; ++station) {
      const auto end = words_.end_of(station);
      BB_CHECK(end.done <= end.position.next && end.position.next <= end.position.end &&
               end.position.end <= installed_[station]);
    }
  }

 private:
  void step(fuzz::Input& input) {
    const auto station = input.below(2);
    switch (input.below(8)) {
      case 0: return write_over(input);
      case 1: return install(station, input.byte());
      case 2: return cut(station, input.byte());
      case 3: return send(input.word(2));
      case 4: return drain();
      case 5: return run_item(station);
      case 6: return raw_record(input);
      default: (void)(words_.possible() && inbox_.possible() && words_.is_awake()); return;
    }
  }

  void write_over(fuzz::Input& input) {
    auto* bytes = reinterpret_cast<std::byte*>(&header_);
    const std::size_t front = offsetof(ArenaHeader, strip.words);
    const std::uint64_t at = input.word(3) % (front / 8) * 8;
    const std::uint64_t value = input.word();
    std::memcpy(bytes + at, &value, sizeof value);
  }

  void install(std::uint32_t station, std::uint32_t count) {
    if (busy_[station]) return;
    busy_[station] = true;
    installed_[station] = count;
    words_.install(station, ++generation_, count);
    reader_.expect(station, generation_, count % 7 == 0);
    generations_[station] = generation_;
  }

  void cut(std::uint32_t station, std::uint32_t count) {
    if (!busy_[station]) return;
    const auto result = words_.cut(station, count);
    if (result) BB_CHECK(result->cut.next <= result->cut.end && result->cut.end <= installed_[station]);
  }

  void send(std::uint64_t size) {
    if (inbox_.queued_bytes() > (1U << 20)) return;
    inbox_.push(3, std::string(size, 'x'));
    inbox_.flush();
  }

  /// As a slot would, unless its words are such that it would wait or end.
  void run_item(std::uint32_t station) {
    const auto item = header_.stations[station].word.claim();
    SlotOutcome outcome{station, generations_[station], item.value_or(0), 1, 10, 10};
    const SlotLeaseDone done{station, generations_[station]};
    if (item && header_.outbox.head % 2 == 0) {
      strip_.add(station, outcome.generation, *item, {ColumnType::kInt, 0, *item}, 10);
    } else if (item) {
      record(FromSlot::kOutcome, {reinterpret_cast<const char*>(&outcome), sizeof outcome},
             std::string(9, '\3'));
    } else {
      record(FromSlot::kLeaseDone, {reinterpret_cast<const char*>(&done), sizeof done}, {});
    }
    if (item) header_.stations[station].done.store(*item + 1);
  }

  void raw_record(fuzz::Input& input) {
    const auto kind = static_cast<FromSlot>(input.below(9));
    record(kind, input.bytes(input.below(64)), {});
  }

  void record(FromSlot kind, const std::string& head, const std::string& tail) {
    const std::uint64_t used = header_.outbox.head.load() - header_.outbox.tail.load();
    SlotOutbox outbox(header_, header_.outbox, arena_.outbox_data(), -1);
    if (header_.outbox.capacity != kOutboxBytes || used > kOutboxBytes ||
        !outbox.fits(head.size() + tail.size()))
      return;
    outbox.write(static_cast<std::uint32_t>(kind),
                 {std::as_bytes(std::span(head)), std::as_bytes(std::span(tail))});
  }

  void drain() {
    std::vector<Event> events;
    reader_.drain(events, 64);
    for (const Event& event : events) {
      if (const auto* progress = std::get_if<SeatProgressed>(&event)) {
        BB_CHECK(progress->first + std::uint64_t{progress->count} <= installed_[progress->station]);
        const auto page = PageView::parse(progress->page.bytes());
        BB_CHECK(page && page->holds_outcomes_of(progress->count));
        BB_CHECK(progress->busy_ns >= 0 && progress->longest_ns >= 0 &&
                 std::isfinite(progress->busy_squares));
        BB_CHECK(progress->busy_squares >= 0);
      }
      if (const auto* done = std::get_if<SubLeaseDone>(&event)) busy_[done->station] = false;
    }
  }

  SlotArena arena_ = SlotArena::create_private();
  ArenaHeader& header_ = arena_.header();
  RingWriter inbox_{header_.inbox, header_.bell, arena_.inbox_data()};
  StripWriter strip_{header_.strip};
  SlotWords words_{header_};
  SlotReader reader_{arena_, words_, SeatId{0}, 1};
  std::uint32_t generation_ = 0;
  std::uint32_t generations_[kStations] = {};
  std::uint32_t installed_[kStations] = {};
  bool busy_[kStations] = {};
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  betterbox::fuzz::Input input(data, std::min<std::size_t>(size, 4096));
  Bench().run(input);
  return 0;
}
