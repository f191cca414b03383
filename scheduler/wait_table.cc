#include "scheduler/wait_table.h"

namespace betterbox::scheduler {
namespace {

/// One for each thread of a process that runs a box.
constexpr std::size_t kMaxWaitsOfClient = 256;

template <class Key>
void change(std::map<Key, std::set<WaitId>>& index, const Key& key, WaitId id, bool add) {
  if (add) {
    index[key].insert(id);
    return;
  }
  const auto at = index.find(key);
  at->second.erase(id);
  if (at->second.empty()) index.erase(at);
}

}  // namespace

void WaitTable::index(WaitId id, const Waits& wait, bool add) {
  if (wait.box != BoxId{}) change(of_box_, wait.box, id, add);
  if (wait.call != CallId{}) change(of_call_, wait.call, id, add);
}

bool WaitTable::put(WaitId id, Waits&& wait) {
  erase(id);
  const auto first = waits_.lower_bound({id.first, 0});
  std::size_t count = 0;
  for (auto at = first; at != waits_.end() && at->first.first == id.first; ++at) ++count;
  if (count >= kMaxWaitsOfClient) return false;
  index(id, wait, true);
  waits_.emplace(id, std::move(wait));
  return true;
}

void WaitTable::erase(WaitId id) {
  const auto at = waits_.find(id);
  if (at == waits_.end()) return;
  index(id, at->second, false);
  waits_.erase(at);
}

void WaitTable::erase_client(PeerId client) {
  for (auto at = waits_.lower_bound({client, 0}); at != waits_.end() && at->first.first == client;) {
    const WaitId id = at->first;
    ++at;
    erase(id);
  }
}

const Waits* WaitTable::find(WaitId id) const {
  const auto at = waits_.find(id);
  return at == waits_.end() ? nullptr : &at->second;
}

/// Breadth first, so that the shortest cycle is shown.
std::vector<const Waits*> WaitTable::cycle_through(WaitId id,
                                                   const std::function<BoxId(CallId)>& only_box) const {
  if (find(id) == nullptr) return {};
  std::map<WaitId, WaitId> reached_from;
  std::vector<WaitId> reached{id};
  for (std::size_t i = 0; i < reached.size(); ++i) {
    const WaitId from = reached[i];
    const Waits& wait = waits_.at(from);
    bool closed = false;
    const auto reach = [&](const auto& index, const auto& key) {
      const auto at = index.find(key);
      if (at == index.end()) return;
      for (const WaitId& next : at->second) {
        if (next == id) closed = true;
        if (next != id && reached_from.emplace(next, from).second) reached.push_back(next);
      }
    };
    for (const BoxId& box : wait.boxes) reach(of_box_, box);
    for (const std::uint64_t serial : wait.calls) {
      const CallId call{from.first, serial};
      reach(of_call_, call);
      if (const BoxId box = only_box(call); box != BoxId{}) reach(of_box_, box);
    }
    if (!closed) continue;
    std::vector<const Waits*> cycle;
    for (WaitId at = from; at != id; at = reached_from.at(at)) cycle.insert(cycle.begin(), find(at));
    cycle.insert(cycle.begin(), find(id));
    return cycle;
  }
  return {};
}

}  // namespace betterbox::scheduler
