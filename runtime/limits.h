// Every bound of the system in one place, each with its reason.
#pragma once

#include <cstddef>
#include <cstdint>

#include "runtime/time.h"

namespace betterbox {

// --- the wire -------------------------------------------------------------------------------------
inline constexpr std::uint32_t kMagic = 0x31584242;  ///< "BBX1" as little-endian bytes
inline constexpr std::uint16_t kProtocolVersion = 3;
/// A message body holds ids, names and numbers, no user data: a megabyte is a hundred times the usual.
inline constexpr std::size_t kMaxBodyBytes = 4U << 20;
/// Payload frames of one message: a lease may carry many small pages.
inline constexpr std::size_t kMaxFrames = 4096;
/// One frame may hold one large user value.
inline constexpr std::size_t kMaxFrameBytes = std::size_t{64} << 30;

/// Connections that wait to be accepted: all peers of a bus may come at once.
inline constexpr int kListenBacklog = 4096;

// --- pages ----------------------------------------------------------------------------------------
/// A page is closed when it reaches this size: large enough to amortise a message (tens of us),
/// small enough that credit and slicing stay fine-grained. One larger item is a page of its own.
inline constexpr std::size_t kPageBytes = 256U << 10;
/// Items whose expected costs are known, per page: a message of such pages stays below kMaxBodyBytes.
inline constexpr std::uint64_t kMaxCostsPerPage = 256U << 10;
/// Unanswered inquiries about one call: each thread of its client may have one, in as many messages as its ranges need. With
/// one more the oldest is answered with what is known.
inline constexpr std::size_t kMaxInquiries = 64;
/// Ranges of one Inquire: its message stays below kMaxBodyBytes.
inline constexpr std::size_t kMaxInquiryRanges = 64U << 10;
/// Items of one lease are counted in 32 bits in the range word.
inline constexpr std::uint64_t kMaxLeaseItems = std::uint64_t{1} << 30;
/// Payload bytes of one lease: what a worker must be able to hold per lease (at least one item goes).
inline constexpr std::size_t kMaxLeaseBytes = 16U << 20;

// --- large values in shared memory ----------------------------------------------------------------
/// Buffers from this size on travel in segments: below it a file and a mapping cost more than the copies.
inline constexpr std::size_t kSegmentMinBytes = 64U << 10;
/// The same for all buffers of one item: as large as a page of small ones.
inline constexpr std::size_t kSharedItemMinBytes = 256U << 10;
/// One process takes at most this share (one over it) of the shared memory's size.
inline constexpr std::uint64_t kSegmentShare = 4;
/// And no process takes the last part (one over it) of the shared memory.
inline constexpr std::uint64_t kSegmentReserve = 8;
/// Segments without a user that a process keeps: copying into warm memory is ten times as fast as into fresh.
inline constexpr std::uint64_t kWarmSegmentBytes = 512U << 20;
/// Files of one pool, and files that a process holds of others: each is a descriptor. Beyond it bytes are copied.
inline constexpr std::size_t kMaxSegments = 256;
/// Bytes in shared memory of items that were fed and have no outcome: a generator's feeder waits beyond it.
inline constexpr std::uint64_t kSharedItemWindowBytes = 512U << 20;
/// A value that was sent and not taken for this long is lost: no live peer takes so long.
inline constexpr Duration kUntakenSegmentLife = seconds(60);
/// Segments that nobody has used for this long are removed.
inline constexpr Duration kIdleSegmentLife = seconds(30);
/// How often an agent removes what dead processes of its host left: with the time above, how long that may stay.
inline constexpr Duration kSegmentSweepInterval = seconds(30);
/// How often an idle process that has segments looks at them.
inline constexpr Duration kSegmentLookInterval = seconds(10);

/// A value goes from store to store in chunks of this size, so many of them under way: enough to keep a link busy.
inline constexpr std::uint64_t kValueChunkBytes = 1U << 20;
inline constexpr std::size_t kValueWindow = 4;
/// Copies that one store gives at a time. Those who wait find more stores that have the value: a tree, not a star.
inline constexpr std::uint32_t kTransfersPerStore = 2;
/// A copy that was fetched for a call, and of which the scheduler knows no holder, is kept for so long.
inline constexpr Duration kUnheldValueLife = seconds(60);
/// Values of calls from this size on are broadcast where endpoints are ranks; smaller ones are fetched.
inline constexpr std::uint64_t kBroadcastMinBytes = 1U << 20;
/// An agent that hears nothing of a value which it is to get looks for it by itself after this.
inline constexpr Duration kBroadcastNotice = seconds(1);
/// Values that one agent keeps: each is a descriptor, and must not become a copy in its own memory (kMaxSegments).
inline constexpr std::size_t kMaxKeptValues = 192;
/// Values that a call may name. Slots find the others by themselves, when they come to them.
inline constexpr std::size_t kMaxCallValues = 256;
/// Values that one peer may hold: beyond a million its Refs are an error, not data.
inline constexpr std::size_t kMaxHeldValues = 1U << 20;

// --- credit: every queue has a bound ---------------------------------------------------------------
/// Item bytes that a client may have unsettled at the scheduler (at least one page goes).
inline constexpr std::size_t kItemWindowBytes = 64U << 20;
/// Result bytes that the scheduler may have unacknowledged at a client before it stops granting
/// that client's calls and cuts their leases.
inline constexpr std::size_t kResultWindowBytes = 64U << 20;
/// Outcome bytes that a worker may have unacknowledged at the scheduler before it stops emptying
/// its slots' rings (the slots then wait).
inline constexpr std::size_t kOutcomeWindowBytes = 64U << 20;
/// A receiver acknowledges at the latest after this many bytes.
inline constexpr std::size_t kAckEveryBytes = 1U << 20;
/// Direct calls of one client that may wait at one agent; further ones wait in the client.
inline constexpr std::size_t kMaxDirectCallsInFlight = 1024;
/// The same where they go through the scheduler, which keeps them until the agent's connection takes them.
inline constexpr std::size_t kMaxRelayedCallsInFlight = 64;
/// Bytes of these; one that has more goes alone.
inline constexpr std::size_t kMaxRelayedBytesInFlight = 32U << 20;
/// Each direction of a lane. What is larger than half of it takes the other way.
inline constexpr std::size_t kLaneRingBytes = 64U << 10;
/// How long either end of a lane looks for the next record before it sleeps: about what the other end does between
/// two calls in a loop.
inline constexpr Duration kLaneSpin = microseconds(40);
/// Items of a generator call that may be out (pulled and not yet taken by the user).
inline constexpr std::uint64_t kGeneratorWindowItems = 64U << 10;
/// Leases that one worker may hold: two per slot keep a slot busy while a result travels.
inline constexpr std::size_t kMaxLeasesPerSlot = 2;
inline constexpr std::size_t kMinLeasesPerWorker = 64;

// --- answers that nobody reads -----------------------------------------------------------------------
/// Who listens reads nothing from a connection that has so much unsent until half of it has left. Only who listens holds
/// back, so two never wait for each other. Results to a fast reader stay below it most of the time.
inline constexpr std::size_t kUnsentBytes = 32U << 20;
/// What a message costs beside its bytes, so that many small ones are bounded, too.
inline constexpr std::size_t kMessageCost = 1U << 10;
/// What such a connection sends meanwhile where it cannot be stopped (ZeroMQ reads all connections of a socket): the
/// windows of items and of relayed calls fit. Beyond it the connection is ended.
inline constexpr std::size_t kMaxHeldBytes = 128U << 20;
/// Chunks of values for a peer that has so much unsent are dropped: it asks again when it can take them.
inline constexpr std::size_t kMaxUnsentChunks = 64U << 20;
/// A connection that holds so much back and takes nothing for this long is ended; the time grows by what a slow link
/// (bytes a second) needs for one large message.
inline constexpr Duration kDrainPatience = seconds(10);
inline constexpr std::size_t kSlowestDrain = 1U << 20;
/// Messages read before the end of a connection is acted upon, in one turn; with more of them it waits.
inline constexpr int kMaxArrivals = 4096;
/// A client, whose calls under way are counted but not the bytes of their replies, is ended when it has so many of these unsent
/// and takes nothing for a moment. One that reads slowly may have more: it has asked for them.
inline constexpr std::size_t kMaxReplyBytes = 64U << 20;
inline constexpr Duration kReplyPatience = seconds(1);

// --- open doors ----------------------------------------------------------------------------------------
/// Links taken in at one look, so that no crowd at the door stops what goes on inside.
inline constexpr int kAcceptsPerTurn = 64;
/// Links whose connections are not known yet; beyond it the oldest goes, and its peer goes on without one.
inline constexpr std::size_t kMaxHalfOpenLinks = 4096;
/// A connection whose link has not come after this does without.
inline constexpr Duration kLinkPatience = seconds(1);
/// Without descriptors links are not taken in again before this.
inline constexpr Duration kAcceptPause = seconds(1);

// --- contexts: sent once per agent ------------------------------------------------------------------
/// Contexts of these sizes are named by their content, so that a later call need not send an equal one again. Below it
/// the bytes cost less than the looking up; above it hashing costs more than a copy: such values go through segments.
inline constexpr std::size_t kContentMinBytes = 4U << 10;
inline constexpr std::size_t kContentMaxBytes = 1U << 20;
/// What one agent keeps of these beyond its open calls; the oldest go first.
inline constexpr std::size_t kMaxHeldContexts = 64;
inline constexpr std::size_t kMaxHeldContextBytes = 16U << 20;

// --- liveness -------------------------------------------------------------------------------------
/// ZMTP heartbeats: sent each interval; a connection without any for the bound is over.
inline constexpr Duration kHeartbeatInterval = seconds(1);
/// The liveness bound: whoever was not heard of for this long counts as gone.
inline constexpr Duration kLivenessBound = seconds(5);
/// How long a peer's leases and calls wait for it to come back after its connection ended
/// (a process that died on this host is known dead at once and does not wait).
inline constexpr Duration kReconnectGrace = seconds(5);
/// How long a peer looks for a scheduler that it has lost, on the same host and over the network: there it may be the
/// way that is cut.
inline constexpr Duration kReturnPatience = seconds(10);
inline constexpr Duration kNetworkReturnPatience = seconds(60);
/// A scheduler that started by itself ends when its last peer has been gone for this long.
inline constexpr Duration kIdleSchedulerLife = seconds(60);
/// But whoever has started it is waited for at least this long.
inline constexpr Duration kFirstPeerPatience = seconds(10);
/// Items of a spread call wait this long for a box at a port that has none left.
inline constexpr Duration kNoBoxGrace = seconds(5);
/// How long a link over the network may take to be up before the next way is taken: the last is through the scheduler.
inline constexpr Duration kReachTimeout = seconds(1);
/// How long use_box waits for boxes unless told otherwise.
inline constexpr Duration kDefaultBoxTimeout = seconds(3);
/// A worker that found outcomes looks again after this time before it asks the slots to ring for the next
/// one: bounds its wake-ups to 1/interval while items are short.
inline constexpr Duration kDrainInterval = milliseconds(10);

/// Outcomes of one agent leave at most once in this time, and in large pools more rarely: all agents together
/// send the scheduler at most one message in kReportCost.
inline constexpr Duration kReportInterval = milliseconds(10);
inline constexpr Duration kReportCost = microseconds(100);

// --- descriptors -----------------------------------------------------------------------------------
/// The soft limit is raised to at most this: a direct connection takes four, so this is enough for ten thousand, and
/// programs that walk through all numbers up to the limit still end.
inline constexpr std::uint64_t kMaxDescriptors = 64U << 10;
/// Who has fewer left lets no new peer in: what is on its way in, and files that must be read, still find some.
inline constexpr std::size_t kReservedDescriptors = 64;

// --- slots ----------------------------------------------------------------------------------------
inline constexpr std::size_t kInboxBytes = 256U << 10;   ///< worker to slot: contexts, leases, calls
inline constexpr std::size_t kExpressBytes = 64U << 10;  ///< worker to slot: concurrent and async calls
inline constexpr std::size_t kOutboxBytes = 512U << 10;  ///< slot to worker: outcomes
inline constexpr std::uint32_t kMaxSlots = 4096;
/// Seats that a worker makes beyond its slots while items wait for calls of their own. Each is a process of some
/// megabytes; a recursion takes one for each level and slot.
inline constexpr std::uint32_t kMaxWaitingSeats = 512;
/// Calls in calls in calls: beyond it an item's call is refused. It stands for a recursion without an end.
inline constexpr std::uint32_t kMaxCallDepth = 200;
/// A wait that lasts longer gives the place of its item away: what is shorter costs less than a hand-over.
inline constexpr Duration kWaitGrace = milliseconds(2);
/// A wait of a box or an item that lasts longer is told to the scheduler, which sees whether it goes round in a cycle.
inline constexpr Duration kDeadlockGrace = milliseconds(100);
/// A place that was lent and that no deeper call wants goes to others after this, and each further one so much later.
inline constexpr Duration kLentPatience = seconds(1);
/// A seat beyond the slots that has been idle for this long gives its memory back.
inline constexpr Duration kSpareSeatLife = seconds(10);
/// Deaths of processes that one item may cause before it is poisoned, unless `retries` says otherwise.
inline constexpr std::uint32_t kDefaultRetries = 2;
/// The tail of a slot's stderr that a worker keeps for error messages.
inline constexpr std::size_t kStderrTailBytes = 4096;
/// How long a slot that was asked to stop may take before it is killed.
inline constexpr Duration kSlotStopGrace = seconds(5);

}  // namespace betterbox
