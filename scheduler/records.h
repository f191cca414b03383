// Records: what a scheduler keeps of durable calls, so that its next incarnation goes on where it was lost
// (docs/architecture.md, "Durable calls"). Past facts; replayed in their order they rebuild the calls, with
// every item pending but those settled, and the results that their clients have not acknowledged.
//
// Not kept: leases (agents drop those of another scheduler; what still comes of them is stale), statistics and
// measured times, and anything of calls that are not durable. A call's timeout counts again from the restart.
//
// Compaction: records_of() gives the fewest records that rebuild the present state. A journal may at any time
// replace all it has by them.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "runtime/frame.h"
#include "runtime/ids.h"
#include "runtime/messages.h"

namespace betterbox::scheduler {

/// A client has a durable call; stands before the first record of its calls.
struct ClientKnown {
  PeerId client;
  std::string host;
  std::string boot_id;
  std::uint32_t pid = 0;
  std::string name;
  bool background = false;
};

/// Nothing of the client is kept any more.
struct ClientForgotten {
  PeerId client;
};

/// `call.settled` may name items that were settled before.
struct CallOpened {
  CallId id;
  Call call;
  Frame context;
};

/// One page per span, as in the message; perhaps only `closed`.
struct ItemsAppended {
  CallId id;
  Items items;
  Frames pages;
};

/// Processes died `deaths` times with an item that waits to be tried again.
struct ItemDied {
  CallId id;
  std::uint64_t index = 0;
  std::uint32_t deaths = 0;
};

/// The call's time is over: items that still come are settled at once.
struct CallTimedOut {
  CallId id;
};

/// Items were settled: their outcome pages, as the client gets them and under the same number.
struct ItemsSettled {
  PeerId client;
  Results results;
  Frames pages;
};

/// The client has all results up to this number; their pages are not needed any more.
struct ResultsAcknowledged {
  PeerId client;
  std::uint64_t ack = 0;
};

/// The call is gone; results of it that are not acknowledged stay.
struct CallForgotten {
  CallId id;
};

using Record = std::variant<ClientKnown, ClientForgotten, CallOpened, ItemsAppended, ItemDied, CallTimedOut,
                            ItemsSettled, ResultsAcknowledged, CallForgotten>;

}  // namespace betterbox::scheduler
