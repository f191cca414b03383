// ValueStore: the values that an agent keeps in its store's shared memory for the bus (docs/protocol.md, section
// "Values"). It holds what the scheduler asks it to hold, and gets what is not there from another store, in parts.
//
// Guarantees: every Keep is answered by a Kept, once for each session; a source that says nothing for the liveness
// bound is replaced, and what had come is not fetched again. One thread.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "runtime/messages.h"
#include "runtime/time.h"
#include "runtime/transport.h"
#include "runtime/value_copy.h"

namespace betterbox {

/// What a transport does that can broadcast; empty: it cannot.
struct ValueBroadcaster {
  std::function<void(BroadcastPart&&)> enter;
  std::function<void(std::uint64_t)> leave;
  std::uint32_t rank = 0;
};

class ValueStore {
 public:
  using Send = std::function<void(Message&&)>;
  using Arrived = std::function<void(CallId)>;
  /// Sends to a source: its endpoint (empty: none), and what.
  using Ask = std::function<void(const std::string&, const Fetch&)>;
  ValueStore(std::string folder, Send to_scheduler, Ask ask, Arrived arrived,
             ValueBroadcaster broadcaster = {});

  /// Has these values in the store, or finds that it cannot, and then says so for the call.
  void get(TimePoint now, CallId call, const std::vector<CallValue>& values);
  /// The call is over.
  void forget(CallId call) { waiting_.erase(call); }

  void keep(TimePoint now, const Keep& keep);
  void discard(const std::string& name);
  void on_broadcast(TimePoint now, const Broadcast& told);
  /// What was entered is over.
  void on_broadcast_over(TimePoint now, std::uint64_t sequence, bool ok);
  void on_source(TimePoint now, const Source& source);
  void on_chunk(TimePoint now, const Chunk& chunk, const Frames& frames);
  /// What was under way from this source does not come.
  void source_lost(PeerId source);
  /// Another session, perhaps another scheduler: it hears of all that is held, and is asked again for what is missing.
  void session_began(TimePoint now);

  TimePoint next_deadline() const;
  void on_deadline(TimePoint now);

 private:
  struct Held {
    ValueId value;
    std::shared_ptr<MappedSegment> hold;
    std::unique_ptr<ValueCopy> copy;  ///< of what was broadcast: its memory is used again
  };
  struct Spare {
    TimePoint until;
    std::unique_ptr<ValueCopy> copy;
  };
  struct Coming {
    ValueId value;
    std::string home;
    std::unique_ptr<ValueCopy> copy;
    PeerId source;  ///< nobody: a Source is awaited
    std::string endpoint;
    std::uint64_t sequence = 0;  ///< of the broadcast that brings it; 0: none
    TimePoint deadline = TimePoint::never();
  };
  using ComingAt = std::map<std::string, Coming>::iterator;

  void locate(Coming& coming, PeerId avoid);
  void ask(TimePoint now, Coming& coming);
  void try_to_begin(TimePoint now, ComingAt at);
  void arrived(ComingAt at, std::shared_ptr<MappedSegment> hold);
  void failed(ComingAt at, const std::string& error);
  void no_longer_coming(const std::string& name);
  bool may_be_broadcast(const ValueId& value) const;
  Coming* room_for(const Broadcast& told, std::string& error);
  std::unique_ptr<ValueCopy> make_copy(const ValueId& value, std::string& error);
  void spare(std::unique_ptr<ValueCopy> copy);

  const std::string folder_;
  const Send send_;
  const Ask ask_;
  const Arrived arrived_;
  const ValueBroadcaster broadcaster_;
  std::map<std::string, Held> kept_;
  std::map<std::string, Coming> coming_;
  std::deque<Spare> spares_;                         ///< the oldest first
  std::map<CallId, std::set<std::string>> waiting_;  ///< calls, for values in `coming_`
};

}  // namespace betterbox
