// SlotWords: what an agent itself knows of the words that it shares with a slot, and whether those in the arena are
// possible. User code in a slot can write over its arena (a wild pointer); that may cost the slot, but nothing that is read
// there is believed.
#pragma once

#include <cstdint>
#include <optional>

#include "runtime/shm.h"
#include "worker/events.h"

namespace betterbox {

class SlotWords {
 public:
  explicit SlotWords(ArenaHeader& header) : header_(header), nonce_(header.bell.nonce) {}

  void install(std::uint32_t station, std::uint32_t generation, std::uint32_t count);
  /// The slot has said that this part is used up. Result: false if the words do not say so, too.
  bool finish(std::uint32_t station, std::uint32_t generation);
  bool any_installed() const { return stations_[0].installed || stations_[1].installed; }
  /// True if this part is installed and has so many items, after cuts.
  bool covers(std::uint32_t station, std::uint32_t generation, std::uint64_t first,
              std::uint64_t count) const;
  void count_outcomes(std::uint32_t station, std::uint32_t count) { stations_[station].outcomes += count; }

  /// `cut` and `position` as of RangeWord, `done` read after them. Of a part that is used up: nothing is left. Empty if the
  /// words are impossible.
  struct Cut {
    Position cut, position;
    std::uint32_t done = 0;
  };
  std::optional<Cut> cut(std::uint32_t station, std::uint32_t count);

  /// False if no slot that works could have left the words of its stations and bells like this.
  bool possible() const;
  /// How a station is left behind by a process that is gone. Where the words are impossible, the first item without an
  /// outcome is the one that ran.
  SeatDied::StationEnd end_of(std::uint32_t station) const;

  /// To be called once in kSeatLookInterval while the slot owes something and has been given all of it. Result: false if it
  /// has slept since the last call: it does not see what it was given, so it would sleep for ever.
  bool is_awake();
  /// It owes nothing, or not all was given yet.
  void may_sleep() { slept_ = 0; }

 private:
  struct Station {
    bool installed = false;
    std::uint32_t generation = 0;
    std::uint32_t end = 0;
    std::uint32_t outcomes = 0;  // that have arrived
  };
  bool possible(std::uint32_t station) const;

  ArenaHeader& header_;
  const std::uint64_t nonce_;
  Station stations_[kStations];
  std::uint64_t slept_ = 0;  // the sleep that was seen at the last look; 0: none
};

}  // namespace betterbox
