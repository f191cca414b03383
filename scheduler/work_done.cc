#include "scheduler/work_done.h"

#include <algorithm>
#include <functional>
#include <queue>

#include "runtime/add_times.h"

namespace betterbox::scheduler {
namespace {

SlotStats* find_seat(std::vector<SlotStats>& seats, SeatId id, std::size_t& seats_left) {
  const auto at = std::lower_bound(seats.begin(), seats.end(), id,
                                   [](const SlotStats& s, SeatId wanted) { return s.seat < wanted; });
  if (at != seats.end() && at->seat == id) return &*at;
  if (seats_left == 0) return nullptr;
  --seats_left;
  SlotStats fresh;
  fresh.seat = id;
  return &*seats.insert(at, fresh);
}

template <class Stats> void count(Stats& stats, const SeatWork& work, std::int64_t at) {
  if (stats.items == 0) stats.first_ns = at;
  stats.last_ns = at;
  stats.items += work.items;
  stats.busy_ns = add_times(stats.busy_ns, std::max<std::int64_t>(0, work.busy_ns));
  stats.longest_ns = std::max(stats.longest_ns, work.longest_ns);
}

}  // namespace

void WorkDone::add(const std::vector<SeatWork>& report, std::int64_t at, std::size_t& seats_left) {
  for (const SeatWork& work : report) {
    count(*this, work, at);
    if (seats_left == 0) continue;
    if (SlotStats* seat = find_seat(seats, work.seat, seats_left)) count(*seat, work, at);
  }
  if (seats_left == 0 && !seats.empty()) seats = {};
}

void MeasuredItems::add(Range items, std::int64_t busy_ns) {
  if (too_many_) return;
  if (items.end > kItems) {
    too_many_ = true;
    times_ = {};
    return;
  }
  if (times_.size() < items.end) times_.resize(items.end);
  const auto each = static_cast<float>(std::max<std::int64_t>(0, busy_ns)) / static_cast<float>(items.size());
  std::fill(times_.begin() + static_cast<std::ptrdiff_t>(items.begin),
            times_.begin() + static_cast<std::ptrdiff_t>(items.end), each);
}

std::int64_t MeasuredItems::greedy_ns(std::uint64_t slots) const {
  if (too_many_ || slots == 0) return 0;
  std::priority_queue<double, std::vector<double>, std::greater<>> ends;
  double last = 0;
  for (const float time : times_) {
    double begin = 0;
    if (ends.size() == slots) begin = ends.top(), ends.pop();
    ends.push(begin + static_cast<double>(time));
    last = std::max(last, begin + static_cast<double>(time));
  }
  return static_cast<std::int64_t>(std::min(last, 9e18));
}

void merge(AgentStats& into, const AgentStats& other) {
  if (other.items > 0)
    into.first_ns = into.items > 0 ? std::min(into.first_ns, other.first_ns) : other.first_ns;
  into.last_ns = std::max(into.last_ns, other.last_ns);
  into.slots += other.slots;
  into.items += other.items;
  into.busy_ns = add_times(into.busy_ns, other.busy_ns);
  into.retries += other.retries;
  into.steals += other.steals;
  into.outstanding += other.outstanding;
  into.seats.clear();
}

}  // namespace betterbox::scheduler
