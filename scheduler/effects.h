// What the scheduler wants done: imperatives, to be carried out in their order.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "runtime/ids.h"
#include "runtime/messages.h"
#include "scheduler/records.h"

namespace betterbox::scheduler {

struct SendMessage {
  ConnectionId connection;
  Message message;
};

/// Close the connection; what was sent before still goes. Nothing more is expected from it.
struct EndConnection {
  ConnectionId connection;
};

/// An agent of this host died without removing its socket. The path comes from that agent: the driver
/// removes it only if it lies in the bus's socket folder.
struct RemoveSocket {
  std::string path;
};

/// Answer with a Chunk (whose `peer` is this scheduler) what the scheduler's own store has of a value.
struct ReadValue {
  ConnectionId connection;
  ValueId value;
  std::uint64_t offset = 0;
  std::uint64_t count = 0;
};

/// Begin a broadcast of what the scheduler's own store has.
struct GiveValue {
  Broadcast broadcast;
};

/// The scheduler has nothing left to do: end the process.
struct Stop {
  std::string reason;
};

using Effect = std::variant<SendMessage, EndConnection, RemoveSocket, ReadValue, GiveValue, Stop>;

/// Ordering contract: everything in `persist` must be committed, in this order, before anything in `send` is carried
/// out. A driver may commit the records of several turns at once, if it holds back the effects of all of them until
/// then. After a commit that failed or is unknown nothing may be sent: the process ends, and the next incarnation
/// is built from the records there are. Only durable calls make records, and only with Config::journal.
struct Effects {
  std::vector<Record> persist;
  std::vector<Effect> send;  ///< in this order
};

}  // namespace betterbox::scheduler
