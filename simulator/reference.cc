#include "simulator/reference.h"

#include <algorithm>
#include <vector>

#include "runtime/check.h"

namespace betterbox::sim {
namespace {

double done_until(const Case& all, double until) {
  double done = 0;
  for (const Machine& machine : all.machines) {
    const auto from = static_cast<double>(machine.joins_ns);
    const double to =
        machine.leaves_ns == kNever ? until : std::min(until, static_cast<double>(machine.leaves_ns));
    if (to > from) done += machine.speed.work_between(from, to) * all.slots;
  }
  return done;
}

/// A heap of slots by (time, number) whose least entry is replaced again and again: four children a node.
class FreeSlots {
 public:
  struct Entry {
    double at;
    std::uint32_t slot;
    bool operator<(const Entry& other) const {
      return at < other.at || (at == other.at && slot < other.slot);
    }
  };
  explicit FreeSlots(std::vector<Entry> entries) : heap_(std::move(entries)) {
    std::sort(heap_.begin(), heap_.end());
  }
  bool empty() const { return heap_.empty(); }
  const Entry& least() const { return heap_.front(); }
  void replace_least(Entry entry) {
    std::size_t at = 0;
    const std::size_t size = heap_.size();
    for (;;) {
      const std::size_t first = 4 * at + 1;
      if (first >= size) break;
      std::size_t best = first;
      for (std::size_t c = first + 1, end = std::min(first + 4, size); c < end; ++c) {
        if (heap_[c] < heap_[best]) best = c;
      }
      if (!(heap_[best] < entry)) break;
      heap_[at] = heap_[best];
      at = best;
    }
    heap_[at] = entry;
  }
  void remove_least() {
    const Entry last = heap_.back();
    heap_.pop_back();
    if (!heap_.empty()) replace_least(last);
  }

 private:
  std::vector<Entry> heap_;
};

}  // namespace

double ideal_ns(const ItemWork& work, const Case& all) {
  double fastest = 0, speed = 0;
  bool constant = true;
  for (const Machine& machine : all.machines) {
    fastest = std::max(fastest, machine.speed.fastest());
    speed += machine.speed.factor() * all.slots;
    constant = constant && machine.speed.constant() && machine.joins_ns == 0 && machine.leaves_ns == kNever;
  }
  const auto total = static_cast<double>(work.total_ns());
  const double least = static_cast<double>(work.longest_ns()) / fastest;
  if (constant) return std::max(total / speed, least);
  double low = 0, high = 1e9;
  while (done_until(all, high) < total && high < 1e19) low = high, high *= 2;
  for (int i = 0; i < 100; ++i) {
    const double middle = (low + high) / 2;
    (done_until(all, middle) < total ? low : high) = middle;
  }
  return std::max(high, least);
}

double greedy_ns(const Case& all) {
  std::vector<FreeSlots::Entry> entries;
  for (std::size_t m = 0; m < all.machines.size(); ++m) {
    for (std::uint32_t s = 0; s < all.slots; ++s) {
      entries.push_back({static_cast<double>(all.machines[m].joins_ns) / 1000,
                         static_cast<std::uint32_t>(m * all.slots + s)});
    }
  }
  FreeSlots free(std::move(entries));
  struct Broken {
    double at;
    std::uint64_t item;
  };
  std::vector<Broken> broken;  // taken by a slot that leaves at `at`
  double makespan = 0;         // in us, as all times here
  std::uint64_t next = 0;
  while (next < all.work.items() || !broken.empty()) {
    if (free.empty()) return 0;  // everybody has left
    const FreeSlots::Entry slot = free.least();
    const auto again = std::min_element(broken.begin(), broken.end(), [](const Broken& a, const Broken& b) {
      return a.at < b.at || (a.at == b.at && a.item < b.item);
    });
    const bool waits = again != broken.end() && again->at <= slot.at;
    if (next >= all.work.items() && !waits) {  // nothing until a worker has left
      free.replace_least({again->at, slot.slot});
      continue;
    }
    const Machine& machine = all.machines[slot.slot / all.slots];
    const auto leaves = machine.leaves_ns == kNever ? 1e300 : static_cast<double>(machine.leaves_ns) / 1000;
    if (slot.at >= leaves) {
      free.remove_least();
      continue;
    }
    const std::uint64_t item = waits ? again->item : next++;
    if (waits) broken.erase(again);
    const double us = all.work.us(item);
    const double end = machine.speed.constant() ? slot.at + us / machine.speed.factor()
                                                : machine.speed.end_of(slot.at * 1000, us * 1000) / 1000;
    if (end > leaves) {
      broken.push_back({leaves, item});
      free.remove_least();
      continue;
    }
    makespan = std::max(makespan, end);
    free.replace_least({end, slot.slot});
  }
  return makespan * 1000;
}

}  // namespace betterbox::sim
