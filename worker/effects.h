// Effects of the worker core: imperatives for its driver (worker/agent.cc), to be carried out in order.
// A worker persists nothing: what it holds is reconciled when a session begins.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "worker/events.h"

namespace betterbox {

/// Make a slot sit here: a process forked from the template, or (in a script) the thread that waits for
/// this seat. Its first record is kInit with `head` and then `payload`.
struct SpawnSeat {
  SeatId seat;
  std::uint32_t life = 0;
  std::string head;
  Frame payload;
};
/// Kill the process and report its end: SeatDied follows.
struct KillSeat {
  SeatId seat;
};
/// Kill an idle process and forget it: nothing is reported of this life any more.
struct DiscardSeat {
  SeatId seat;
};
/// Ask the slot to stop: SeatStopped and (for processes) SeatDied follow.
struct StopSeat {
  SeatId seat;
};
struct SendContext {
  SeatId seat;
  CallId call;
  bool fold = false;
  Frame frame;
  std::uint32_t depth = 0;  ///< calls that it is nested in
};
struct DropContext {
  SeatId seat;
  CallId call;
};
/// Part of a page: items [first, first + count) of the call.
struct PagePart {
  std::uint64_t first = 0;
  std::uint64_t count = 0;
  Frame page;
};
struct InstallLease {
  SeatId seat;
  std::uint32_t station = 0;
  std::uint32_t generation = 0;
  CallId call;
  std::uint64_t base = 0;
  std::uint32_t count = 0;
  bool fold = false;
  std::vector<PagePart> pages;
};
/// Have these values in this host's shared memory, then say ValuesArrived, also if some cannot be had.
struct GetValues {
  CallId call;
  std::vector<CallValue> values;
};
/// Cut at most `count` untouched items off the tail; report CutDone in the same turn.
struct CutLease {
  SeatId seat;
  std::uint32_t station = 0;
  std::uint32_t count = 0;
};
struct CallSeat {
  SeatId seat;
  std::uint64_t token = 0;
  std::string method;
  Frame arguments;
  bool express = false;  ///< runs beside other calls
};
/// The slot is to serve a lane; CancelSeatCall with its token ends it.
struct OpenSeatLane {
  SeatId seat;
  std::uint64_t token = 0;
  std::uint32_t pid = 0;
  std::uint32_t descriptor = 0;
  std::uint64_t nonce = 0;
};
struct CancelSeatCall {
  SeatId seat;
  std::uint64_t token = 0;
};
struct SendToScheduler {
  Message message;
};
struct ReplyToClient {
  ClientRef client;
  std::uint64_t serial = 0;
  Frame item;
};
/// The client broke a rule: tell it and end its connection.
struct RefuseClient {
  ClientRef client;
  Refused refused;
};
/// For whoever waits for this seat's box.
struct SeatReport {
  enum Kind { kOffered, kFailed, kClosed };
  SeatId seat;
  Kind kind = kOffered;
  Frame error;  ///< one error item or empty
};
/// The boxes that the command line asked for are offered, or (ok == false) could not be made.
struct HostingReport {
  bool ok = true;
  Frame error;
};
/// For the log.
struct LogLine {
  std::string text;
};
/// StopAsked is carried out: no seat is occupied any more.
struct Stopped {};

using Effect =
    std::variant<SpawnSeat, KillSeat, DiscardSeat, StopSeat, SendContext, DropContext, InstallLease, CutLease,
                 CallSeat, OpenSeatLane, CancelSeatCall, SendToScheduler, ReplyToClient, RefuseClient,
                 SeatReport, HostingReport, LogLine, GetValues, Stopped>;

struct Effects {
  std::vector<Effect> send;
};

}  // namespace betterbox
