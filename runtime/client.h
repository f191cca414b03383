// Client: one process's view of a bus: its calls, the boxes it watches, its direct links.
//
// The client is a monitor. Every public method may be called from any thread; one mutex guards all
// state and the transport. A thread that waits carries the messages itself (no hand-over on the way of
// a reply); `drive`, the body of one background thread, carries them while nobody waits, flushes
// gathered submissions and reports finished calls. No method calls user code or needs the GIL.
//
// Implements the client's side of docs/protocol.md, "Greeting", "Direct calls", "Spread calls" and
// "Return of a peer".
#pragma once

#include <array>
#include <bitset>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "runtime/client_calls.h"
#include "runtime/client_errors.h"
#include "runtime/ids.h"
#include "runtime/lane.h"
#include "runtime/limits.h"
#include "runtime/messages.h"
#include "runtime/outcome.h"
#include "runtime/page.h"
#include "runtime/range.h"
#include "runtime/time.h"
#include "runtime/transport.h"

namespace betterbox {

/// The first of `count` numbers that no other call or submission of this process has.
std::uint64_t take_tokens(std::uint64_t count);

class Client {
 public:
  struct Options {
    std::string endpoint;  ///< of the scheduler
    std::string name;
    std::string host, boot_id, store, python;
    std::uint32_t pid = 0;
    PeerId peer;  ///< random, by the caller
    Proof proof;  ///< the same; empty: none is shown
    bool background = false;
    /// Finds the scheduler again after it was lost (may start one): its endpoint, or throws
    /// std::runtime_error (BusEnded: at once the last time). Called by `drive` without the mutex. Empty: a lost bus stays lost.
    std::function<std::string()> find_bus;
  };

  /// Connects and greets; throws BusError when refused or when nobody answers within the liveness bound.
  Client(std::unique_ptr<Transport> transport, Options options);
  /// In a forked child it says nothing to anybody.
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  PeerId peer() const { return options_.peer; }
  bool connected();
  bool ended();  ///< the bus was lost for good, or the client was closed
  /// True once the bus was lost for good; while it is lost, true if nothing is under way that another client would miss.
  bool expendable();

  /// The background thread's body: tokens of calls that want notice and are over; empty once closed, after all others.
  std::vector<std::uint64_t> drive();
  /// Says Bye; ends every wait. Idempotent, bounded.
  void close();

  // --- waiting ---
  /// Called about every second of a wait and when a signal came, without the mutex; may throw, which ends the wait.
  using Interrupt = std::function<void()>;
  using Condition = std::function<bool()>;
  /// Carries messages until `condition` (called with the mutex held) or the deadline. Result: the condition.
  /// In a slot, what runs there gives its place away meanwhile (unless it is not `of_item`), and a wait for a call that
  /// can never end makes an error of its outcome (client_deadlocks.cc).
  struct Awaited {
    CallPtr call;        ///< null: something else
    bool whole = false;  ///< all of its outcomes, not only one
    bool of_item = true;
  };
  bool wait(const Condition& condition, TimePoint deadline, const Interrupt& interrupt,
            const Awaited& awaited);
  bool wait(const Condition& condition, TimePoint deadline, const Interrupt& interrupt) {
    return wait(condition, deadline, interrupt, {});
  }
  /// While the successor of a lost scheduler is looked for, waits for it. Result: connected.
  bool wait_connected(TimePoint deadline, const Interrupt& interrupt);

  // --- boxes ---
  void watch(Port port);
  void unwatch(Port port);
  /// Boxes whose agents have answered, in join order, as known now.
  std::vector<BoxEntry> boxes(Port port);
  std::vector<BoxEntry> wait_boxes(Port port, std::size_t count, TimePoint deadline,
                                   const Interrupt& interrupt);
  /// Of those that have answered, the one whose answer came first.
  std::optional<BoxEntry> first_box(Port port, TimePoint deadline, const Interrupt& interrupt);

  /// All of these boxes share their memory with this process: arguments and replies may refer to it.
  bool near(const std::vector<BoxId>& boxes);
  /// Large fixed arguments of calls are broadcast to the agents that need them, if they are named.
  bool can_broadcast() const { return transport_->can_broadcast(); }
  /// Boxes whose calls go through lanes now.
  std::size_t lanes();

  // --- calls ---
  CallPtr box_call(const std::vector<BoxId>& boxes, const std::string& method, Frame arguments,
                   std::optional<Duration> timeout);
  struct CallOptions {
    Port port;
    std::string method;
    std::uint32_t retries = kDefaultRetries;
    bool idempotent = false;
    bool fold = false;
    bool windowed = false;
    std::optional<Duration> timeout;
    std::string name;
    std::string policy;
    std::int32_t priority = 0;
    Resources needs;
    std::uint32_t copies_permille = 0;
    std::vector<CallValue> values;
  };
  CallPtr open_call(const CallOptions& options, Frame context, EncodedItems items, bool closed);
  /// What submissions have in common, prepared once: those with equal keys are gathered into one call.
  struct Template {
    Template(const CallOptions& options, Frame context);
    CallOptions options;
    Frame context;
    std::string key;
  };
  /// `hold`: keeps what the item refers to until it has an outcome; may be null.
  Submission submit(const Template& common, ItemBytes item, std::shared_ptr<const void> hold = nullptr);
  /// The same without waiting for another thread (may be called with the GIL): empty if one is busy here, or if
  /// there is no session.
  std::optional<Submission> try_submit(const Template& common, ItemBytes item);
  std::optional<Outcome> outcome(const Submission& submission);
  /// The same without waiting: empty also if another thread is busy here.
  std::optional<Outcome> try_outcome(const Submission& submission);
  /// Nobody will ask for its outcome: that need not be kept as long as those of its neighbours.
  void release(const Submission& submission);
  bool cancelled(const Submission& submission);
  bool cancel(const Submission& submission);
  /// Which of these have begun; false also for those that have an outcome, and if nobody answers until the deadline.
  /// `withdraw`: those that have not are cancelled.
  std::vector<bool> begun(const std::vector<Submission>& submissions, bool withdraw, TimePoint deadline,
                          const Interrupt& interrupt);
  void notify(const Submission& submission);
  /// The same without waiting. Result: false if another thread is busy here.
  bool try_notify(const Submission& submission);
  Condition settled(const Submission& submission);
  void feed(const CallPtr& call, EncodedItems items, bool closed);
  /// How many items may be fed now; waits while none, until the deadline; 0: none, or the call is over.
  std::uint64_t feed_room(const CallPtr& call, TimePoint deadline);
  void free_running(const CallPtr& call, bool on);
  /// Items without an outcome get a cancelled one; what has landed stays. Result: false if there are none.
  bool cancel(const CallPtr& call);
  /// Asks to cancel what has not begun; what runs is left alone.
  void withdraw(const CallPtr& call);
  /// The user has dropped the call: without `keep` it is cancelled and forgotten.
  void release(const CallPtr& call, bool keep);
  void notify(const CallPtr& call);
  /// `drive` is to return the call's landing token once more than so many groups of items have arrived, or it is over.
  void notify_landing(const CallPtr& call, std::uint64_t arrivals);

  // --- outcomes (with the mutex taken inside) ---
  struct Progress {
    std::uint64_t known = 0, settled = 0;
    bool closed = false, over = false, cancelled = false;
    std::string failure;
  };
  Progress progress(const CallPtr& call);
  /// Empty: there is none, or it is gone (with `take`: or somebody took it).
  std::optional<Outcome> outcome(const CallPtr& call, std::uint64_t i, bool take);
  /// All that was taken of a generator call is still there.
  bool keeps_all(const CallPtr& call);
  /// Outcomes of neighbours, in one page that is kept alive.
  struct Span {
    Frame frame;
    PageView view;
    Range items;
    std::uint64_t place = 0;  ///< of the first of them in the page
    ItemBytes item(std::uint64_t i) const { return view.item(view.count() == 1 ? 0 : place + i); }
    bool is_column() const { return view.kind() == PageKind::kColumn; }
  };
  /// Items [first, first + limit) up to the first that is not there or failed (`to_take`: or taken); about a page of
  /// them.
  std::vector<Span> successes(const CallPtr& call, std::uint64_t first, std::uint64_t limit, bool to_take);
  /// Where somebody is who takes items in the order of their arrival.
  struct Landing {
    std::uint64_t arrivals = 0;  ///< groups of items before
    std::uint64_t items = 0;     ///< of the group: before
  };
  /// The same for at most `limit` items from there on, in order of arrival; `at` moves behind them. `failed`: the item
  /// that comes next, if that has failed; `at` is behind it. `to_take`: without those that somebody took.
  std::vector<Span> landed(const CallPtr& call, Landing& at, std::uint64_t limit, bool to_take,
                           std::optional<std::uint64_t>& failed);
  /// The user has these (settled) items: their memory may go, and a generator's window moves on.
  void take(const CallPtr& call, Range items);
  /// All result pages in item order: (first, count, page). For calls that are over.
  struct ResultSpan {
    std::uint64_t first, count;
    Frame frame;
    PageView view;
  };
  std::vector<ResultSpan> result_spans(const CallPtr& call);
  std::optional<std::uint64_t> first_success(const CallPtr& call);
  CallStats explain(const CallPtr& call, TimePoint deadline, const Interrupt& interrupt);

  // Conditions for wait().
  Condition settled_item(const CallPtr& call, std::uint64_t i);
  Condition over(const CallPtr& call);
  Condition any_success(const CallPtr& call);
  /// More than so many groups of items have arrived.
  Condition more_landed(const CallPtr& call, std::uint64_t arrivals);

  // --- values (client_values.cc) ---
  /// This process has a reference to a value; counted, so that the bus hears of the first and the last.
  void hold(const Hold& hold);
  void drop(const std::string& name);
  /// Values that this process put, and holds until `drop`: the agents of these boxes are to have them.
  void broadcast(const std::vector<BoxId>& boxes, const std::vector<ValueId>& values);
  struct Obtained {
    bool here = false;                 ///< it is in this process's store
    bool busy = false;                 ///< another process of this host is getting it: look again soon
    std::string error;                 ///< why it will not come; none of these: not in time
    std::shared_ptr<const void> hold;  ///< nobody else may hold it yet
  };
  /// Gets a value that is not in this process's store.
  Obtained obtain(const ValueId& value, const std::string& home, TimePoint deadline,
                  const Interrupt& interrupt);

  // --- the rest ---
  struct DeployResult {
    bool ok = false;
    std::string error;
    Frame error_item;  ///< what a box raised
    std::uint64_t serial = 0;
  };
  DeployResult deploy(Port port, std::uint32_t slots, const std::string& name, Frame payload,
                      TimePoint deadline, const Interrupt& interrupt);
  void undeploy(std::uint64_t serial);
  /// Throws BusError if the scheduler does not answer before the deadline.
  StatusReport status(TimePoint deadline, const Interrupt& interrupt);

 private:
  using Lock = std::unique_lock<std::mutex>;
  /// True in a child of the process that made this client: it shares connections and lanes with its parent, and
  /// would take away what is the parent's. Every way in refuses there.
  bool forked() const;
  /// Throws BusError there.
  Lock enter();
  /// Empty there, or if another thread is busy here.
  Lock try_enter();

  /// One growing call that gathers single submissions with the same context and options.
  struct Stream {
    CallPtr call;  ///< the scheduled call itself
    PageBuilder gathered;
    std::shared_ptr<const void> hold;  ///< of what `gathered` refers to, which is then one item
    std::deque<std::shared_ptr<SubmissionBlock>> blocks;  ///< from the first that is not settled whole
    std::uint64_t first_block = 0;                        ///< number of blocks.front()
    std::uint64_t waiting = 0;                            ///< without an outcome, gathered ones included
    std::uint64_t last_use = 0;
  };
  struct Link;
  /// A direct call under way to one box.
  struct Flight {
    CallPtr call;  ///< null: cancelled meanwhile, or no call but the lane itself
    std::uint64_t item = 0;
  };
  /// How calls get to one box. Those that run in order of arrival go all through its lane or all over the link: as long
  /// as some are under way on one of them, others wait for the other one.
  struct BoxRoute {
    Link* link = nullptr;
    std::set<std::string> express;  ///< concurrent and async methods: in no order, always over the link
    bool near = false;              ///< on this host: may have a lane
    std::uint64_t calls = 0;
    std::shared_ptr<ClientLane> lane;
    std::uint64_t lane_serial = 0;
    std::map<std::uint64_t, Flight> in_lane;  ///< under way in the lane, by serial
    std::size_t on_link = 0;                  ///< calls in order that are under way over the link
    std::deque<Message> queue;                ///< wait for room in the lane, or for the other way to be empty
    std::map<std::uint64_t, Flight> queued;   ///< of `queue`, by serial
  };
  /// The way to an agent: a connection to where it listens, else through the scheduler.
  struct Link {
    std::deque<std::string> endpoints;  ///< not tried yet
    ConnectionId connection;            ///< none: relayed
    bool relayed = false;
    PeerId agent;
    std::uint64_t ready = 0;  ///< order of its Welcome; 0: none yet
    bool same_store = false;  ///< its shared memory is ours
    struct OnLink : Flight {
      BoxRoute* route = nullptr;  ///< of calls that run in order
      bool sent = false;
      std::size_t bytes = 0;  ///< sent
    };
    std::map<std::uint64_t, OnLink> in_flight;  ///< by wire serial
    std::map<BoxId, BoxRoute> routes;
    std::size_t sent = 0;         ///< of `in_flight`
    std::size_t sent_bytes = 0;   ///< of these
    std::deque<Message> waiting;  ///< for the Welcome, or for room
    bool has_room() const {
      if (ready == 0) return false;
      return relayed ? sent < kMaxRelayedCallsInFlight && sent_bytes < kMaxRelayedBytesInFlight
                     : sent < kMaxDirectCallsInFlight;
    }
    void count_sent(OnLink& flight, std::size_t bytes) {
      flight.sent = true, flight.bytes = bytes;
      ++sent, sent_bytes += bytes;
    }
    /// The flight ends.
    void uncount(const OnLink& flight) { sent -= flight.sent, sent_bytes -= flight.bytes; }
  };
  struct WatchedPort {
    int users = 0;
    bool known = false;                       ///< a snapshot has come
    std::map<std::uint64_t, BoxEntry> boxes;  ///< by join order
  };

  // Sessions with the scheduler.
  bool ended_locked() const;
  Hello make_hello(Role role);
  void greet_scheduler();
  void on_scheduler_lost(const std::string& reason);
  void find_bus_again(Lock& lock);
  void await_welcome(Lock& lock, TimePoint deadline);
  void await_moment(Lock& lock, Duration moment);
  void resume(const Welcome& welcome);
  void fail_scheduled_calls(const std::string& reason);

  // Messages.
  void drain();
  void on_event(TransportEvent& event);
  void on_scheduler(Message& message);
  void on_link(Link& link, Message& message);
  void on_results(Results& results, Frames& frames);
  void on_boxes(const Boxes& boxes);
  void on_relay(const Relay& relay, Frames&& frames);
  void on_link_closed(ConnectionId connection);
  void try_next_way(Link& link);
  void lose_link(PeerId agent);
  void lose_relayed_links();
  void check_reached(TimePoint now);
  void acknowledge(bool now);

  // Calls.
  static std::uint32_t depth_of_calls();
  CallPtr make_call(CallState::Kind kind, Port port, const std::string& method);
  static Call opening_of(const CallOptions& options);
  void send_opening(const CallPtr& call);
  void pump();
  void pump(const CallPtr& call);
  void flush_streams();
  void flush(Stream& stream);
  void settle(const CallPtr& call, std::uint64_t first, std::uint64_t count, Frame page);
  void settle_sent(CallState& call, Range range);
  void settle_lost(const CallPtr& call, std::uint64_t first, std::uint64_t count, LostCode code,
                   std::string_view why);
  void settle_submissions(Stream& stream, std::uint64_t first, std::uint64_t count, Frame page);
  Stream& stream_for(const Template& common);
  Submission add_submission(Stream& stream, ItemBytes item);
  Submission submit_locked(const Template& common, ItemBytes item, std::shared_ptr<const void> hold);
  void settle_submission(Stream& stream, std::uint64_t index, Outcome outcome);
  void notify_locked(const Submission& submission);
  void lose_submissions(Stream& stream, LostCode code, const std::string& reason);
  void finish(const CallPtr& call);
  void check_over(const CallPtr& call);
  void lose_unsettled(const CallPtr& call, LostCode code, std::string_view why);
  void check_deadlines(TimePoint now);
  void forget(const CallPtr& call);
  void take_items(CallState& call, Range items);
  void let_go(CallState& call, std::uint64_t first);
  void tell_landing(CallState& call);
  static std::uint64_t add_successes(const CallState& call, Range items, std::size_t& bytes,
                                     std::vector<Span>& spans);
  void wake_waiters();
  Link& link_to(const BoxEntry& entry);
  void send_on_link(Link& link, Message message);
  void pump(Link& link);
  void send_over(const Link& link, const Message& message);
  void close_link(const Link& link);

  // Inquiries (client_inquiries.cc).
  void inquire(std::uint64_t serial, const RangeSet& items, bool withdraw,
               std::vector<std::uint64_t>& numbers);
  void on_begun(const Begun& begun);

  // Values (client_values.cc).
  struct Obtaining;
  void resume_values();
  void locate(Obtaining& obtaining, PeerId avoid);
  void ask(Obtaining& obtaining);
  void on_source(const Source& source);
  void on_chunk(const Chunk& chunk, const Frames& frames);

  // Lanes (client_lanes.cc).
  BoxRoute& route_to(Link& link, const BoxId& box);
  void begin_direct(BoxRoute& route, Message message, Flight flight);
  bool dispatch(BoxRoute& route, Message& message, Flight& flight);
  void pump(BoxRoute& route);
  void open_lane(BoxRoute& route, const BoxId& box);
  void end_lane(BoxRoute& route, const Frame& page);
  void settle_flight(const Flight& flight, const Frame& page);
  void settle_in_lane(Link& link, std::uint64_t serial, const Frame& page);
  void drop_direct(const CallPtr& call);
  void drop_lanes();
  void forget_route(const BoxId& box);
  bool drain_lane(BoxRoute& route);
  void drain_lanes();
  bool prepare_lanes_for_sleep();
  void lanes_are_awake();
  void look_after_lanes();
  bool look_at_lanes(Lock& lock);
  void send(Message message);
  const BoxEntry* find_entry(const BoxId& box) const;
  std::optional<BoxEntry> first_answer(Port port);
  std::vector<BoxEntry> answered(Port port);
  void wake_driver();
  void wake_pollers();
  TimePoint next_deadline() const;
  TimePoint look_at_item();
  void begin_looks();
  bool has_open_calls() const;

  // Waits that may never end (client_deadlocks.cc).
  struct ToldWait {
    CallPtr call;
    std::uint64_t session = 0;  ///< in which it was told
  };
  void note_boxes(CallState& call, const std::vector<BoxId>& boxes);
  void tell_wait(std::uint64_t& number, const Awaited& awaited);
  void end_wait(std::uint64_t number);
  void on_deadlock(const Deadlock& deadlock);
  int poll_transport(Lock& lock, TimePoint until, int wake_fd);
  ConnectionId connect(const std::string& endpoint);
  void unsend(CallState& call, std::uint64_t from);
  void retire_idle_streams();

  const Options options_;
  const unsigned forks_before_;
  std::mutex mutex_;
  std::condition_variable waiters_turn_;  ///< a waiting thread may become the carrier
  std::condition_variable drivers_turn_;  ///< for drive
  const int wake_fd_;                     ///< eventfd: ends the driver's poll
  const int waiter_wake_fd_;              ///< eventfd: ends the carrying waiter's poll

  // All below is guarded by mutex_.
  std::unique_ptr<Transport> transport_;
  ConnectionId scheduler_;
  enum class Session { kGreeting, kOpen, kLost, kRefused, kClosed };
  Session session_ = Session::kGreeting;
  std::uint64_t session_number_ = 0;
  std::string lost_reason_;
  std::uint64_t next_serial_ = 1;
  std::uint64_t next_direct_serial_ = 1;
  std::uint64_t answers_ = 0;

  std::map<std::uint64_t, CallPtr> calls_;                ///< scheduled and not over, by serial
  std::map<std::uint64_t, CallPtr> direct_;               ///< direct and not over, by token
  std::map<std::string, Stream> streams_;                 ///< by context and options
  std::unordered_map<std::uint64_t, Stream*> stream_of_;  ///< by serial
  bool gathered_any_ = false;
  bool sent_on_link_ = false;       ///< by the call that is being made
  std::size_t window_used_ = 0;     ///< bytes of items sent and unsettled
  std::set<std::uint64_t> unsent_;  ///< serials of calls with pages that have not left
  std::set<std::pair<TimePoint, std::uint64_t>> deadlines_;  ///< of direct calls, with their tokens

  std::map<Port, WatchedPort> watched_;
  std::map<PeerId, Link> links_;
  std::set<BoxRoute*> busy_lanes_;  ///< with calls under way
  TimePoint next_lane_look_{};
  int lane_pipe_[2] = {-1, -1};  ///< slots write into it when a lane has a reply and we asked for a ring
  Spinner spinner_;
  bool spinning_ = false;
  int pollers_ = 0;  ///< threads in poll(): lanes must ring for them
  std::unordered_map<ConnectionId, PeerId> link_of_;
  std::map<PeerId, TimePoint> reaching_;  ///< links over the network that are not up: until when

  std::uint64_t ack_seen_ = 0, ack_sent_ = 0;
  std::size_t unacknowledged_bytes_ = 0;

  std::map<std::uint64_t, ToldWait> told_waits_;  ///< by number
  std::uint64_t last_told_wait_ = 0;

  std::map<std::string, std::pair<Hold, int>> held_values_;
  std::map<std::string, std::shared_ptr<Obtaining>> obtaining_;

  std::map<std::uint64_t, DeployResult> deployed_;
  std::map<std::uint64_t, CallStats> explanations_;
  std::set<std::uint64_t> explaining_;
  std::uint64_t next_inquiry_ = 1;
  std::map<std::uint64_t, std::optional<RangeSet>> inquiries_;  ///< what has begun, once it is answered
  std::optional<StatusReport> status_;
  bool looks_at_item_ = false;  ///< the driver does, while it polls
  std::vector<std::uint64_t> notices_;  ///< tokens for drive
  int waiters_ = 0;
  bool waiter_polls_ = false;
  bool driver_polls_ = false;
  std::uint64_t waits_ = 0;         ///< begun so far
  bool driver_wants_turn_ = false;  ///< a waiter that leaves wakes the driver
  TimePoint last_wait_{};
  bool closed_ = false;
};

}  // namespace betterbox
