// What happens to the scheduler: past facts, told by its driver (or a simulator) one after the other.
#pragma once

#include <string>
#include <variant>

#include "runtime/ids.h"
#include "runtime/messages.h"

namespace betterbox::scheduler {

/// A whole message arrived on a connection. The first one of each connection is its Hello.
struct MessageArrived {
  ConnectionId connection;
  Message message;
};

/// The connection is over; nothing more comes from it.
struct ConnectionEnded {
  ConnectionId connection;
  std::string reason;      ///< for people
  bool malformed = false;  ///< it ended because of bytes that are no message
};

/// The peer's process is known to be dead (the driver can tell for processes on its own host). What it sent
/// before may still arrive; once its connection has ended, it is gone at once, without the reconnect grace.
struct ProcessEnded {
  PeerId peer;
};

/// The time asked for by next_deadline() has come.
struct DeadlineReached {};

/// A signal, or the bus file is gone: end cleanly.
struct StopRequested {
  std::string reason;
};

using Event = std::variant<MessageArrived, ConnectionEnded, ProcessEnded, DeadlineReached, StopRequested>;

}  // namespace betterbox::scheduler
