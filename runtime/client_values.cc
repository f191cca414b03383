// The client's values: what this process holds, what it gets from other stores, and what it gives them (runtime/client.h).
#include "runtime/client.h"
#include "runtime/value_copy.h"

namespace betterbox {

struct Client::Obtaining {
  ValueId value;
  std::string home;
  int users = 0;
  std::unique_ptr<ValueCopy> copy;
  PeerId source;
  bool over() const { return result.here || result.busy || !result.error.empty(); }
  Obtained result;
};

void Client::hold(const Hold& hold) {
  Lock lock = enter();
  auto& [known, count] = held_values_[hold.value.name];
  if (count++ > 0) return;
  known = hold;
  if (session_ != Session::kOpen) return;
  send({hold, {}});
  drain();
}

void Client::drop(const std::string& name) {
  Lock lock = enter();
  const auto held = held_values_.find(name);
  if (held == held_values_.end() || --held->second.second > 0) return;
  held_values_.erase(held);
  if (session_ != Session::kOpen) return;
  send({Drop{name}, {}});
  drain();
}

void Client::broadcast(const std::vector<BoxId>& boxes, const std::vector<ValueId>& values) {
  std::set<std::uint64_t> agents;
  for (const BoxId& box : boxes) agents.insert(box.agent.value);
  for (const ValueId& value : values) {
    hold({value, store_id(), "an argument of a call", 1});
    Lock lock = enter();
    if (session_ != Session::kOpen) continue;
    send({Broadcast{0, value, store_id(), {agents.begin(), agents.end()}}, {}});
    drain();
  }
}

/// After a new session: another scheduler may know nothing of what this process holds and waits for.
void Client::resume_values() {
  for (const auto& [name, held] : held_values_) send({held.first, {}});
  for (const auto& [name, obtaining] : obtaining_) locate(*obtaining, {});
}

void Client::locate(Obtaining& obtaining, PeerId avoid) {
  obtaining.source = {};
  if (obtaining.copy) obtaining.copy->source_lost();
  send({Locate{obtaining.value, obtaining.home, avoid}, {}});
}

Client::Obtained Client::obtain(const ValueId& value, const std::string& home, TimePoint deadline,
                                const Interrupt& interrupt) {
  std::shared_ptr<Obtaining> mine;
  {
    Lock lock = enter();
    auto& entry = obtaining_[value.name];
    if (entry == nullptr) {
      entry = std::make_shared<Obtaining>();
      entry->value = value;
      entry->home = home;
      locate(*entry, {});
    }
    mine = entry;
    ++mine->users;
  }
  const auto leave = [&] {
    Lock lock = enter();
    if (--mine->users > 0) return;
    obtaining_.erase(value.name);
    if (session_ == Session::kOpen) send({Fetched{value.name, mine->result.here}, {}});
  };
  bool over = false;
  try {
    // A bus that is not looked for again, as that of an MPI job, does not come back.
    const auto no_bus = [&] {
      return session_ == Session::kRefused || (session_ == Session::kLost && !options_.find_bus);
    };
    over = wait([&] { return mine->over() || no_bus(); }, deadline, interrupt);
  } catch (...) {
    leave();
    throw;
  }
  leave();
  if (mine->over()) return mine->result;
  Obtained none;
  if (over) none.error = "the bus is gone";
  return none;
}

void Client::ask(Obtaining& obtaining) {
  while (const auto part = obtaining.copy->next())
    send({Fetch{obtaining.source, obtaining.value, part->offset, part->count}, {}});
}

void Client::on_source(const Source& source) {
  const auto found = obtaining_.find(source.name);
  if (found == obtaining_.end()) return;
  Obtaining& obtaining = *found->second;
  Obtained& result = obtaining.result;
  result.here = source.here;
  result.error = source.error;
  if (!obtaining.over() && !obtaining.copy) {
    obtaining.copy = ValueCopy::make(kSegmentFolder, obtaining.value, result.error);
    result.busy = obtaining.copy == nullptr && result.error.empty();
  }
  if (obtaining.over()) return wake_waiters();
  obtaining.copy->source_lost();
  obtaining.source = source.source;
  ask(obtaining);
}

void Client::on_chunk(const Chunk& chunk, const Frames& frames) {
  const auto found = obtaining_.find(chunk.name);
  if (found == obtaining_.end()) return;
  Obtaining& obtaining = *found->second;
  if (!obtaining.copy || chunk.peer != obtaining.source) return;
  if (frames.empty()) return locate(obtaining, chunk.peer);
  Obtained& result = obtaining.result;
  result.error = obtaining.copy->take(chunk.offset, frames.front().bytes());
  if (result.error.empty() && !obtaining.copy->complete()) return ask(obtaining);
  if (result.error.empty()) {
    result.hold = obtaining.copy->finish();
    result.here = result.hold != nullptr;
    if (!result.here) result.error = "what came of a value is not that value";
  }
  wake_waiters();
}

}  // namespace betterbox
