#include "simulator/slot.h"

#include <algorithm>
#include <cmath>

#include "runtime/check.h"

namespace betterbox::sim {

std::int64_t SimSlot::item_end(const Speed& speed, std::int64_t start, const std::int64_t* sums,
                               std::uint64_t base, std::uint64_t k) {
  const auto work = static_cast<double>(sums[base + k + 1] - sums[base]);
  return static_cast<std::int64_t>(std::floor(speed.end_of(static_cast<double>(start), work) + 0.5));
}

void SimSlot::install(std::int64_t now, std::int64_t wake, std::uint32_t station, std::uint32_t generation,
                      const std::int64_t* sums, std::uint64_t base, std::uint32_t count) {
  Station& place = stations_[station];
  BB_CHECK(!place.busy);
  if (idle()) {
    front_ = station;
    front_start_ = now + wake;
  }
  place = {sums, base, count, generation, 0, 0, true};
}

std::int64_t SimSlot::used_up_at(const Station& station, std::int64_t start) const {
  return station.count == 0 ? start : end_of(station, start, station.count - 1);
}

std::int64_t SimSlot::start_of(std::uint32_t station) const {
  return station == front_ ? front_start_ : used_up_at(stations_[front_], front_start_);
}

/// Gallops from what is known to be done: a slot is mostly asked soon after it was heard.
std::uint32_t SimSlot::done_by(const Station& station, std::int64_t start, std::int64_t now) const {
  if (now < start) return 0;
  std::uint32_t low = station.reported;  // items [0, low) are done
  std::uint32_t step = 1;
  while (low < station.count) {
    const std::uint32_t probe = std::min(low + step, station.count);
    if (end_of(station, start, probe - 1) > now) {
      std::uint32_t high = probe - 1;  // items from here on may be open; item `probe - 1` is
      while (low < high) {
        const std::uint32_t middle = low + (high - low) / 2;
        if (end_of(station, start, middle) <= now) {
          low = middle + 1;
        } else {
          high = middle;
        }
      }
      return low;
    }
    low = probe;
    step *= 2;
  }
  return low;
}

SimSlot::End SimSlot::look(std::int64_t now, std::uint32_t station) const {
  const Station& place = stations_[station];
  if (!place.busy) return {place.generation, place.finished, {place.finished, place.finished}};
  const std::int64_t start = start_of(station);
  const std::uint32_t done = done_by(place, start, now);
  const std::uint32_t next = now < start ? 0 : std::min(done + 1, place.count);
  return {place.generation, done, {next, place.count}};
}

SimSlot::Cut SimSlot::cut(std::int64_t now, std::uint32_t station, std::uint32_t count) {
  Station& place = stations_[station];
  const End at = look(now, station);
  const std::uint32_t taken = std::min(count, at.position.remaining());
  const std::uint32_t end = at.position.end;
  if (taken > 0) place.count = end - taken;
  return {{end - taken, end}, {at.position.next, end - taken}, at.done};
}

void SimSlot::drain(std::int64_t now, std::vector<SlotRecord>& records) {
  while (stations_[front_].busy) {
    Station& place = stations_[front_];
    const std::uint32_t done = done_by(place, front_start_, now);
    if (done > place.reported) {
      records.push_back({false, front_, place.generation, place.reported, done - place.reported, place.base,
                         front_start_, place.sums});
      place.reported = done;
    }
    if (done < place.count || now < front_start_) return;
    const std::int64_t end = used_up_at(place, front_start_);
    records.push_back({true, front_, place.generation, 0, 0, place.base, front_start_, place.sums});
    place.finished = place.count;
    place.busy = false;
    if (!stations_[1 - front_].busy) return;
    front_ = 1 - front_;
    front_start_ = end;
  }
}

void SimSlot::clear() { stations_[0] = stations_[1] = {}; }

std::int64_t SimSlot::station_done_at() const {
  const Station& place = stations_[front_];
  return place.busy ? used_up_at(place, front_start_) : kNever;
}

std::int64_t SimSlot::next_record_at() const {
  const Station& place = stations_[front_];
  if (!place.busy) return kNever;
  return place.reported < place.count ? end_of(place, front_start_, place.reported)
                                      : used_up_at(place, front_start_);
}

bool SimSlot::running_item(std::int64_t now, const std::int64_t*& sums, std::uint64_t& item,
                           std::int64_t& since) const {
  for (const std::uint32_t station : {front_, 1 - front_}) {
    const Station& place = stations_[station];
    if (!place.busy) return false;
    const std::int64_t start = start_of(station);
    if (now < start) return false;
    const std::uint32_t done = done_by(place, start, now);
    if (done == place.count) continue;
    sums = place.sums;
    item = place.base + done;
    since = done == 0 ? start : end_of(place, start, done - 1);
    return true;
  }
  return false;
}

}  // namespace betterbox::sim
