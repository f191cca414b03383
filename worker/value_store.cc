#include "worker/value_store.h"

#include <algorithm>
#include <utility>

#include "runtime/limits.h"

namespace betterbox {
namespace {

/// Another process of this host is making the copy: it is looked for this often.
constexpr Duration kLookInterval = milliseconds(20);

}  // namespace

ValueStore::ValueStore(std::string folder, Send to_scheduler, Ask ask, Arrived arrived)
    : folder_(std::move(folder)),
      send_(std::move(to_scheduler)),
      ask_(std::move(ask)),
      arrived_(std::move(arrived)) {
  sweep_segments(folder_);  // what a killed worker of another store left there, nobody else sees
}

void ValueStore::get(TimePoint now, CallId call, const std::vector<CallValue>& values) {
  std::set<std::string> missing;
  for (const CallValue& needed : values) {
    const std::string& name = needed.value.name;
    if (kept_.contains(name) || open_value(folder_, needed.value) != nullptr) continue;
    keep(now, Keep{needed.value, needed.store});
    if (coming_.contains(name)) missing.insert(name);
  }
  if (missing.empty()) return arrived_(call);
  waiting_[call] = std::move(missing);
}

void ValueStore::no_longer_coming(const std::string& name) {
  std::vector<CallId> ready;
  for (auto& [call, missing] : waiting_) {
    missing.erase(name);
    if (missing.empty()) ready.push_back(call);
  }
  for (const CallId call : ready) {
    waiting_.erase(call);
    arrived_(call);
  }
}

void ValueStore::keep(TimePoint now, const Keep& keep) {
  const std::string& name = keep.value.name;
  if (kept_.contains(name)) return send_({Kept{keep.value, true, {}}, {}});
  if (kept_.size() + coming_.size() >= kMaxKeptValues && !coming_.contains(name))
    return send_(
        {Kept{keep.value, false, "this worker keeps " + std::to_string(kMaxKeptValues) + " values already"},
         {}});
  const auto [at, fresh] = coming_.try_emplace(name);
  if (!fresh) return;  // its end is told
  at->second.value = keep.value;
  at->second.home = keep.store;
  try_to_begin(now, at);
}

/// The value may be there already: of a process of this store, or of one that fetches it, too.
void ValueStore::try_to_begin(TimePoint now, ComingAt at) {
  Coming& coming = at->second;
  if (auto hold = open_value(folder_, coming.value)) return arrived(at, std::move(hold));
  std::string error;
  coming.copy = ValueCopy::make(folder_, coming.value, error);
  if (coming.copy == nullptr && !error.empty()) return failed(at, error);
  if (coming.copy == nullptr) {
    coming.deadline = now + kLookInterval;
  } else {
    locate(coming, {});
  }
}

void ValueStore::locate(Coming& coming, PeerId avoid) {
  coming.source = {};
  coming.deadline = TimePoint::never();
  coming.copy->source_lost();
  send_({Locate{coming.value, coming.home, avoid}, {}});
}

void ValueStore::on_source(TimePoint now, const Source& source) {
  const auto at = coming_.find(source.name);
  if (at == coming_.end() || at->second.copy == nullptr) return;
  if (!source.error.empty()) return failed(at, source.error);
  if (!source.source) return;
  at->second.copy->source_lost();
  at->second.source = source.source;
  at->second.endpoint = source.endpoint;
  ask(now, at->second);
}

void ValueStore::ask(TimePoint now, Coming& coming) {
  coming.deadline = now + kLivenessBound;
  while (const auto part = coming.copy->next())
    ask_(coming.endpoint, Fetch{coming.source, coming.value, part->offset, part->count});
}

void ValueStore::on_chunk(TimePoint now, const Chunk& chunk, const Frames& frames) {
  const auto at = coming_.find(chunk.name);
  if (at == coming_.end() || at->second.copy == nullptr || chunk.peer != at->second.source) return;
  Coming& coming = at->second;
  if (frames.empty()) return locate(coming, chunk.peer);
  const std::string error = coming.copy->take(chunk.offset, frames.front().bytes());
  if (!error.empty()) return failed(at, error);
  if (!coming.copy->complete()) return ask(now, coming);
  auto hold = coming.copy->finish();
  if (hold == nullptr) return failed(at, "what came of a value is not that value");
  arrived(at, std::move(hold));
}

void ValueStore::arrived(ComingAt at, std::shared_ptr<MappedSegment> hold) {
  const ValueId value = at->second.value;
  coming_.erase(at);
  kept_[value.name] = {value, std::move(hold)};
  send_({Kept{value, true, {}}, {}});
  no_longer_coming(value.name);
}

void ValueStore::failed(ComingAt at, const std::string& error) {
  const ValueId value = at->second.value;
  coming_.erase(at);
  send_({Kept{value, false, error}, {}});
  no_longer_coming(value.name);
}

void ValueStore::discard(const std::string& name) {
  kept_.erase(name);
  coming_.erase(name);
  no_longer_coming(name);
}

void ValueStore::source_lost(PeerId source) {
  for (auto& [name, coming] : coming_)
    if (coming.copy != nullptr && coming.source == source) locate(coming, source);
}

void ValueStore::session_began(TimePoint now) {
  for (const auto& [name, held] : kept_) send_({Kept{held.value, true, {}}, {}});
  for (auto& [name, coming] : coming_) {
    if (coming.copy != nullptr) locate(coming, {});
    coming.deadline = coming.copy != nullptr ? TimePoint::never() : now + kLookInterval;
  }
}

TimePoint ValueStore::next_deadline() const {
  TimePoint first = TimePoint::never();
  for (const auto& [name, coming] : coming_) first = std::min(first, coming.deadline);
  return first;
}

void ValueStore::on_deadline(TimePoint now) {
  for (auto at = coming_.begin(); at != coming_.end();) {
    const auto here = at++;
    Coming& coming = here->second;
    if (coming.deadline > now) continue;
    if (coming.copy == nullptr) {
      try_to_begin(now, here);
    } else {
      locate(coming, coming.source);
    }
  }
}

}  // namespace betterbox
