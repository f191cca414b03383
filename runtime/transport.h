// Transport: carries messages between peers; knows connections, not what they are for.
//
// A transport may listen (connections come in) and connect (connections go out) at once. A connection
// is a session: it ends once, is never repaired silently, and messages on it arrive in order and
// whole or not at all. After kClosed nothing more comes from it.
//
// Threads: one at a time. The owner may move between threads under a mutex. `wait_fds` may be waited
// on (poll) by another thread meanwhile; they are edge-like: call receive() until it is empty before
// each wait, and again after every send.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/ids.h"
#include "runtime/messages.h"
#include "runtime/time.h"

namespace betterbox {

struct TransportEvent {
  enum Kind {
    kMessage,    ///< `message` arrived
    kClosed,     ///< the connection is over (peer gone, or it sent what is no message: see `reason`)
    kBroadcast,  ///< all of the broadcast `sequence` is there, or (`ok` false) it will not come
  };
  Kind kind = kMessage;
  ConnectionId connection;
  Message message;
  std::string reason;      ///< kClosed: for people
  bool malformed = false;  ///< kClosed because of bytes that are no message
  std::uint64_t sequence = 0;
  bool ok = false;
};

/// A process's part in a collective broadcast (docs/protocol.md, "MPI carrier").
struct BroadcastPart {
  std::uint64_t sequence = 0;
  std::vector<std::uint32_t> members;  ///< ranks; the first has the value
  std::shared_ptr<const void> memory;  ///< keeps `data`
  std::byte* data = nullptr;           ///< null: this process cannot take part
  std::size_t size = 0;
  bool whole = false;  ///< the value is there; else it is received
};

class Transport {
 public:
  virtual ~Transport() = default;

  /// Accepts connections at `endpoint` ("ipc:///path", "tcp://address:port", port 0: any that is free). Result: the
  /// endpoint with its port. Throws std::runtime_error if it cannot.
  virtual std::string listen(const std::string& endpoint) = 0;

  /// Starts to connect; failure shows as kClosed. What is sent meanwhile waits for the connection.
  virtual ConnectionId connect(const std::string& endpoint) = 0;

  /// Result: false if the connection is over (the message is dropped). Never blocks.
  virtual bool send(ConnectionId to, const Message& message) = 0;

  /// The next event, or nothing. Never blocks.
  virtual std::optional<TransportEvent> receive() = 0;

  /// Ends a connection; what was sent before is still delivered if the peer reads it within a second.
  virtual void close(ConnectionId connection) = 0;

  /// Bytes for this connection that have not left this process.
  virtual std::size_t unsent_bytes(ConnectionId /*connection*/) const { return 0; }
  /// How long the peer, which has too much unsent (kUnsentBytes), has taken nothing; 0: it has not.
  virtual Duration stalled_for(ConnectionId /*connection*/) const { return {}; }
  /// `source`, which connected here, is not read from while `target` has too much unsent (kUnsentBytes): what the one sends
  /// goes to the other.
  virtual void hold_until_drained(ConnectionId /*source*/, ConnectionId /*target*/) {}
  /// The process at the other end as the system knows it; 0: not of this host, or it cannot be told.
  virtual std::uint32_t process_of(ConnectionId /*connection*/) const { return 0; }
  /// Makes the files of its sockets again where somebody has removed or replaced them. Result: what was mended, or why it
  /// could not be; empty: nothing was amiss.
  virtual std::string mend_listeners() { return {}; }

  /// File descriptors whose readability means that receive() may have something.
  virtual std::vector<int> wait_fds() = 0;

  /// Messages dropped because they were malformed, over all connections, since the start.
  virtual std::uint64_t malformed_messages() const = 0;

  /// Where endpoints are ranks, values can be broadcast: see enter().
  virtual bool can_broadcast() const { return false; }
  /// Takes part in a broadcast. What is to be received ends in one kBroadcast, if there is memory for it.
  virtual void enter(BroadcastPart /*part*/) {}
  /// The value is not wanted any more; no event comes.
  virtual void leave(std::uint64_t /*sequence*/) {}
};

}  // namespace betterbox
