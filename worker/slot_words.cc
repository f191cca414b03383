// What an agent knows of the words that it shares with a slot (worker/slot_words.h).
#include "worker/slot_words.h"

#include <algorithm>

namespace betterbox {

void SlotWords::install(std::uint32_t station, std::uint32_t generation, std::uint32_t count) {
  stations_[station] = {true, generation, count, 0};
  LeaseStation& words = header_.stations[station];
  words.done.store(0, std::memory_order_relaxed);
  words.generation.store(generation, std::memory_order_relaxed);
  words.word.install(count);
}

bool SlotWords::finish(std::uint32_t station, std::uint32_t generation) {
  Station& known = stations_[station];
  if (!known.installed || known.generation != generation || !possible(station)) return false;
  if (header_.stations[station].word.position().remaining() != 0) return false;
  known.installed = false;
  return true;
}

bool SlotWords::covers(std::uint32_t station, std::uint32_t generation, std::uint64_t first,
                       std::uint64_t count) const {
  if (station >= kStations || count == 0) return false;
  const Station& known = stations_[station];
  return known.installed && known.generation == generation && first + count <= known.end;
}

std::optional<SlotWords::Cut> SlotWords::cut(std::uint32_t station, std::uint32_t count) {
  Station& known = stations_[station];
  LeaseStation& words = header_.stations[station];
  if (!known.installed) return Cut{{known.end, known.end}, {known.end, known.end}, known.end};
  if (!possible(station)) return std::nullopt;
  Cut result;
  result.cut = words.word.cut(count);
  result.position = words.word.position();
  // Read after the position: an item that finished meanwhile only looks finished.
  result.done = words.done.load(std::memory_order_acquire);
  if (result.cut.end != known.end || result.cut.next > result.cut.end) return std::nullopt;
  known.end = result.cut.next;
  if (result.position.end != known.end || result.position.next > known.end) return std::nullopt;
  return result;
}

bool SlotWords::possible(std::uint32_t station) const {
  const Station& known = stations_[station];
  const LeaseStation& words = header_.stations[station];
  const std::uint32_t done = words.done.load(std::memory_order_acquire);
  const Position position = words.word.position();  // read after `done`, which never overtakes it
  return words.generation.load(std::memory_order_relaxed) == known.generation && position.end == known.end &&
         position.next <= known.end && done <= position.next;
}

bool SlotWords::possible() const {
  for (std::uint32_t station = 0; station < kStations; ++station) {
    if (stations_[station].installed && !possible(station)) return false;
  }
  return header_.bell.magic == kBellMagic && header_.bell.nonce == nonce_;
}

SeatDied::StationEnd SlotWords::end_of(std::uint32_t station) const {
  const Station& known = stations_[station];
  const LeaseStation& words = header_.stations[station];
  if (possible(station)) return {known.generation, words.done.load(), words.word.position()};
  const std::uint32_t outcomes = std::min(known.outcomes, known.end);
  return {known.generation, outcomes, {std::min(outcomes + 1, known.end), known.end}};
}

/// The wish to be woken has a number for each sleep, unless nobody rang between them.
bool SlotWords::is_awake() {
  const std::uint64_t wish = header_.bell.slot_waits.load(std::memory_order_acquire);
  const std::uint64_t sleep =
      wish == 0 ? 0 : wish << 32 | header_.bell.signal.load(std::memory_order_acquire);
  const bool awake = sleep == 0 || sleep != slept_;
  slept_ = sleep;
  return awake;
}

}  // namespace betterbox
