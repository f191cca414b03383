// The worker core: a state machine without I/O. It knows seats, leases, calls and pages (as opaque
// frames); its driver turns messages, rings and processes into events, and effects into those.
//
// Guarantees:
//  - every item of a lease leaves in exactly one way: an outcome, lost, released, or abandoned;
//  - work is divided when a turn ends (TurnEnded), so that one turn's facts are seen together;
//  - iteration order never depends on hashing or addresses;
//  - an event costs what it changes: whatever is looked for among seats, calls or leases is in an index.
// Files: core.cc sessions, leases, cuts; core_outcomes.cc outcomes; core_divide.cc who runs what; core_devices.cc
// GPUs; core_lend.cc places of items that wait; core_steal.cc turns and stealing; core_boxes.cc seats' lives, boxes and direct calls; core_check.cc invariants.
// Messages: docs/protocol.md, sections "Leases" and "Boxes".
#pragma once

#include <array>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "runtime/limits.h"
#include "runtime/page.h"
#include "runtime/policy.h"
#include "runtime/range.h"
#include "runtime/resources.h"
#include "worker/context_head.h"
#include "worker/effects.h"
#include "worker/events.h"
#include "worker/seat_set.h"

namespace betterbox {

/// Fast items fill pages: outcomes of one call leave at most once in this time, or more rarely if its leases say so.
inline constexpr Duration kOutcomeInterval = milliseconds(10);
/// Where a call's reports are rare, what helps its scheduler to grant more leaves after this part of the interval; up
/// to twice as late where that is below an eighth of an item's time.
inline constexpr std::int64_t kSoonDivisor = 16;
/// Outboxes are looked at no more rarely and (without a bell) no more often than this.
inline constexpr Duration kLongestDrainInterval = milliseconds(100);
inline constexpr Duration kShortestDrainInterval = microseconds(200);
/// A seat changes its kin (a process is made anew) or is taken from a call at most once in this time.
inline constexpr Duration kSwitchInterval = milliseconds(100);
/// What a slot's policy is told: from the end of a part to having the next, and the shortest part worth its cost.
inline constexpr Duration kSeatRoundTrip = microseconds(100);
inline constexpr Duration kLeastPart = milliseconds(1);
/// A seat gets its next part when what it has lasts no longer than this: a look at outboxes and a turn.
inline constexpr Duration kSeatLookAhead = milliseconds(20);
/// A seat from which nothing was heard for this long runs a long item, however short those before were.
inline constexpr Duration kLongSilence = milliseconds(20);
/// A load that changed by more than a tenth is told at most once in this time (a pause at once).
inline constexpr Duration kLoadInterval = seconds(1);
/// A slot for plain functions that has been idle for this long gives its memory back.
inline constexpr Duration kIdleSeatLife = seconds(60);
/// A box that died or failed this often without having served anything is given up.
inline constexpr std::uint32_t kMaxFruitlessLives = 3;
/// Pages of outcomes up to this size are joined with their neighbours before they leave.
inline constexpr std::size_t kSmallPageBytes = 4096;
/// Payload bytes of one part of a lease: what a slot reads before it starts.
inline constexpr std::size_t kChunkBytes = 1U << 20;

/// A set of devices is a word.
inline constexpr std::size_t kMaxDevices = 64;
/// Stations of a seat: one runs, one waits (kStations of runtime/shm.h, which cores do not include).
inline constexpr int kSeatStations = 2;

class WorkerCore {
 public:
  struct Options {
    PeerId self;
    std::uint32_t function_slots = 0;
    bool in_process = false;  ///< seats are threads of this process: they cannot be killed
    Resources capacity;       ///< what items may need together; nothing said: a cpu for each slot, any memory
    /// Names of GPUs, at most kMaxDevices, one for each whole one in `capacity`. If there are some, each process
    /// is told at its start which it may use.
    std::vector<std::string> devices;
  };

  explicit WorkerCore(const Options& options);

  void handle(TimePoint now, Event&& event, Effects& effects);
  /// When a TurnEnded is due although nothing happened.
  TimePoint next_deadline() const;

  /// What Hello says about leases.
  std::vector<HeldLease> held_leases() const;
  /// True while too much is unacknowledged: outboxes are not to be emptied.
  bool starts_nothing() const { return load_ && load_->paused; }
  bool draining_paused() const { return unacked_bytes_ > kOutcomeWindowBytes; }
  /// How long outcomes may lie in the seats' outboxes: until something is due to be reported, or until a call
  /// has about as few items left as its scheduler wants to hear of at once.
  Duration drain_interval() const;
  /// The number of the seat that the next SeatOpened makes.
  SeatId next_seat() const { return {static_cast<std::uint32_t>(seats_.size())}; }
  std::uint64_t steals() const { return steals_; }
  std::size_t direct_calls() const { return direct_.size() - lanes_; }
  /// Those of one client that have no reply yet.
  std::size_t direct_calls_of(ClientRef client) const {
    const auto found = direct_counts_.find(client);
    return found == direct_counts_.end() ? 0 : found->second;
  }
  /// No lease is held, and the scheduler has acknowledged what came of those before.
  bool settled() const { return leases_.empty() && unacked_.empty(); }
  bool idle() const { return leases_.empty() && direct_calls() == 0; }
  /// Checks every invariant across all tables (tests, and the end of simulations).
  void sanity_check() const;

 private:
  enum class SeatKind : std::uint8_t { kFunction, kHosted, kInProcess };
  /// kEmpty: no process (maybe waits for retry_at). kStarting: not ready yet (boxes). kUp: takes work.
  /// kStopping: was asked to stop. kKilled: a kill is on its way. kGone: for good.
  enum class SeatState : std::uint8_t { kEmpty, kStarting, kUp, kStopping, kKilled, kGone };
  using Needs = std::shared_ptr<const Resources>;
  /// Function seats: whose code the process has seen, and what it was started with (worker/context_head.h).
  struct Kin {
    std::uint64_t birth = 0;
    PeerId client;  // of contexts that name no birth
    friend auto operator<=>(const Kin&, const Kin&) = default;
  };

  struct Station {
    LeaseId lease;
    CallId call;
    std::uint64_t base = 0;
    std::uint32_t count = 0;     // after cuts
    std::uint32_t finished = 0;  // outcomes that have arrived
    std::uint32_t generation = 0;
    bool busy = false;
    bool exhausted = false;   // a cut found nothing: do not ask again
    bool cutting = false;     // CutDone is awaited
    bool stealing = false;    // for an idle seat
    bool again = false;       // some outcomes could not be used: their items run once more
    std::uint32_t depth = 0;  // of the call
    Range range() const { return {base, base + count}; }
    std::uint32_t left() const { return count > finished ? count - finished : 0; }
  };
  /// Seats that suit the same calls: those of a port, and in the function pool those of one kin.
  struct Crowd {
    SeatSet idle;
    SeatSet hungry;  // they run, and their second station had better be filled now
    std::set<CallId> calls;
  };
  struct PortState {
    std::uint32_t up = 0;     // seats that take work (function seats always do)
    std::uint32_t alive = 0;  // seats that do so now or later
    std::uint32_t idle = 0;   // seats that are up and run nothing
    SeatSet empty;            // function seats in which a process can be made now
    SeatSet stealable;        // they have items that nobody has touched
  };
  /// What only boxes have.
  struct BoxPart {
    std::size_t hosting = 0;  // index in hostings_
    std::uint32_t instance = 0, flags = 0;
    bool offered = false;
    bool failed = false;  // this life said kFailed
    Frame payload;
    BoxInfo info;
    Frame error;                     // of kFailed
    std::set<std::uint64_t> tokens;  // direct calls in this life
  };
  /// What a function seat does with a place: nothing, run in one, or lend it while its item waits.
  enum class Use : std::uint8_t { kNone, kRuns, kLends };
  /// Function seats whose items belong to calls of one depth.
  struct Level {
    std::uint32_t running = 0, lending = 0;
  };
  /// Bits of Seat::indexed: the sets that a seat is in.
  enum : std::uint8_t { kIdle = 1, kHungry = 2, kStealable = 4, kVacant = 8, kIsUp = 16, kIsAlive = 32 };

  struct Seat {
    SeatId id;
    Port port;
    SeatKind kind = SeatKind::kFunction;
    SeatState state = SeatState::kEmpty;
    bool ready = false;        // this life said so
    bool served = false;       // this life finished an item or call
    bool waits = false;        // what it runs waits for calls of its own, or did when this was last heard of
    Use use = Use::kNone;      // as counted by reindex(), and
    std::uint32_t depth = 0;   // of the call that it is counted for
    std::uint8_t running = 0;  // the station that was installed first of those busy
    std::uint8_t indexed = 0;  // by reindex()
    std::uint32_t life = 0;
    std::uint32_t fruitless = 0;  // lives in a row that served nothing
    Crowd* crowd = nullptr;       // whose sets it is in; void if in none
    CallId runs;                  // counted in CallState::seats
    TimePoint retry_at{};
    TimePoint kill_at = TimePoint::never();
    TimePoint since{};  // last change of kin or reservation
    TimePoint idle_since{};
    TimePoint heard{};  // when it was given work, or its last outcomes came
    Kin kin;
    std::uint64_t devices = 0;       // a bit for each that this life's process sees
    std::uint32_t device_milli = 0;  // of each of these is taken for what this seat runs
    CallId reserved;                 // taken from another call for this one (serial 0: not reserved)
    Needs needs;                     // taken out of left_ for what this seat runs; of its cpus:
    std::uint64_t cpus_held = 0;     // fewer while it lends its place, and after if others still have them
    std::array<Station, 2> stations;
    std::vector<CallId> contexts;  // sent to this life; ascending
    ItemTimes times;               // of items of `times_of`, here
    CallId times_of;
    std::unique_ptr<BoxPart> box;

    const Station& runs_now() const { return stations[running]; }
    bool is_free() const { return !stations[0].busy && !stations[1].busy; }
    bool has_free_station() const { return !stations[0].busy || !stations[1].busy; }
    bool occupied() const { return state != SeatState::kEmpty && state != SeatState::kGone; }
    bool is_reserved() const { return reserved != CallId{}; }
  };
  struct Page {
    std::uint64_t first = 0;
    std::uint64_t count = 0;
    Frame frame;
    PageView view;
  };
  /// Outcomes of a lease that have not left yet.
  struct Gathered {
    std::vector<OutcomeSpan> spans;
    std::vector<SeatWork> seats;
    Frames frames;
    std::vector<LostItem> lost;
    std::size_t bytes = 0;
    bool empty() const { return spans.empty() && lost.empty(); }
    void merge();
    void merge_seats();
  };
  struct LeaseState {
    LeaseId id;
    CallId call;
    RangeSet open;       // no outcome yet
    RangeSet undivided;  // part of open that no station has
    std::vector<Page> pages;
    std::size_t page_bytes = 0;
    Range range;                          // as granted
    std::vector<double> costs;            // empty, or costs[i]: of the first i items together
    std::optional<std::uint64_t> revoke;  // items asked back; answered when no cut is awaited
    Gathered out;
    TimePoint arrived;
    Duration report_interval{};
    std::uint32_t steals = 0;
    PolicyMemory memory;  // of a policy that does not adapt
    std::uint64_t items() const { return range.size(); }
    /// Of items of `r`, as the user expects. REQUIRES: costs are known.
    double cost(Range r) const { return costs[r.end - range.begin] - costs[r.begin - range.begin]; }
  };
  struct CallState {
    Context context;
    Frame frame;
    Needs needs;
    const Policy* policy = nullptr;
    Kin kin;
    Frame surroundings;  // for slots at their start
    Crowd* crowd = nullptr;
    std::vector<LeaseId> leases;
    std::set<LeaseId> divisible;    // leases with undivided items
    std::uint64_t undivided = 0;    // items of these
    std::uint32_t stations = 0;     // busy with this call
    std::uint32_t seats = 0;        // that run it now
    std::vector<SeatId> reserved;   // seats that others must leave to it
    std::optional<TimePoint> held;  // since when it has no seat because its needs do not fit
    std::uint64_t last_served = 0;
    PolicyMemory memory;
    double unit_cost = 0;  // of the average item of the first lease with costs: times are for so much
    // what was measured
    ItemTimes times;
    std::uint32_t known_seats = 0;  // seats with times of this call, and
    double known_rate = 0;          // the sum of their 1 / mean, in items per ns, and
    double known_scatter = 0;       // of their variance / mean
    // reports
    std::uint64_t open = 0;       // items of all leases without an outcome
    std::uint64_t low_water = 0;  // of the newest lease
    Duration report_interval{};   // the shortest of its leases
    std::optional<TimePoint> reported;
    TimePoint due = TimePoint::never();  // in due_: some outcomes wait for this time
    bool urgent = false;                 // they leave at the end of this turn
    bool seat_freed = false;             // in this turn
    bool awaits_values = false;          // they are on their way into this host's shared memory
  };
  struct Unacked {
    std::uint64_t ack = 0;
    std::size_t bytes = 0;
    Message message;
  };
  struct DirectCall {
    ClientRef client;
    std::uint64_t serial = 0;
    SeatId seat;
    bool lane = false;  ///< no call but a lane: answered when it ends
  };
  struct Hosting {
    CallId deployment;
    std::vector<SeatId> seats;
    bool at_start = false;
    bool answered = false;
    bool over = false;
  };
  using Leases = std::map<LeaseId, LeaseState>;

  // core.cc: sessions, leases, cuts
  void on(SessionBegan&& e);
  void on(SessionEnded&& e);
  void on(ContextArrived&& e);
  bool keep_content(ContextArrived& e);
  void on(LeaseGranted&& e);
  void on(RevokeAsked&& e);
  void on(ItemsAbandoned&& e);
  void on(CallDropped&& e);
  void on(ValuesArrived&& e);
  void on(AcknowledgeArrived&& e);
  void on(CutDone&& e);
  void on(LoadSampled&& e);
  void on(TurnEnded&& e);
  void tell_load();
  bool take_pages(LeaseState& lease, LeaseGranted& granted);
  bool take_costs(LeaseState& lease, CallState& call, const std::vector<float>& costs);
  void abandon(LeaseId id, Range range);
  void forget_lease(Leases::iterator at);
  void forget_all_leases();
  void cut_station(Seat& seat, int station, std::uint32_t count);
  void kill_if_unwanted(Seat& seat, const Station& station, Position position, std::uint32_t done);
  void answer_revoke(LeaseState& lease);
  void cut_for_revoke(LeaseState& lease, std::uint64_t wanted);
  void free_station(Seat& seat, int station);
  void give_back(const Station& station);
  void release_unservable();
  void send(Message message);
  template <class Body> void tell(Body body, Frames frames = {}) {
    send({std::move(body), std::move(frames)});
  }
  template <class T> void effect(T&& value) { effects_->send.emplace_back(std::forward<T>(value)); }
  LeaseState* find_lease(LeaseId id);
  CallState* find_call(CallId id);
  const CallState* find_call(CallId id) const;
  Seat* find_seat(SeatId id, std::uint32_t life);

  // core_outcomes.cc: outcomes and when they leave
  void on(SeatProgressed&& e);
  void on(SubLeaseDone&& e);
  void take_outcomes(LeaseState& lease, Seat& seat, Station& place, const SeatProgressed& e);
  void gather(LeaseState& lease, Seat& seat, const SeatProgressed& e, Range range, Frame page);
  void learn(Seat& seat, CallState& call, const LeaseState& lease, Range range, double busy_ns,
             double busy_squares);
  void count_times(const Seat& seat, CallState& call, int sign);
  void unlearn(Seat& seat);
  void lose(LeaseState& lease, std::uint64_t index, const DeathReport& death);
  void close_items(LeaseState& lease, Range range);
  void plan_report(CallState& call, CallId id);
  void report(CallState& call, CallId id);
  void report_soon(CallState& call, CallId id);
  void flush_outcomes();
  void send_outcomes(LeaseState& lease);
  void finish_leases();

  // core_divide.cc: who runs what
  void divide();
  void reindex(Seat& seat);
  std::uint8_t sets_of(const Seat& seat) const;
  bool is_hungry(const Seat& seat) const;
  void set_state(Seat& seat, SeatState state);
  void set_kin(Seat& seat, Kin kin);
  Crowd& crowd_of(Port port, Kin kin) { return crowds_[{port, port == kFunctionPool ? kin : Kin{}}]; }
  void forget_crowd(Kin kin);
  void put_undivided(LeaseState& lease, Range range);
  void take_undivided(LeaseState& lease, Range range);
  void undivided_changed(LeaseState& lease, std::uint64_t before);
  void assign();
  bool is_held_up(CallState& call);
  bool give_one(CallId id, CallState& call);
  Seat* choose_seat(CallId id, CallState& call);
  Seat* choose_idle_seat(CallId id, CallState& call);
  Seat* choose_hungry_seat(CallState& call);
  std::uint64_t part_size(CallId id, CallState& call, LeaseState& lease, const Seat& seat);
  std::uint64_t items_of_cost(const LeaseState& lease, std::uint64_t count) const;
  void give_part(CallId id, CallState& call, LeaseState& lease, Seat& seat, std::uint64_t count);
  Seat* choose_foreign_seat(const CallState& call);
  void seat_kin(const CallState& call, Seat& seat);
  std::vector<PagePart> page_parts(const LeaseState& lease, Range range) const;
  std::uint64_t seats_for(const CallState& call) const;
  bool fits(const CallState& call) const;
  bool may_switch_kin(const Seat& seat, const Crowd& crowd);
  bool has_work(const Crowd& crowd) const;
  std::uint32_t seats_of(Port port) const;

  // core_devices.cc: which process may use which GPU
  bool suits(const Seat& seat, const CallState& call) const;
  std::uint64_t devices_for(const Seat& seat, const CallState& call) const;
  std::uint64_t free_devices(const Resources& needs) const;
  std::uint64_t own_device(const Seat& seat) const;
  std::uint64_t unused_devices(std::size_t count) const;
  void take_devices(Seat& seat, const CallState& call);
  void give_back_devices(Seat& seat);
  std::string environment_of(const Seat& seat) const;
  Seat* choose_by_devices(CallState& call);

  // core_lend.cc: places of items that wait
  void on(SeatWaits&& e);
  void shorten_one();
  void recount(Seat& seat);
  void count_use(const Seat& seat, int sign);
  bool lends(const Seat& seat) const { return seat.waits && !seat.is_free(); }
  void give_back_seat(Resources& left, const Seat& seat) const;
  Level level(std::uint32_t depth) const;
  bool has_place(const CallState& call);
  /// None while an item that goes on is one too many.
  std::uint32_t free_places() const {
    return options_.function_slots - std::min(options_.function_slots, running_);
  }
  bool out_of_patience(std::uint32_t beyond);
  bool may_lend() const;
  bool may_add_seat() const;
  bool is_spare(const Seat& seat) const;
  void tell_waiting();

  // core_steal.cc: turns between calls, and stealing
  void drop_reservations();
  void reserve(Seat& seat, CallId id, CallState& call);
  void unreserve(Seat& seat);
  void relieve_starved();
  void overrule(CallId id, CallState& call);
  void relieve(CallId id, CallState& call);
  void take_seat(Seat& seat, CallId id, CallState& call);
  bool has_enough_reserved(const CallState& call, std::uint64_t parts) const;
  void steal_for_idle();
  bool steal(const PortState& port);
  std::uint32_t share_of_thieves(const Seat& victim, CallId id, const CallState& call,
                                 const PortState& port) const;
  std::uint32_t untouched_of(const Seat& seat, CallId id) const;
  std::uint32_t untouched(const Seat& seat, int station) const;
  double mean_of(const Seat& seat, CallId id, const CallState& call) const;

  // core_check.cc
  void check_indices(const Seat& seat) const;
  void check_call(CallId id, const CallState& call) const;

  // core_boxes.cc: seats' lives, boxes, direct calls
  void on(HostAsked&& e);
  void on(UndeployAsked&& e);
  void on(BoxCallArrived&& e);
  void on(LaneAsked&& e);
  void on(LaneReplied&& e);
  void on(BoxCallCancelled&& e);
  void on(ClientGone&& e);
  void on(SeatOpened&& e);
  void on(SeatCloseAsked&& e);
  void on(SeatReady&& e);
  void on(SeatFailed&& e);
  void on(SeatStopped&& e);
  void on(SeatReplied&& e);
  void on(SeatDied&& e);
  void on(StopAsked&& e);
  Seat& add_seat(Port port, SeatKind kind);
  void spawn(Seat& seat, Frame surroundings = {});
  void stop_seat(Seat& seat);
  void kill_seat(Seat& seat);
  void set_kill_at(Seat& seat, TimePoint at);
  void set_retry_at(Seat& seat, TimePoint at);
  void withdraw(Seat& seat);
  void empty_seat(Seat& seat, const SeatDied& e);
  void settle_station(Seat& seat, int station, bool was_running, const SeatDied& e);
  void lose_direct_calls(Seat& seat, const DeathReport& death, std::string_view detail);
  void retry_or_give_up(Seat& seat, const DeathReport& death);
  void hosting_ready(std::size_t index);
  void hosting_failed(std::size_t index, Frame error);
  Seat* begin_direct_call(ClientRef client, std::uint64_t serial, const BoxId& box, bool lane);
  DirectCall end_direct_call(std::uint64_t token);
  void forget_direct_call(ClientRef client, std::uint64_t serial);
  void refuse_call(ClientRef client, std::uint64_t serial, LostCode code, std::string_view detail);
  void run_seat_timers();
  void discard(Seat& seat);
  void discard_idle_seats();
  void offer_everything();

  const Options options_;
  TimePoint now_{};
  Effects* effects_ = nullptr;  // of the event being handled

  bool in_session_ = false;
  bool ending_ = false, ended_ = false;
  PeerId scheduler_;
  std::vector<Message> to_say_;  // answers that wait for a session

  std::deque<Seat> seats_;  // place = SeatId
  std::map<std::pair<Port, Kin>, Crowd> crowds_;
  std::map<Port, PortState> ports_;
  std::set<std::pair<TimePoint, SeatId>> seat_timers_;  // a seat may want something (or no longer)
  TimePoint idle_check_at_ = TimePoint::never();
  Resources capacity_, left_;
  std::uint32_t busy_seats_ = 0;
  std::uint32_t running_ = 0;              // function seats that run in a place
  Level top_level_;                        // all of these of depth 0
  std::map<std::uint32_t, Level> levels_;  // all of these of others, by depth
  std::uint32_t lending_ = 0;              // all of these
  std::uint32_t function_seats_ = 0;
  TimePoint lent_in_vain_ = TimePoint::never();  // since when what waits could only run in a lent place
  TimePoint lent_look_at_ = TimePoint::never();
  TimePoint waiting_told_at_ = TimePoint::never();  // when the scheduler is to be told how many wait
  std::optional<Load> load_;                        // as sampled; busy_slots is filled in when it is told
  Load told_load_;                                  // to the scheduler
  TimePoint work_ends_ = TimePoint::never();
  TimePoint load_told_at_{};
  std::vector<std::uint32_t> device_left_;  // thousandths of each device

  Leases leases_;
  std::map<CallId, CallState> calls_;
  std::map<std::uint64_t, Frame>
      contents_;                    // contexts that later calls may have, too; the scheduler says which
  std::uint64_t last_content_ = 0;  // in this session
  std::map<std::int32_t, std::uint32_t> priorities_;       // how many calls have which
  std::set<CallId> working_;                               // calls with undivided items
  std::set<CallId> reserving_;                             // calls with reserved seats
  std::vector<std::pair<CallId, CallState*>> candidates_;  // of assign(); kept for its memory
  std::set<std::pair<TimePoint, CallId>> due_;             // calls with outcomes, by when they leave
  std::set<CallId> touched_;                               // calls that may have to report in this turn
  std::vector<LeaseId> over_;                              // leases of which nothing may be open
  std::vector<LeaseId> revoking_;                          // leases with a revoke to be answered
  bool unservable_ = false;  // there may be items that no seat here will ever run
  std::vector<Hosting> hostings_;

  std::uint64_t next_ack_ = 1;
  std::deque<Unacked> unacked_;
  std::size_t unacked_bytes_ = 0;

  std::uint64_t next_token_ = 1;
  std::map<std::uint64_t, DirectCall> direct_;
  std::size_t lanes_ = 0;  // of direct_
  std::map<std::pair<ClientRef, std::uint64_t>, std::uint64_t> direct_by_client_;
  std::map<ClientRef, std::size_t> direct_counts_;

  std::uint32_t generation_ = 0;
  std::uint64_t served_ = 0;
  std::uint64_t steals_ = 0;
  std::uint32_t cuts_awaited_ = 0;
  TimePoint switch_at_ = TimePoint::never();
};

/// Up to three of `names` that look like `wanted`, as "a, b, c"; empty if none does.
std::string nearest_names(std::string_view wanted, const std::vector<MethodInfo>& names);

}  // namespace betterbox
