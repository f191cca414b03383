// What an agent holds of contexts that later calls may have, too (docs/protocol.md, "Contexts that agents hold"). The
// scheduler decides it alone, by use: bounded in number and bytes, what was used longest ago goes first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "runtime/ids.h"
#include "runtime/messages.h"

namespace betterbox::scheduler {

class HeldContents {
 public:
  /// Digests are compared within one client only: nobody gets another's code by a collision.
  struct Key {
    PeerId client;
    ContentId content;
    std::size_t bytes = 0;
    friend bool operator==(const Key&, const Key&) = default;
  };

  static bool may_hold(const Key& key);
  /// The number under which the agent holds it; 0: it does not.
  std::uint64_t use(const Key& key);
  /// Result: its number. `dropped` gets the numbers of those that go for it. REQUIRES: may_hold, not held.
  std::uint64_t add(const Key& key, std::vector<std::uint64_t>& dropped);
  /// The agent holds nothing any more.
  void clear();
  void sanity_check() const;

 private:
  struct Entry {
    Key key;
    std::uint64_t number = 0;
  };
  std::deque<Entry> entries_;  // the one used last at the end
  std::size_t bytes_ = 0;
  std::uint64_t last_number_ = 0;
};

}  // namespace betterbox::scheduler
