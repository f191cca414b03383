// A simulated slot: two stations, as the real one has (runtime/shm.h), and no event per item. Where it stands is worked
// out when somebody asks, from the prefix sums of its items' times.
//
// Times are in ns from the submission. A station's items run one after the other; the waiting station begins at the
// moment the running one is used up. An item claimed is not cut any more, as with the real range word.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/range_word.h"
#include "simulator/cluster.h"

namespace betterbox::sim {

/// What a slot has said since it was last heard: outcomes of [first, first + count), or that a station is used up.
struct SlotRecord {
  bool station_done = false;
  std::uint32_t station = 0;
  std::uint32_t generation = 0;
  std::uint32_t first = 0, count = 0;
  std::uint64_t base = 0;
  std::int64_t start = 0;  ///< of the station's first item
  const std::int64_t* sums = nullptr;
};

class SimSlot {
 public:
  explicit SimSlot(const Speed& speed) : speed_(&speed) {}

  /// `sums`: prefix sums of the call's item times. Idle slots begin at `now + wake`.
  void install(std::int64_t now, std::int64_t wake, std::uint32_t station, std::uint32_t generation,
               const std::int64_t* sums, std::uint64_t base, std::uint32_t count);
  struct Cut {
    Position cut;
    Position position;
    std::uint32_t done = 0;
  };
  Cut cut(std::int64_t now, std::uint32_t station, std::uint32_t count);
  /// Everything it has said until `now` and that was not taken yet, appended.
  void drain(std::int64_t now, std::vector<SlotRecord>& records);
  struct End {
    std::uint32_t generation = 0;
    std::uint32_t done = 0;
    Position position;
  };
  /// What its shared memory says of a station.
  End look(std::int64_t now, std::uint32_t station) const;
  /// A new process, or none: nothing is installed.
  void clear();

  /// When the running station is used up; kNever if nothing runs.
  std::int64_t station_done_at() const;
  /// When it next says something after what was drained.
  std::int64_t next_record_at() const;
  bool idle() const { return !stations_[0].busy && !stations_[1].busy; }
  /// The item that runs at `now`, as an index of its call; none if it waits.
  bool running_item(std::int64_t now, const std::int64_t*& sums, std::uint64_t& item,
                    std::int64_t& since) const;

  /// When item `k` of a station that began at `start` ends.
  static std::int64_t item_end(const Speed& speed, std::int64_t start, const std::int64_t* sums,
                               std::uint64_t base, std::uint64_t k);

 private:
  struct Station {
    const std::int64_t* sums = nullptr;
    std::uint64_t base = 0;
    std::uint32_t count = 0;       // after cuts
    std::uint32_t generation = 0;  // of the last install
    std::uint32_t reported = 0;
    std::uint32_t finished = 0;  // when it was used up
    bool busy = false;
  };
  std::int64_t end_of(const Station& station, std::int64_t start, std::uint64_t k) const {
    return item_end(*speed_, start, station.sums, station.base, k);
  }
  /// Items of the station that have ended by `now`.
  std::uint32_t done_by(const Station& station, std::int64_t start, std::int64_t now) const;
  std::int64_t start_of(std::uint32_t station) const;
  std::int64_t used_up_at(const Station& station, std::int64_t start) const;

  const Speed* speed_;
  Station stations_[2];
  std::uint32_t front_ = 0;       // the station that runs, if any is busy
  std::int64_t front_start_ = 0;  // of its first item
};

}  // namespace betterbox::sim
