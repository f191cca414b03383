// Every message of the bus (docs/protocol.md, section "Messages"). Vocabulary only: how a message
// becomes bytes is codec.cc's business, who carries it a Transport's.
//
// A message is a body (one of the structs below) and payload frames, opaque bytes that nobody on the
// way looks into. A comment `frames:` says which frames a body goes with; the codec refuses others.
#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "runtime/deployment_messages.h"
#include "runtime/frame.h"
#include "runtime/ids.h"
#include "runtime/inquiry_messages.h"
#include "runtime/range.h"
#include "runtime/relay_message.h"
#include "runtime/value_messages.h"
#include "runtime/wait_messages.h"

namespace betterbox {

// --- greeting: the first message of each side of a connection --------------------------------------

enum class Role : std::uint8_t {
  kScheduler = 1,
  kWorker = 2,   ///< an agent whose slots are processes
  kBoxHost = 3,  ///< an agent inside a script: its slots are threads and cannot be killed
  kClient = 4,
};

/// A lease that a returning worker still holds: the items it has not delivered (acknowledged).
struct HeldLease {
  LeaseId lease;
  std::vector<Range> undelivered;
  template <class A> void serialize(A& a) { a(lease, undelivered); }
};

/// Opens a session, client -> scheduler, agent -> scheduler, and client -> agent.
struct Hello {
  Role role = Role::kClient;
  PeerId peer;
  std::uint64_t session = 0;  ///< counts this peer's connections to this listener, from 1
  std::string python;         ///< "3.11"; nothing depends on it
  std::string host;
  std::string boot_id;
  std::uint32_t pid = 0;
  std::string name;                  ///< for people: "w-1234", the script's name
  std::string endpoint;              ///< agents: where clients on its host reach it directly
  std::string network_endpoint;      ///< agents: where clients elsewhere do; empty: nowhere
  std::string log_folder;            ///< workers: where the output of slots goes
  bool background = false;           ///< does not keep a self-started bus alive
  std::vector<HeldLease> leases;     ///< agents that return
  std::vector<std::uint64_t> calls;  ///< clients that return: serials of unsettled calls
  std::string store;                 ///< the shared memory it uses (runtime/segment_pool.h); empty: none
  template <class A> void serialize(A& a) {
    a(role, peer, session, python, host, boot_id, pid, name, endpoint, network_endpoint, log_folder,
      background, leases, calls, store);
  }
};

/// What the scheduler knows of a returning client's call.
struct KnownCall {
  std::uint64_t serial = 0;
  std::uint64_t items = 0;  ///< items received so far: the client goes on from there
  template <class A> void serialize(A& a) { a(serial, items); }
};

/// Accepts a session. Calls of the Hello that are not named here are unknown: the client sends them again.
struct Welcome {
  PeerId peer;                ///< who answers
  std::uint64_t session = 0;  ///< of the Hello that this answers
  std::string host;
  std::uint32_t pid = 0;
  std::vector<LeaseId> dropped_leases;  ///< held by the agent, no longer wanted
  std::vector<KnownCall> calls;
  std::string store;  ///< agents: as in Hello
  template <class A> void serialize(A& a) { a(peer, session, host, pid, dropped_leases, calls, store); }
};

enum class RefusalCode : std::uint16_t {
  kVersion = 1,   ///< of earlier schedulers, for another Python; not sent
  kIdentity = 2,  ///< peer id in use, or role not allowed here
  kProtocol = 3,  ///< a message that is not allowed at this point
  kCapacity = 4,  ///< a limit was passed
  kEnding = 5,    ///< the receiver is shutting down
};

/// Ends a session with a reason; the sender closes the connection after it.
struct Refused {
  RefusalCode code = RefusalCode::kProtocol;
  std::string text;
  template <class A> void serialize(A& a) { a(code, text); }
};

/// A peer leaves on purpose: its leases, calls and boxes end at once.
struct Bye {
  template <class A> void serialize(A&) {}
};

/// Before Hello, peer -> scheduler: a secret that the peer drew for itself. Who comes again under its id shows the same one.
struct Proof {
  std::uint64_t high = 0;
  std::uint64_t low = 0;
  bool empty() const { return high == 0 && low == 0; }
  friend bool operator==(const Proof&, const Proof&) = default;
  template <class A> void serialize(A& a) { a(high, low); }
};

// --- resources -------------------------------------------------------------------------------------

/// An amount of a resource that users name, in thousandths.
struct Amount {
  std::string name;
  std::uint64_t milli = 0;
  template <class A> void serialize(A& a) { a(name, milli); }
};

/// The memory of an agent that does not say how much it has: never used up.
inline constexpr std::uint64_t kAnyMemory = ~std::uint64_t{0};

/// What one item needs while it runs, or what an agent has to give.
struct Resources {
  std::uint64_t cpus_milli = 0;  ///< cores, in thousandths
  std::uint64_t memory_bytes = 0;
  std::uint64_t gpus_milli = 0;  ///< devices, in thousandths
  std::vector<Amount> named;     ///< ascending names
  template <class A> void serialize(A& a) { a(cpus_milli, memory_bytes, gpus_milli, named); }
};

// --- boxes ----------------------------------------------------------------------------------------

enum MethodFlags : std::uint8_t { kPlainMethod = 0, kConcurrentMethod = 1, kAsyncMethod = 2 };

struct MethodInfo {
  std::string name;
  std::uint8_t flags = kPlainMethod;
  template <class A> void serialize(A& a) { a(name, flags); }
};

struct BoxInfo {
  BoxId box;
  Port port;
  std::string class_name;
  bool sandbox = false;  ///< methods may be injected: names not in `methods` may exist
  std::vector<MethodInfo> methods;
  template <class A> void serialize(A& a) { a(box, port, class_name, sandbox, methods); }
};

/// agent -> scheduler: what this agent gives the bus. Absolute for the slots, a change for the boxes
/// (a box named again replaces its earlier entry).
struct Offer {
  std::uint32_t function_slots = 0;
  std::vector<BoxInfo> joined;
  std::vector<BoxId> left;
  Resources capacity;
  template <class A> void serialize(A& a) { a(function_slots, joined, left, capacity); }
};

/// client -> scheduler: keep me told about the boxes at `port`. Answered with a snapshot at once.
struct Watch {
  Port port;
  template <class A> void serialize(A& a) { a(port); }
};
struct Unwatch {
  Port port;
  template <class A> void serialize(A& a) { a(port); }
};

struct BoxEntry {
  BoxInfo info;
  std::string endpoint;          ///< of its agent, on its host
  std::string network_endpoint;  ///< of its agent, elsewhere; empty: nowhere
  std::string host;
  std::uint32_t pid = 0;
  std::uint64_t joined = 0;  ///< order of joining on this bus
  template <class A> void serialize(A& a) { a(info, endpoint, network_endpoint, host, pid, joined); }
};

/// scheduler -> watching client. A snapshot replaces what the client knew of the port.
struct Boxes {
  Port port;
  bool snapshot = false;
  std::vector<BoxEntry> joined;
  std::vector<BoxId> left;
  template <class A> void serialize(A& a) { a(port, snapshot, joined, left); }
};

/// client -> agent: a direct call. frames: [arguments]
struct BoxCall {
  std::uint64_t serial = 0;
  BoxId box;
  std::string method;
  template <class A> void serialize(A& a) { a(serial, box, method); }
};
/// client -> agent: the result is no longer wanted; what has not started is dropped.
struct BoxCancel {
  std::uint64_t serial = 0;
  template <class A> void serialize(A& a) { a(serial); }
};
/// client -> agent on its host: serve this box through the lane (runtime/lane.h) that is `descriptor` of process
/// `pid`. Answered by a BoxReply with a lost item when the lane is over; ended by a BoxCancel.
struct OpenLane {
  std::uint64_t serial = 0;  ///< as of a BoxCall
  BoxId box;
  std::uint32_t pid = 0;
  std::uint32_t descriptor = 0;
  std::uint64_t nonce = 0;  ///< what lies in the lane: tells it from any other file
  template <class A> void serialize(A& a) { a(serial, box, pid, descriptor, nonce); }
};
/// agent -> client. frames: [one item (runtime/page.h)]
struct BoxReply {
  std::uint64_t serial = 0;
  template <class A> void serialize(A& a) { a(serial); }
};

// --- calls: client and scheduler --------------------------------------------------------------------

/// Items [first, first + count) that lie in the frame at the same place in `frames`.
struct PageSpan {
  std::uint64_t first = 0;
  std::uint64_t count = 0;
  template <class A> void serialize(A& a) { a(first, count); }
};

/// What a context is, by a digest of its bytes that its client made; zero: it has no name.
struct ContentId {
  std::uint64_t high = 0;
  std::uint64_t low = 0;
  explicit operator bool() const { return (high | low) != 0; }
  friend auto operator<=>(const ContentId&, const ContentId&) = default;
  template <class A> void serialize(A& a) { a(high, low); }
};

/// client -> scheduler: opens a call. frames: [context] (what runs: code and fixed arguments)
struct Call {
  std::uint64_t serial = 0;
  Port port;           ///< kFunctionPool, or the boxes that the items are spread over
  std::string method;  ///< a label for people and rates; what runs is in the context
  std::uint32_t retries = 0;
  bool idempotent = false;
  bool fold = false;            ///< `reduce`: outcomes are folds of ranges
  std::int64_t timeout_ns = 0;  ///< from the opening to the last outcome; 0: none
  std::string name;
  std::vector<Range> settled;  ///< a call sent again after a scheduler was lost: already delivered
  std::string policy;          ///< a name of runtime/policy.h; empty: "auto"
  std::int32_t priority = 0;   ///< higher ones are granted first
  Resources needs;             ///< of one item
  /// Work that copies of running items may add, in thousandths of the call's work; 0: no copies.
  /// Only with `idempotent`, for plain functions, without `fold`.
  std::uint32_t copies_permille = 0;
  bool durable = false;  ///< kept over a restart of the scheduler; answered by Accepted
  std::vector<CallValue>
      values;               ///< what all its items need; agents have them in their stores before they begin
  ContentId content;        ///< of the context: calls of one client with equal ones have equal contexts
  std::uint32_t depth = 0;  ///< calls that it is nested in: one more than that of the item that makes it
  template <class A> void serialize(A& a) {
    a(serial, port, method, retries, idempotent, fold, timeout_ns, name, settled, policy, priority, needs,
      copies_permille, durable, values, content, depth);
  }
};

/// client -> scheduler: items follow each other without gaps. frames: one page per span.
/// `closed`: no more will come; the call's size is the end of the last span (of all messages).
/// `costs`: empty, or what the user expects of each item of the spans, in any unit; none is negative or not finite.
struct Items {
  std::uint64_t serial = 0;
  std::vector<PageSpan> spans;
  bool closed = false;
  std::vector<float> costs;
  template <class A> void serialize(A& a) { a(serial, spans, closed, costs); }
};

/// scheduler -> client: a durable call is kept, and so are its items [0, items). From here on it is never lost.
struct Accepted {
  std::uint64_t serial = 0;
  std::uint64_t items = 0;
  template <class A> void serialize(A& a) { a(serial, items); }
};

/// client -> scheduler: items of `range` are no longer wanted. Those unsettled get a kCancelled
/// outcome; slots that run them are killed where they can be.
struct Cancel {
  std::uint64_t serial = 0;
  Range range;
  template <class A> void serialize(A& a) { a(serial, range); }
};

/// client -> scheduler: the call's memory may go; unsettled items are cancelled without outcomes.
struct Forget {
  std::uint64_t serial = 0;
  template <class A> void serialize(A& a) { a(serial); }
};

/// scheduler -> client. frames: one page per span. `ack` numbers these messages per client from 1, and again from 1
/// where the scheduler had forgotten the client (its Welcome names none of the client's calls).
/// A kSingle page whose item is `lost` may stand for many items: each item of its span has that outcome.
struct Results {
  std::uint64_t ack = 0;
  std::uint64_t serial = 0;
  std::vector<PageSpan> spans;
  template <class A> void serialize(A& a) { a(ack, serial, spans); }
};

/// Receiver of Results or Outcomes -> sender: all up to `ack` have arrived.
struct Acknowledge {
  std::uint64_t ack = 0;
  template <class A> void serialize(A& a) { a(ack); }
};

/// `first_ns`, `last_ns`: when its first and last outcome arrived, from the call's first grant (the scheduler's clock).
struct SlotStats {
  SeatId seat;
  std::uint64_t items = 0;
  std::int64_t busy_ns = 0;
  std::int64_t longest_ns = 0;
  std::int64_t first_ns = 0;
  std::int64_t last_ns = 0;
  template <class A> void serialize(A& a) { a(seat, items, busy_ns, longest_ns, first_ns, last_ns); }
};
struct AgentStats {
  PeerId agent;
  std::string name;
  std::string host;
  std::uint32_t pid = 0;
  std::uint32_t slots = 0;
  std::uint64_t items = 0;
  std::int64_t busy_ns = 0;
  std::int64_t first_ns = 0;  ///< as in SlotStats
  std::int64_t last_ns = 0;
  std::uint64_t retries = 0;      ///< items run again because a process here died
  std::uint64_t steals = 0;       ///< ranges it got that were cut from another lease or slot
  std::uint64_t outstanding = 0;  ///< items it holds now
  std::vector<SlotStats> seats;   ///< empty for calls over very many slots
  template <class A> void serialize(A& a) {
    a(agent, name, host, pid, slots, items, busy_ns, first_ns, last_ns, retries, steals, outstanding, seats);
  }
};
struct CallStats {
  std::uint64_t total = 0;  ///< items known so far
  bool closed = false;      ///< `total` is final
  std::uint64_t settled = 0;
  std::int64_t makespan_ns = 0;  ///< first grant to last outcome (so far)
  std::int64_t busy_ns = 0;
  std::int64_t longest_ns = 0;  ///< longest single item
  std::vector<AgentStats> agents;
  std::string waiting;  ///< why what waits is waiting; empty if nothing does
  std::string policy;
  std::uint64_t pending = 0;     ///< items that no agent has
  std::uint64_t leases = 0;      ///< ranges granted
  std::uint64_t splits = 0;      ///< of these cut while they ran, for another agent
  std::uint64_t copies = 0;      ///< items that were run twice at a time
  std::uint64_t copies_won = 0;  ///< whose copy was first
  std::int64_t wasted_ns = 0;    ///< work whose outcome was not wanted
  std::int64_t ideal_ns = 0;     ///< all work evenly over the slots, or the longest item
  std::int64_t greedy_ns =
      0;  ///< self-scheduling at no cost, of the measured times; 0: too many items to say
  template <class A> void serialize(A& a) {
    a(total, closed, settled, makespan_ns, busy_ns, longest_ns, agents, waiting, policy, pending, leases,
      splits, copies, copies_won, wasted_ns, ideal_ns, greedy_ns);
  }
};

/// scheduler -> client: every item of the (closed) call has an outcome, all of them sent before this.
struct Settled {
  std::uint64_t serial = 0;
  CallStats stats;
  template <class A> void serialize(A& a) { a(serial, stats); }
};

/// client -> scheduler, answered by Explanation.
struct Explain {
  std::uint64_t serial = 0;
  template <class A> void serialize(A& a) { a(serial); }
};
struct Explanation {
  std::uint64_t serial = 0;
  CallStats stats;
  template <class A> void serialize(A& a) { a(serial, stats); }
};

// --- leases: scheduler and agent --------------------------------------------------------------------

/// scheduler -> agent, once per call and agent, before its first lease. frames: [context], or none: the agent holds it
/// under the number `held`. With a frame, `held` is the number under which the agent is to keep it (0: only for this
/// call); numbers ascend. What is kept under the numbers in `dropped` goes first.
struct Context {
  CallId call;
  Port port;
  std::string method;
  bool fold = false;
  std::string policy;
  std::int32_t priority = 0;
  Resources needs;
  std::vector<CallValue> values;
  std::uint64_t held = 0;
  std::vector<std::uint64_t> dropped;
  std::uint32_t depth = 0;  ///< as of Call
  template <class A> void serialize(A& a) {
    a(call, port, method, fold, policy, priority, needs, values, held, dropped, depth);
  }
};

/// scheduler -> agent: run these items. frames: one page per span (pages may hold more than the range).
/// `costs`: empty, or one per item of the range. Outcomes leave at most once in `report_interval_ns`, but at once
/// when no more than `low_water` items of the call are left at the agent, so that more can be granted in time.
struct Lease {
  LeaseId lease;
  CallId call;
  Range range;
  std::uint32_t attempt = 0;
  std::vector<PageSpan> spans;
  std::vector<float> costs;
  std::uint64_t low_water = 0;
  std::int64_t report_interval_ns = 0;
  template <class A> void serialize(A& a) {
    a(lease, call, range, attempt, spans, costs, low_water, report_interval_ns);
  }
};

/// scheduler -> agent: give back at most `count` untouched items from the tail. Always answered.
struct Revoke {
  LeaseId lease;
  std::uint64_t count = 0;
  template <class A> void serialize(A& a) { a(lease, count); }
};
/// agent -> scheduler: these items are no longer mine (maybe none).
struct Released {
  LeaseId lease;
  std::vector<Range> ranges;
  template <class A> void serialize(A& a) { a(lease, ranges); }
};

/// scheduler -> agent: no outcome of these items is wanted; what runs of them is killed where it can be.
struct Abandon {
  LeaseId lease;
  Range range;
  template <class A> void serialize(A& a) { a(lease, range); }
};
/// scheduler -> agent: the call is over: its leases are abandoned, its context may go.
struct DropCall {
  CallId call;
  template <class A> void serialize(A& a) { a(call); }
};

/// How the process ended that ran an item.
struct DeathReport {
  std::int32_t signal = 0;  ///< 0: it exited
  std::int32_t exit_code = 0;
  std::string host;
  std::uint32_t pid = 0;
  std::uint64_t peak_kib = 0;
  std::string stderr_tail;
  template <class A> void serialize(A& a) { a(signal, exit_code, host, pid, peak_kib, stderr_tail); }
};

struct OutcomeSpan {
  std::uint64_t first = 0;
  std::uint64_t count = 0;
  std::int64_t busy_ns = 0;
  template <class A> void serialize(A& a) { a(first, count, busy_ns); }
};
/// What one seat did of the spans of one Outcomes.
struct SeatWork {
  SeatId seat;
  std::uint64_t items = 0;
  std::int64_t busy_ns = 0;
  double busy_squares = 0;  ///< sum of the squares of item times, in ns^2
  std::int64_t longest_ns = 0;
  template <class A> void serialize(A& a) { a(seat, items, busy_ns, busy_squares, longest_ns); }
};
struct LostItem {
  std::uint64_t index = 0;
  DeathReport death;
  template <class A> void serialize(A& a) { a(index, death); }
};

/// agent -> scheduler. frames: one page per span. `ack` numbers these messages per agent from 1.
/// `lost`: the process running these items died; they are no longer part of the lease.
struct Outcomes {
  std::uint64_t ack = 0;
  LeaseId lease;
  std::vector<OutcomeSpan> spans;
  std::vector<SeatWork> seats;
  std::vector<LostItem> lost;
  std::uint32_t steals = 0;  ///< cuts between the agent's own slots since its last Outcomes
  /// From the arrival of the lease to this message, so that the scheduler learns how long the way takes; 0: not said.
  std::int64_t held_ns = 0;
  template <class A> void serialize(A& a) { a(ack, lease, spans, seats, lost, steals, held_ns); }
};

/// agent -> scheduler: how the agent is. Sent when it changes, at most once a second but for a change of `paused`.
struct Load {
  std::uint32_t busy_slots = 0;
  std::uint32_t others_cpus_milli = 0;  ///< cores of its host that processes of others take, in thousandths
  std::uint64_t memory_bytes = 0;       ///< taken by its slots
  bool paused = false;                  ///< it starts nothing: too little memory is left, or it is `ending`
  bool ending = false;                  ///< it was told to end, or its allocation ends
  std::uint64_t time_left_ms = 0;       ///< for items to run, as of when this was sent; 0: no end is known
  std::uint32_t waiting_slots = 0;      ///< plain functions that wait for calls of their own
  bool lends = true;                    ///< others run in their places meanwhile
  template <class A> void serialize(A& a) {
    a(busy_slots, others_cpus_milli, memory_bytes, paused, ending, time_left_ms, waiting_slots, lends);
  }
};

// --- status ----------------------------------------------------------------------------------------

struct Status {
  template <class A> void serialize(A&) {}
};
struct PeerStatus {
  Role role = Role::kClient;
  PeerId peer;
  std::string name;
  std::string host;
  std::uint32_t pid = 0;
  std::uint32_t function_slots = 0;
  std::uint64_t leased_items = 0;
  std::string log_folder;
  bool connected = true;
  Resources capacity;
  Load load;
  template <class A> void serialize(A& a) {
    a(role, peer, name, host, pid, function_slots, leased_items, log_folder, connected, capacity, load);
  }
};
struct CallStatus {
  CallId call;
  Port port;
  std::string method;
  std::string name;
  std::uint64_t total = 0;
  std::uint64_t settled = 0;
  std::uint64_t running = 0;
  template <class A> void serialize(A& a) { a(call, port, method, name, total, settled, running); }
};
struct Counter {
  std::string name;
  std::uint64_t value = 0;
  template <class A> void serialize(A& a) { a(name, value); }
};
/// The scheduler's clock, in microseconds since 1970, among the counters of a report.
inline constexpr const char* kClockCounter = "clock_us";
struct StatusReport {
  PeerStatus scheduler;
  std::int64_t uptime_ns = 0;
  std::vector<PeerStatus> peers;
  std::vector<BoxEntry> boxes;
  std::vector<CallStatus> calls;
  std::vector<Counter> counters;  ///< e.g. malformed_messages, stale_outcomes, sessions_ended
  std::vector<ValueStatus> values;
  template <class A> void serialize(A& a) { a(scheduler, uptime_ns, peers, boxes, calls, counters, values); }
};

// --- all of them -----------------------------------------------------------------------------------

/// The order is the wire number (from 1): append only.
using AnyBody = std::variant<Hello, Welcome, Refused, Bye, Offer, Watch, Unwatch, Boxes, BoxCall, BoxCancel,
                             BoxReply, Call, Items, Cancel, Forget, Results, Acknowledge, Settled, Explain,
                             Explanation, Context, Lease, Revoke, Released, Abandon, DropCall, Outcomes,
                             Deploy, Host, Hosted, Deployed, Undeploy, Status, StatusReport, Accepted, Load,
                             OpenLane, Hold, Drop, Keep, Kept, Discard, Locate, Source, Fetch, Chunk, Fetched,
                             Broadcast, Relay, Waits, Deadlock, Proof, Inquire, Begun>;

/// The special members of so large a variant are much code: it is compiled once, not in every file that moves messages.
class Body : public AnyBody {
 public:
  Body();
  template <class T>
  requires(!std::derived_from<std::remove_cvref_t<T>, AnyBody>) Body(T&& alternative)
      : AnyBody(std::forward<T>(alternative)) {}
  Body(const Body& other);
  Body(Body&& other) noexcept;
  Body& operator=(const Body& other);
  Body& operator=(Body&& other) noexcept;
  ~Body();
};

struct Message {
  Body body;
  Frames frames;
};

/// "Hello", "Lease", ...: for logs and docs.
const char* kind_name(const Body& body);

}  // namespace betterbox
