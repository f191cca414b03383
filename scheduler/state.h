// The tables of the scheduler, and the indices over them. Each index is kept by one `reindex` function, so a
// scheduling step costs a few tree look-ups, however many workers there are. Every container is ordered:
// nothing depends on hashing. sanity_check() compares all tables with each other.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "runtime/ids.h"
#include "runtime/limits.h"
#include "runtime/messages.h"
#include "runtime/policy.h"
#include "runtime/resources.h"
#include "runtime/time.h"
#include "scheduler/call_items.h"
#include "scheduler/contents.h"
#include "scheduler/effects.h"
#include "scheduler/fair_queue.h"
#include "scheduler/list.h"
#include "scheduler/load_index.h"
#include "scheduler/lookup.h"
#include "scheduler/round_trip.h"
#include "scheduler/value_table.h"
#include "scheduler/wait_table.h"
#include "scheduler/work_done.h"

namespace betterbox::scheduler {

/// Constant over the life of a scheduler.
struct Config {
  PeerId peer;  ///< this incarnation
  std::string host;
  std::string boot_id;
  std::uint32_t pid = 0;
  std::string name = "scheduler";
  bool journal = false;               ///< the driver keeps records: durable calls are accepted
  Duration idle_life{0};              ///< ends when no peer has been there for this long; 0: never
  std::string store;                  ///< the shared memory that the driver reads; empty: none
  std::optional<std::uint32_t> rank;  ///< among endpoints that are ranks: the driver can broadcast values
};

struct Peer;
struct CallState;
struct LeaseState;
struct Share;

/// What a member can run at a time, whatever its items need. One of a call of which n fit takes the n-th part.
inline constexpr std::uint64_t kWhole = 1 << 20;
inline constexpr std::uint64_t part_of_whole(std::uint64_t fitting) {
  return std::max<std::uint64_t>(1, kWhole / std::max<std::uint64_t>(1, fitting));
}

/// An agent's part in a pool.
struct Member {
  Peer* agent = nullptr;
  Port port;
  std::uint32_t slots = 0;
  std::uint64_t outstanding = 0;  ///< items in its leases, over all calls of the pool
  std::uint64_t filled = 0;       ///< by these, of kWhole: with more, some of them wait for others
  std::size_t leases = 0;
  bool stealing = false;  ///< a revoke on its behalf is in flight
  /// So many items are done before others can come from afar: with fewer left it looks for more; 0: it is near.
  std::uint64_t reserve = 0;
  // Kept by State::reindex.
  bool grantable = false;
  int bucket = -1;  ///< in Pool::by_load; -1: not grantable
  std::uint64_t free_slots = 0;
  Link<Member> in_bucket, in_idle, in_crowded, in_dirty;
};

struct LeaseState {
  LeaseId id;
  CallState* call = nullptr;
  Member* member = nullptr;
  Share* share = nullptr;
  Range range;
  std::uint32_t attempt = 0;
  std::uint64_t part = 0;  ///< of kWhole, that one item takes
  RangeSet open;           ///< its items that have no outcome and were not given back
  TimePoint granted;
  std::uint64_t session = 0;       ///< of the agent, then
  bool revoking = false;           ///< a Revoke is unanswered
  bool whole = false;              ///< it asks for everything untouched
  bool nothing_to_revoke = false;  ///< the last one was answered with nothing; until the lease changes
  PeerId thief;                    ///< on whose behalf
  Link<LeaseState> in_share, in_call, in_agent;
};
using LeasesOfShare = List<LeaseState, &LeaseState::in_share>;
using LeasesOfCall = List<LeaseState, &LeaseState::in_call>;
using LeasesOfAgent = List<LeaseState, &LeaseState::in_agent>;

/// Which share's leases are cut first: those that are expected to end last.
struct VictimKey {
  TimePoint finish;
  CallId call;
  PeerId agent;
  friend auto operator<=>(const VictimKey&, const VictimKey&) = default;
};

/// An agent's part in a call.
struct Share {
  Peer* agent = nullptr;
  CallState* call = nullptr;
  bool context_sent = false;
  std::uint64_t outstanding = 0;
  double cost = 0;          ///< of these, where items have costs
  ItemTimes times;          ///< of average items, where items have costs
  TimePoint finish;         ///< when its leases are expected to end
  TimePoint running_since;  ///< when it was last known to hold more than its slots can run
  std::uint32_t slots = 0;  ///< at the last grant, for the statistics
  std::uint64_t retries = 0;
  std::uint64_t steals = 0;
  WorkDone done;
  LeasesOfShare leases;  ///< in the order of their grants
  // Kept by State::reindex.
  Link<Share> in_hungry;
  std::optional<VictimKey> victim_key;
};
using HungryShares = List<Share, &Share::in_hungry>;

/// The two leases in which an item is open that runs twice.
struct Twins {
  LeaseId original;
  LeaseId copy;
};

/// A client wants to know which of these items have begun.
struct Inquiry {
  std::uint64_t number = 0;
  bool withdraw = false;  ///< those that have not are cancelled
  RangeSet items;
  std::set<LeaseId> awaited;  ///< may have untouched items of these: asked for them
  std::set<LeaseId> begun;    ///< have not: what is open in them has begun
};

/// One call of one client.
struct CallState {
  CallId id;
  Port port;
  std::string method;
  std::string name;
  std::uint32_t retries = 0;
  bool idempotent = false;
  bool fold = false;
  bool durable = false;  ///< records are made of it
  std::uint32_t copies_permille = 0;
  std::int64_t timeout_ns = 0;
  std::int32_t priority = 0;
  std::uint32_t depth = 0;  ///< calls that it is nested in
  Resources needs;          ///< of one item
  bool needy = false;       ///< these are not nothing
  std::vector<CallValue> values;
  PeerId able;  ///< a member that can give them; none: it has not been looked for, or there is none
  Frame context;
  ContentId content;
  /// Among calls of one priority those come first that are nested deepest: others wait for them, in places of slots.
  FairQueue::Rank rank() const { return {priority, depth}; }
  const Policy* policy = &auto_policy();
  PolicyMemory memory;  ///< of the policy

  CallItems items;
  bool closed = false;
  bool done = false;       ///< closed, all settled, and the client was told
  bool timed_out = false;  ///< items that still come are settled at once
  bool refused = false;    ///< durable, and there is no journal: as if timed out, with a reason
  TimePoint deadline = TimePoint::never();

  std::map<std::uint64_t, std::uint32_t> deaths;  ///< unsettled items that lost a process
  LookUp<PeerId, Share> shares;
  std::vector<AgentStats> past_shares;  ///< of agents that are gone
  LeasesOfCall leases;
  HungryShares hungry_shares;
  PeerId untouched_cursor;  ///< pool members up to here were looked at for a first grant

  ItemTimes times;
  std::uint64_t outstanding = 0;  ///< in all leases
  bool maybe_done = false;        ///< it is in State::maybe_done
  TimePoint first_grant = TimePoint::never();
  TimePoint last_grant{0};
  TimePoint last_outcome{0};
  std::int64_t busy_ns = 0;
  std::int64_t longest_ns = 0;

  std::map<std::uint64_t, Twins> twins;  ///< items that run twice
  std::vector<Inquiry> inquiries;
  RangeSet unwanted;  ///< items that are cancelled when they come
  // For explanations only.
  MeasuredItems measured;
  std::size_t seats_left = kSeatsTold;
  std::uint64_t leases_granted = 0;
  std::uint64_t splits = 0;
  std::uint64_t copies = 0;
  std::uint64_t copies_won = 0;
  std::int64_t wasted_ns = 0;
};

struct Box {
  BoxInfo info;
  std::uint64_t joined = 0;
};

/// What an agent (worker or script with boxes) has beyond a peer.
struct AgentPart {
  std::uint32_t function_slots = 0;
  Resources capacity;
  Load load;  ///< as it said last
  RoundTrip round_trip;
  TimePoint ends = TimePoint::never();  ///< nothing may run there then
  bool offered = false;                 ///< in this session
  std::map<SeatId, Box> boxes;
  std::map<Port, Member> memberships;
  LeasesOfAgent leases;
  std::set<CallId> calls;           ///< with a Share of this agent
  HeldContents contents;            ///< in this session
  std::uint64_t outcomes_seen = 0;  ///< highest number received
  std::uint64_t outcomes_acked = 0;
  std::size_t unacked_bytes = 0;
  bool ack_planned = false;  ///< in State::acknowledge_at
};

/// A Results message that the client has not acknowledged.
struct KeptResults {
  std::size_t bytes = 0;
  bool durable = false;
  Results body;
  Frames frames;
};

struct ClientPart {
  std::set<std::uint64_t> calls;
  std::set<Port> watches;
  bool recorded = false;  ///< there are records of it
  std::deque<KeptResults> unacked;
  std::size_t unacked_bytes = 0;
  std::uint64_t results_sent = 0;    ///< number of the last one
  bool throttled = false;            ///< too many bytes unacknowledged: its calls are not granted
  std::size_t item_bytes = 0;        ///< held in pages of its calls
  std::deque<Message> late_answers;  ///< Deployed, for when it is back
};

struct Peer {
  PeerId id;
  Role role = Role::kClient;
  std::uint64_t session = 0;
  std::string host;
  std::string boot_id;
  std::string store;
  std::uint32_t pid = 0;
  std::string name;
  std::string endpoint, network_endpoint;
  std::string log_folder;
  Proof proof;  ///< shown when it first came: who comes again shows it, too
  bool background = false;
  ConnectionId connection;  ///< none: it is away, and may come back until `gone_at`
  bool process_dead = false;
  TimePoint gone_at = TimePoint::never();
  std::set<PeerId> relayed_with;  ///< links that go through here (relay.h); while connected
  AgentPart agent;
  ClientPart client;

  bool connected() const { return static_cast<bool>(connection); }
  bool is_agent() const { return role == Role::kWorker || role == Role::kBoxHost; }
};

/// The slots that can run the calls of one port, and those calls.
struct Pool {
  Port port;
  std::map<PeerId, Member*> members;  ///< with at least one slot
  std::uint64_t slots = 0;
  std::uint64_t outstanding = 0;
  std::set<CallId> calls;  ///< not done
  TimePoint no_box_at = TimePoint::never();
  std::set<CallId> unsatisfied;  ///< with items, and no member can ever run them (or there is none)
  TimePoint unsatisfied_at = TimePoint::never();
  TimePoint changed{0};  ///< when a member joined, changed or left

  std::set<CallId> copying;  ///< of these: those whose items may run twice
  CallId copies_cursor;      ///< `copying` was looked at from here
  TimePoint copies_at = TimePoint::never();
  TimePoint no_copies_before;  ///< looks cost time

  TimePoint offer_again_at =
      TimePoint::never();  ///< what idle members had better leave to others: it may wait still

  TimePoint stuck_at = TimePoint::never();  ///< when it is looked at whether all its slots wait still

  TimePoint relief_at = TimePoint::never();  ///< when `crowded` is looked at
  std::size_t looked_at = 0;                 ///< of these, since the first of them was

  FairQueue waiting;                             ///< calls with pending items that may be granted
  FairQueue dirty_calls;                         ///< of these: workers have not been offered them yet
  List<Member, &Member::in_dirty> dirty_agents;  ///< agents that may have become hungry
  // Kept by State::reindex.
  LoadIndex<Member, &Member::in_bucket> by_load;  ///< members that can take a lease
  List<Member, &Member::in_idle> idle;            ///< of these: with a free slot, not stealing
  List<Member, &Member::in_crowded> crowded;      ///< members of whose items some wait for others
  std::uint64_t idle_slots = 0;                   ///< free slots of `idle`
  std::map<VictimKey, Share*> victims;            ///< shares with leases worth cutting
};

struct Deployment {
  CallId id;
  Port port;
  std::map<PeerId, bool> workers;  ///< hosted yet?
  bool answered = false;
};

enum class TimerKind : std::uint8_t {
  kPeerGone,
  kCallTimeout,
  kNoBox,
  kIdle,
  kUnsatisfied,
  kCopies,
  kOfferAgain,
  kRelief,
  kValueUnheld,
  kDeadlock,
  kStuck
};

struct Timer {
  TimePoint at;
  TimerKind kind{};
  std::uint64_t a = 0;
  std::uint64_t b = 0;
  friend auto operator<=>(const Timer&, const Timer&) = default;
};

struct Counters {
  std::uint64_t malformed_messages = 0;  ///< connections ended because of bytes that are no message
  std::uint64_t refused_messages = 0;    ///< messages that were not allowed; their sender was dropped
  std::uint64_t refused_sessions = 0;
  std::uint64_t sessions_begun = 0;
  std::uint64_t sessions_ended = 0;
  std::uint64_t sessions_resumed = 0;
  std::uint64_t peers_lost = 0;  ///< gone without a Bye
  std::uint64_t messages_received = 0;
  std::uint64_t messages_relayed = 0;  ///< between peers that cannot reach each other
  std::uint64_t stale_outcomes = 0;
  std::uint64_t items_settled = 0;
  std::uint64_t items_lost = 0;  ///< settled without an outcome of user code
  std::uint64_t items_retried = 0;
  std::uint64_t leases_granted = 0;
  std::uint64_t leases_cut = 0;  ///< revocations that gave something
  std::uint64_t revokes_sent = 0;
  std::uint64_t values_broadcast = 0;
};

class State {
 public:
  explicit State(Config c);

  const Config config;
  TimePoint started{0};
  bool stopping = false;
  Counters counters;

  std::map<PeerId, Peer> peers;
  LookUp<ConnectionId, Peer*> connections;
  std::map<ConnectionId, Proof> proofs;  ///< shown, before the Hello
  std::map<CallId, CallState> calls;
  LookUp<LeaseId, LeaseState> leases;
  std::map<Port, Pool> pools;
  std::map<Port, std::set<PeerId>> watchers;
  std::map<Port, std::map<std::uint64_t, BoxEntry>> boxes;  ///< by port and order of joining
  std::map<CallId, Deployment> deployments;
  ValueTable values;
  WaitTable waits;
  std::uint64_t joins = 0;
  std::uint64_t lease_ids = 0;
  std::uint64_t foreground_peers = 0;  ///< connected, and keeping a self-started bus alive
  bool anybody_came = false;           ///< such a one, ever
  TimePoint idle_at = TimePoint::never();

  std::set<Timer> timers;
  std::set<Port> dirty_pools;
  std::vector<CallId> maybe_done;
  std::set<CallId> inquired;  ///< calls with inquiries, or with items that are to be withdrawn
  /// Agents whose outcomes wait to be acknowledged, and until when: the delay is the same for all, so in order.
  std::deque<std::pair<TimePoint, PeerId>> acknowledge_at;

  Peer* find_peer(PeerId id);
  CallState* find_call(CallId id);
  LeaseState* find_lease(LeaseId id);
  Pool& pool(Port port);
  LeaseId new_lease_id();

  /// Moves a timer: `current` is where it is now (never: not armed).
  void set_timer(TimePoint& current, TimePoint at, TimerKind kind, std::uint64_t a, std::uint64_t b = 0);

  /// To be called after any change of what an index depends on.
  void reindex(Member& member);
  void reindex(CallState& call, Share& share);
  void count_maybe_done(CallState& call);
  /// Takes a share out of all indices: it is to be erased. REQUIRES: it has no lease.
  void forget_share(Share& share);
  /// The call's pending items, or its client's throttling, changed. `fresh`: offer it to all workers.
  void reindex_waiting(CallState& call, bool fresh);

  void mark_dirty(Member& member);
  void remove_from_pool(Member& member);

  void sanity_check() const;

 private:
  void check_call(const CallState& call) const;
  void check_pools() const;
  void check_peers() const;
  void check_values() const;
};

/// How many items of the call may run at a time at the member; 0: it can never run one. What other calls take
/// there now is not looked at: the agent itself sees to that.
inline std::uint64_t slots_for(const CallState& call, const Member& member) {
  return items_that_fit(member.agent->agent.capacity, call.needs, member.slots);
}

/// The same for an agent whose times for the call are not known. Others that use its host take their part of it;
/// once times are known they show that by themselves, and it must not count twice.
std::uint64_t slots_to_begin_with(const CallState& call, const Member& member);

/// Items of plain functions that wait for calls of their own and have lent their places to others.
inline std::uint64_t lent_slots(const Member& member) {
  const Load& load = member.agent->agent.load;
  if (member.port != kFunctionPool || !load.lends) return 0;
  return std::min<std::uint64_t>({load.waiting_slots, kMaxWaitingSeats, member.outstanding});
}

/// Items that take a slot.
inline std::uint64_t taking_slots(const Member& member) { return member.outstanding - lent_slots(member); }

/// Some of its items wait for others to end.
inline bool is_crowded(const Member& member) {
  const std::uint64_t lent = lent_slots(member) * part_of_whole(member.slots);
  return member.agent->connected() && member.slots > 0 && member.filled > kWhole + lent;
}

/// Slots that are taken, with what others run on the host: of two idle agents the one with a free host comes first.
inline std::uint64_t taken_slots(const Member& member) {
  return taking_slots(member) + member.agent->agent.load.others_cpus_milli / 1000;
}

/// The lease that a cut of this share takes from: the last granted; nullptr if there is nothing to cut, or a cut is
/// under way.
LeaseState* lease_to_cut(const Share& share);

/// The known items of `within` that have no outcome: those that are pending, and those that are out in leases. (The
/// settled ones are not kept: with many slots they are many small ranges, and nobody asks for them often.)
RangeSet unsettled_in(const CallState& call, Range within);

/// What a handler works with.
struct Turn {
  State& state;
  TimePoint now;
  Effects& effects;

  void persist(Record record) const { effects.persist.push_back(std::move(record)); }
  /// Result: false if the peer is away (the message is not sent).
  bool send(const Peer& to, Body body, Frames frames = {}) const;
};

/// Why a message is not allowed; nothing if it is. The sender is refused and dropped.
using Complaint = std::optional<std::string>;

}  // namespace betterbox::scheduler
