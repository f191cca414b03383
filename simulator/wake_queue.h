// When which agent is next to be looked at: an indexed heap with four children a node, one entry an agent.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "simulator/cluster.h"

namespace betterbox::sim {

class WakeQueue {
 public:
  /// A further agent, asleep.
  void add() {
    place_.push_back(static_cast<std::uint32_t>(heap_.size()));
    heap_.push_back({kNever, static_cast<std::uint32_t>(place_.size() - 1)});
  }
  std::int64_t next_at() const { return heap_.empty() ? kNever : heap_.front().at; }
  std::uint32_t next() const { return heap_.front().agent; }

  void set(std::uint32_t agent, std::int64_t at) {
    const std::uint32_t place = place_[agent];
    const Entry entry{at, agent};
    const bool earlier = entry < heap_[place];
    heap_[place] = entry;
    earlier ? up(place) : down(place);
  }

 private:
  struct Entry {
    std::int64_t at;
    std::uint32_t agent;
    bool operator<(const Entry& o) const { return at < o.at || (at == o.at && agent < o.agent); }
  };
  void put(std::uint32_t place, const Entry& entry) {
    heap_[place] = entry;
    place_[entry.agent] = place;
  }
  void up(std::uint32_t place) {
    const Entry entry = heap_[place];
    while (place > 0) {
      const std::uint32_t parent = (place - 1) / 4;
      if (!(entry < heap_[parent])) break;
      put(place, heap_[parent]);
      place = parent;
    }
    put(place, entry);
  }
  void down(std::uint32_t place) {
    const Entry entry = heap_[place];
    const auto size = static_cast<std::uint32_t>(heap_.size());
    for (;;) {
      const std::uint32_t first = 4 * place + 1;
      if (first >= size) break;
      std::uint32_t best = first;
      for (std::uint32_t c = first + 1; c < first + 4 && c < size; ++c) {
        if (heap_[c] < heap_[best]) best = c;
      }
      if (!(heap_[best] < entry)) break;
      put(place, heap_[best]);
      place = best;
    }
    put(place, entry);
  }

  std::vector<Entry> heap_;
  std::vector<std::uint32_t> place_;  // by agent
};

}  // namespace betterbox::sim
