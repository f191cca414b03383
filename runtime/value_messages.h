// Messages about values in shared memory (docs/protocol.md, section "Values"): who holds them, which agents keep copies,
// and how one store gets a value from another. Part of runtime/messages.h.
#pragma once

#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/ids.h"

namespace betterbox {

/// A value: the first `bytes` bytes of the file `name`, whose header says `serial`. It has the same name in every store.
struct ValueId {
  std::string name;
  std::uint64_t serial = 0;
  std::uint64_t bytes = 0;
  friend bool operator==(const ValueId&, const ValueId&) = default;
  template <class A> void serialize(A& a) { a(name, serial, bytes); }
};

/// A value that a call needs, and the store where it was put.
struct CallValue {
  ValueId value;
  std::string store;
  friend bool operator==(const CallValue&, const CallValue&) = default;
  template <class A> void serialize(A& a) { a(value, store); }
};

/// peer -> scheduler: I have a reference to this value. `store`: where it was put.
struct Hold {
  ValueId value;
  std::string store;
  std::string label;           ///< for people
  std::uint32_t replicas = 1;  ///< copies that agents are to keep; 1: none beside the owner's
  template <class A> void serialize(A& a) { a(value, store, label, replicas); }
};
/// peer -> scheduler: I have no reference to it any more.
struct Drop {
  std::string name;
  template <class A> void serialize(A& a) { a(name); }
};

/// scheduler -> agent: have this value in your store, and hold it until Discard. Answered by Kept.
struct Keep {
  ValueId value;
  std::string store;  ///< where it was put
  template <class A> void serialize(A& a) { a(value, store); }
};
/// agent -> scheduler: I hold it, or cannot. Also for all that it holds, when a session begins.
struct Kept {
  ValueId value;
  bool ok = true;
  std::string error;
  template <class A> void serialize(A& a) { a(value, ok, error); }
};
/// scheduler -> agent: hold it no longer.
struct Discard {
  std::string name;
  template <class A> void serialize(A& a) { a(name); }
};

/// peer -> scheduler: my store lacks this value. Answered by Source. `avoid`: a source that did not give it.
struct Locate {
  ValueId value;
  std::string store;  ///< where it was put
  PeerId avoid;
  template <class A> void serialize(A& a) { a(value, store, avoid); }
};
/// scheduler -> peer: get it from `source`; or it is in your store now (`here`); or nobody has it (`error`).
struct Source {
  std::string name;
  bool here = false;
  PeerId source;
  std::string endpoint;  ///< of a source that can be reached directly; empty: through the scheduler
  std::string error;
  template <class A> void serialize(A& a) { a(name, here, source, endpoint, error); }
};
/// A part of a value is asked for: requester -> scheduler, `peer` is the source; scheduler -> source, `peer` is the
/// requester.
struct Fetch {
  PeerId peer;
  ValueId value;
  std::uint64_t offset = 0;
  std::uint64_t count = 0;
  template <class A> void serialize(A& a) { a(peer, value, offset, count); }
};
/// The answer, back the same way. frames: [bytes], or [] if the source does not have the value
struct Chunk {
  PeerId peer;
  std::string name;
  std::uint64_t offset = 0;
  template <class A> void serialize(A& a) { a(peer, name, offset); }
};
/// client -> scheduler: what the last Source began is over. `ok`: the value is in my store.
struct Fetched {
  std::string name;
  bool ok = true;
  template <class A> void serialize(A& a) { a(name, ok); }
};

/// The rank in an endpoint "mpi://RANK/NAME".
inline std::optional<std::uint32_t> rank_in(std::string_view endpoint) {
  constexpr std::string_view kRanks = "mpi://";
  if (!endpoint.starts_with(kRanks)) return std::nullopt;
  std::uint32_t rank = 0;
  const char* end = endpoint.data() + endpoint.size();
  const auto [at, error] = std::from_chars(endpoint.data() + kRanks.size(), end, rank);
  if (error != std::errc() || at == end || *at != '/') return std::nullopt;
  return rank;
}

/// scheduler -> agent, as Keep: enter the broadcast `sequence` of this value. `members`: ranks (docs/protocol.md, "MPI
/// carrier"); the first gives it. client -> scheduler, `sequence` 0: these agents (their peer numbers) need it now.
struct Broadcast {
  std::uint64_t sequence = 0;
  ValueId value;
  std::string store;  ///< where it was put
  std::vector<std::uint64_t> members;
  template <class A> void serialize(A& a) { a(sequence, value, store, members); }
};

/// In StatusReport.
struct ValueStatus {
  ValueId value;
  std::string label;
  std::string owner_host;
  std::uint32_t owner_pid = 0;  ///< 0: it is gone
  std::uint32_t holders = 0;
  std::uint32_t replicas = 1;
  std::uint32_t copies = 0;  ///< that agents keep
  std::uint32_t stores = 0;  ///< that have it
  template <class A> void serialize(A& a) {
    a(value, label, owner_host, owner_pid, holders, replicas, copies, stores);
  }
};

}  // namespace betterbox
