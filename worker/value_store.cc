#include "worker/value_store.h"

#include <algorithm>
#include <utility>

#include "runtime/limits.h"

namespace betterbox {
namespace {

/// Another process of this host is making the copy: it is looked for this often.
constexpr Duration kLookInterval = milliseconds(20);
/// Discarded copies whose memory may be used again.
constexpr std::size_t kMaxSpareCopies = 16;

}  // namespace

ValueStore::ValueStore(std::string folder, Send to_scheduler, Ask ask, Arrived arrived,
                       ValueBroadcaster broadcaster)
    : folder_(std::move(folder)),
      send_(std::move(to_scheduler)),
      ask_(std::move(ask)),
      arrived_(std::move(arrived)),
      broadcaster_(std::move(broadcaster)) {
  sweep_segments(folder_);  // what a killed worker of another store left there, nobody else sees
}

void ValueStore::get(TimePoint now, CallId call, const std::vector<CallValue>& values) {
  std::set<std::string> missing;
  for (const CallValue& needed : values) {
    const std::string& name = needed.value.name;
    if (kept_.contains(name) || open_value(folder_, needed.value) != nullptr) continue;
    if (!may_be_broadcast(needed.value)) {
      keep(now, Keep{needed.value, needed.store});
    } else if (const auto [at, fresh] = coming_.try_emplace(name);
               fresh) {  // the scheduler says how it comes
      at->second.value = needed.value;
      at->second.home = needed.store;
      at->second.deadline = now + kBroadcastNotice;
    }
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
  coming.copy = make_copy(coming.value, error);
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
  if (at == coming_.end() || at->second.sequence != 0) return;
  if (!source.error.empty()) return failed(at, source.error);
  if (source.here && at->second.copy == nullptr) return try_to_begin(now, at);
  if (!source.source) return;
  if (at->second.copy == nullptr) {
    std::string error;
    at->second.copy = make_copy(at->second.value, error);
    if (!error.empty()) return failed(at, error);
    if (at->second.copy == nullptr) return;
  }
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
  if (at == coming_.end() || at->second.copy == nullptr || !chunk.peer || chunk.peer != at->second.source)
    return;
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
  auto copy = at->second.sequence != 0 ? std::move(at->second.copy) : nullptr;
  coming_.erase(at);
  kept_[value.name] = {value, std::move(hold), std::move(copy)};
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
  if (const auto held = kept_.extract(name)) {
    held.mapped().hold.reset();
    spare(std::move(held.mapped().copy));
  }
  const auto coming = coming_.extract(name);
  if (coming && coming.mapped().sequence != 0) broadcaster_.leave(coming.mapped().sequence);
  no_longer_coming(name);
}

// --- broadcasts ---------------------------------------------------------------------------------------

bool ValueStore::may_be_broadcast(const ValueId& value) const {
  return broadcaster_.enter != nullptr && value.bytes >= kBroadcastMinBytes;
}

void ValueStore::on_broadcast(TimePoint now, const Broadcast& told) {
  if (broadcaster_.enter == nullptr || told.members.empty()) return;
  const bool gives = told.members.front() == broadcaster_.rank;
  BroadcastPart part;
  part.sequence = told.sequence;
  part.members.assign(told.members.begin(), told.members.end());
  part.size = told.value.bytes;
  if (auto hold = open_value(folder_, told.value)) {
    part.whole = true;
    part.data = hold->bytes().data();
    part.memory = std::move(hold);
    broadcaster_.enter(std::move(part));
    if (gives) return;
    const auto at = coming_.find(told.value.name);
    return at == coming_.end() ? keep(now, Keep{told.value, told.store}) : try_to_begin(now, at);
  }
  std::string error;
  Coming* coming = gives ? nullptr : room_for(told, error);
  if (coming != nullptr) {
    coming->sequence = told.sequence;
    coming->source = {};
    coming->deadline = TimePoint::never();
    auto memory = coming->copy->memory(error);
    part.data = memory.get();
    part.memory = std::move(memory);
  }
  broadcaster_.enter(std::move(part));  // without room: so that others hear of it
  const auto at = coming_.find(told.value.name);
  if (gives || at == coming_.end()) return;
  if (!error.empty()) {
    failed(at, error);
  } else if (coming == nullptr) {
    at->second.deadline = now + kLookInterval;
  }
}

/// Null: there is none, or another process of this store makes the copy.
ValueStore::Coming* ValueStore::room_for(const Broadcast& told, std::string& error) {
  const auto [at, fresh] = coming_.try_emplace(told.value.name);
  Coming& coming = at->second;
  coming.value = told.value;
  coming.home = told.store;
  if (fresh && kept_.size() + coming_.size() > kMaxKeptValues)
    error = "this worker keeps " + std::to_string(kMaxKeptValues) + " values already";
  if (error.empty() && coming.copy == nullptr) coming.copy = make_copy(told.value, error);
  return coming.copy != nullptr ? &coming : nullptr;
}

void ValueStore::on_broadcast_over(TimePoint, std::uint64_t sequence, bool ok) {
  const auto at = std::ranges::find_if(coming_, [&](const auto& c) { return c.second.sequence == sequence; });
  if (at == coming_.end()) return;
  if (!ok) {
    at->second.sequence = 0;
    return locate(at->second, {});
  }
  at->second.copy->came_whole();
  auto hold = at->second.copy->finish();
  if (hold == nullptr) return failed(at, "what came of a value is not that value");
  arrived(at, std::move(hold));
}

std::unique_ptr<ValueCopy> ValueStore::make_copy(const ValueId& value, std::string& error) {
  for (auto at = spares_.begin(); at != spares_.end(); ++at) {
    if (!at->copy->begin_again(value)) continue;
    auto copy = std::move(at->copy);
    spares_.erase(at);
    return copy;
  }
  return ValueCopy::make(folder_, value, error);
}

void ValueStore::spare(std::unique_ptr<ValueCopy> copy) {
  if (copy == nullptr) return;
  std::uint64_t bytes = 0;
  spares_.push_back({monotonic_now() + kIdleSegmentLife, std::move(copy)});
  for (const Spare& each : spares_) bytes += each.copy->bytes();
  while (!spares_.empty() && (bytes > kWarmSegmentBytes || spares_.size() > kMaxSpareCopies)) {
    bytes -= spares_.front().copy->bytes();
    spares_.pop_front();
  }
}

void ValueStore::source_lost(PeerId source) {
  for (auto& [name, coming] : coming_)
    if (coming.copy != nullptr && coming.source == source) locate(coming, source);
}

void ValueStore::session_began(TimePoint now) {
  for (const auto& [name, held] : kept_) send_({Kept{held.value, true, {}}, {}});
  for (auto& [name, coming] : coming_) {
    if (coming.sequence != 0) continue;
    if (coming.copy != nullptr) locate(coming, {});
    coming.deadline = coming.copy != nullptr ? TimePoint::never() : now + kLookInterval;
  }
}

TimePoint ValueStore::next_deadline() const {
  TimePoint first = spares_.empty() ? TimePoint::never() : spares_.front().until;
  for (const auto& [name, coming] : coming_) first = std::min(first, coming.deadline);
  return first;
}

void ValueStore::on_deadline(TimePoint now) {
  while (!spares_.empty() && spares_.front().until <= now) spares_.pop_front();
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
