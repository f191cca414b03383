// Events of the worker core: past facts, as its driver (worker/agent.cc) reports them.
//
// Vocabulary: a *seat* is a place for one slot. A seat lives several times; each process (or thread)
// that sits in it has a `life`, and what an earlier life says is stale. A *station* is one of the two
// places for a part of a lease in a seat: one runs, one waits.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "runtime/frame.h"
#include "runtime/ids.h"
#include "runtime/messages.h"
#include "runtime/range_word.h"
#include "runtime/time.h"

namespace betterbox {

/// A client that is connected to this agent directly.
using ClientRef = StrongId<struct ClientRefTag>;

// --- the scheduler ------------------------------------------------------------------------------

/// The scheduler accepted this agent: everything is offered again, unacknowledged outcomes are sent again.
/// Another scheduler than last time: its predecessor's leases are void.
struct SessionBegan {
  PeerId scheduler;
  std::vector<LeaseId> dropped_leases;
};
struct SessionEnded {};
struct ContextArrived {
  Context context;
  Frame frame;
};
struct LeaseGranted {
  Lease lease;
  Frames pages;
};
struct RevokeAsked {
  LeaseId lease;
  std::uint64_t count = 0;
};
struct ItemsAbandoned {
  LeaseId lease;
  Range range;
};
struct CallDropped {
  CallId call;
};
/// The answer to GetValues: the call may begin. Items that need what could not be had will say so themselves.
struct ValuesArrived {
  CallId call;
};
struct AcknowledgeArrived {
  std::uint64_t ack = 0;
};
struct HostAsked {
  Host host;
  Frame box;
  bool at_start = false;  ///< by the worker's command line, not by a client
};
struct UndeployAsked {
  CallId deployment;
};

// --- clients ------------------------------------------------------------------------------------

struct BoxCallArrived {
  ClientRef client;
  BoxCall call;
  Frame arguments;
};
struct LaneAsked {
  ClientRef client;
  OpenLane lane;
};
struct BoxCallCancelled {
  ClientRef client;
  std::uint64_t serial = 0;
};
struct ClientGone {
  ClientRef client;
  bool took_leave = false;  // it said Bye: what it called goes on
};

// --- seats --------------------------------------------------------------------------------------

/// A script serves a box: its slot will be a thread of this process. The seat is WorkerCore::next_seat().
struct SeatOpened {
  Port port;
  Frame payload;
};
struct SeatCloseAsked {
  SeatId seat;
};
struct SeatReady {
  SeatId seat;
  std::uint32_t life = 0;
  std::string class_name;
  bool sandbox = false;
  std::vector<MethodInfo> methods;
};
/// The slot could not be made; `error` is one error item. Its process ends by itself (SeatDied follows).
struct SeatFailed {
  SeatId seat;
  std::uint32_t life = 0;
  Frame error;
};
/// A slot that was asked to stop has saved and says nothing more. `error`: empty, or one error item.
struct SeatStopped {
  SeatId seat;
  std::uint32_t life = 0;
  Frame error;
};
/// Outcomes of items [first, first + count) of a station, as offsets, on one page.
struct SeatProgressed {
  SeatId seat;
  std::uint32_t life = 0;
  std::uint32_t station = 0;
  std::uint32_t generation = 0;
  std::uint32_t first = 0;
  std::uint32_t count = 0;
  std::int64_t busy_ns = 0;
  double busy_squares = 0;  ///< sum of the squares of item times, in ns^2
  std::int64_t longest_ns = 0;
  Frame page;
};
struct SubLeaseDone {
  SeatId seat;
  std::uint32_t life = 0;
  std::uint32_t station = 0;
  std::uint32_t generation = 0;
};
struct SeatReplied {
  SeatId seat;
  std::uint32_t life = 0;
  std::uint64_t token = 0;
  Frame item;
};
/// The outcome of call `serial` that came through the lane `token` and is too large to go back through it.
struct LaneReplied {
  SeatId seat;
  std::uint32_t life = 0;
  std::uint64_t token = 0;
  std::uint64_t serial = 0;
  Frame item;
};
/// What runs in a seat begins (or ends) to wait for calls of its own.
struct SeatWaits {
  SeatId seat;
  std::uint32_t life = 0;
  bool waits = false;
};
/// The answer to CutLease, in the same turn. `cut` and `position` are offsets; `done` items have outcomes.
struct CutDone {
  SeatId seat;
  std::uint32_t station = 0;
  Position cut;
  Position position;
  std::uint32_t done = 0;
};
/// The process of a seat is gone; all that it had published was reported before.
struct SeatDied {
  struct StationEnd {
    std::uint32_t generation = 0;
    std::uint32_t done = 0;
    Position position;
  };
  SeatId seat;
  std::uint32_t life = 0;
  DeathReport death;
  std::array<StationEnd, 2> stations;
};

// --- the driver itself -----------------------------------------------------------------------------

/// How this machine is, about once a second. `others_cpus_milli`: cores that processes of others take, in
/// thousandths; `memory_bytes`: taken by the slots; `paused`: nothing may start, since little memory is left or the agent is
/// `ending`; `time_left`: for items to run, 0 without an end.
struct LoadSampled {
  std::uint32_t others_cpus_milli = 0;
  std::uint64_t memory_bytes = 0;
  bool paused = false;
  bool ending = false;
  Duration time_left{};
};
/// Nothing more is there to report now: work is divided, outcomes leave, timers fire.
struct TurnEnded {};
/// The agent is to end: boxes save and stop, everything else ends at once.
struct StopAsked {};

using Event =
    std::variant<SessionBegan, SessionEnded, ContextArrived, LeaseGranted, RevokeAsked, ItemsAbandoned,
                 CallDropped, ValuesArrived, AcknowledgeArrived, HostAsked, UndeployAsked, BoxCallArrived,
                 BoxCallCancelled, ClientGone, SeatOpened, SeatCloseAsked, SeatReady, SeatFailed, SeatStopped,
                 SeatProgressed, SubLeaseDone, SeatReplied, LaneAsked, LaneReplied, SeatWaits, CutDone,
                 SeatDied, LoadSampled, TurnEnded, StopAsked>;

}  // namespace betterbox
