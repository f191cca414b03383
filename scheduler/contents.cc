// What an agent holds of contexts: a short list by use.
#include "scheduler/contents.h"

#include <algorithm>

#include "runtime/check.h"
#include "runtime/limits.h"

namespace betterbox::scheduler {

bool HeldContents::may_hold(const Key& key) {
  return key.content && key.bytes >= kContentMinBytes && key.bytes <= kContentMaxBytes;
}

std::uint64_t HeldContents::use(const Key& key) {
  const auto found =
      std::find_if(entries_.begin(), entries_.end(), [&](const Entry& e) { return e.key == key; });
  if (found == entries_.end()) return 0;
  std::rotate(found, found + 1, entries_.end());
  return entries_.back().number;
}

std::uint64_t HeldContents::add(const Key& key, std::vector<std::uint64_t>& dropped) {
  while (!entries_.empty() &&
         (entries_.size() >= kMaxHeldContexts || bytes_ + key.bytes > kMaxHeldContextBytes)) {
    dropped.push_back(entries_.front().number);
    bytes_ -= entries_.front().key.bytes;
    entries_.pop_front();
  }
  entries_.push_back({key, ++last_number_});
  bytes_ += key.bytes;
  return last_number_;
}

void HeldContents::clear() {
  entries_.clear();
  bytes_ = 0;
}

void HeldContents::sanity_check() const {
  std::size_t bytes = 0;
  for (const Entry& entry : entries_) {
    BB_CHECK(may_hold(entry.key) && entry.number != 0 && entry.number <= last_number_);
    bytes += entry.key.bytes;
  }
  BB_CHECK(bytes == bytes_ && bytes <= kMaxHeldContextBytes && entries_.size() <= kMaxHeldContexts);
}

}  // namespace betterbox::scheduler
