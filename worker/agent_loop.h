// AgentLoop: the driver of a worker core for both kinds of agents (worker/agent.h): one thread, one
// transport, one executor. Its job: messages and rings become events, effects become messages and records.
//
// Sessions (docs/protocol.md, section "Sessions"): a lost scheduler is looked for again through the bus
// file for a while (return_patience); work goes on meanwhile.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "runtime/bus_file.h"
#include "runtime/network.h"
#include "runtime/slot_limits.h"
#include "runtime/socket_names.h"
#include "runtime/transport.h"
#include "worker/core.h"
#include "worker/executor.h"
#include "worker/load_sampler.h"
#include "worker/loop_watch.h"
#include "worker/relayed_clients.h"
#include "worker/value_links.h"
#include "worker/value_store.h"

namespace betterbox {

/// Random, never 0.
PeerId make_peer_id();
/// What shows to the scheduler that this is the same peer again.
Proof make_proof();
/// Where the agent with this id listens.
inline std::string agent_socket_path(const std::string& socket_folder, PeerId self) {
  return socket_folder + "/" + socket_name_of(self);
}

/// What runs when a worker is told to end has so long to come to its end: less than Slurm's KillWait (30 s, unless set).
inline constexpr Duration kDrainTime = seconds(25);
/// And so long without a scheduler, which alone could take outcomes: often everything is told to end at once.
inline constexpr Duration kDrainWithoutScheduler = seconds(3);

class AgentLoop {
 public:
  struct Options {
    PeerId self;  ///< make_peer_id() if 0
    std::string scheduler_endpoint;
    /// Where clients on other hosts are to reach it: "" towards the scheduler, or an interface or address; kNoInterface:
    /// nowhere. Without effect where the bus has no network.
    std::string interface = kNoInterface;
    /// Where it listens for clients; empty: at a socket of its own in `socket_folder`.
    std::string listen_endpoint;
    std::string bus_file;  ///< where to look for the bus again; may be empty
    std::string socket_folder;
    std::string name;
    std::string python_version;
    std::string log_folder;
    bool background = false;
    bool in_process = false;
    std::uint32_t function_slots = 0;
    Resources capacity;                   ///< as of WorkerCore::Options
    std::vector<std::string> devices;     ///< the same
    TemplateSet::Options templates;  ///< as of Executor::Options
    int bell_fd = -1;
    bool echo = false;
    /// When the host is taken away (an allocation's end): drains before that.
    TimePoint ends = TimePoint::never();
    Duration drain_time = kDrainTime;
  };
  /// What the owner wants to know. Called on the loop's thread.
  struct Observer {
    virtual ~Observer() = default;
    virtual void welcomed() {}
    /// Workers whose slots are threads: this seat needs one. Boxes that open_seat() made are not told.
    virtual void seat_spawned(SeatId, bool /*is_for_functions*/) {}
    virtual void template_up() {}
    virtual void seat_reported(const SeatReport&) {}
    virtual void hosting_reported(const HostingReport&) {}
    virtual void log(const std::string&) {}
  };
  enum class End {
    kRunning,
    kStopped,  ///< request_stop(), or the bus ended
    kRefused,  ///< the scheduler does not want this agent
    kBusLost,
    kBroken,  ///< the template is gone
  };

  /// Listens at its own socket and starts to connect. Throws std::runtime_error.
  AgentLoop(const Options& options, std::unique_ptr<Transport> transport, Observer& observer);
  ~AgentLoop();
  /// Closes every connection and removes the socket. REQUIRES: nobody turns the loop any more. Idempotent.
  void hang_up();
  AgentLoop(const AgentLoop&) = delete;
  AgentLoop& operator=(const AgentLoop&) = delete;

  /// One round: carries out what there is, then waits at most until `deadline`. Result: false once ended. A process in which
  /// one round takes longer than kLoopBound ends.
  bool turn(TimePoint deadline) {
    watch_.wakes();
    const bool goes_on = turn_once(deadline);
    watch_.sleeps();
    return goes_on;
  }
  End end() const { return end_; }
  /// For people: why it ended.
  const std::string& end_text() const { return end_text_; }

  // On the loop's thread.
  void feed(Event&& event);
  void request_stop();
  /// Nothing more starts and what has not begun goes back; request_stop() once what runs is over, at the latest after
  /// Options::drain_time. Idempotent.
  void request_drain(const std::string& why);
  /// Everything dies now.
  void kill();
  SeatId open_seat(Port port, std::string payload);
  std::shared_ptr<SlotArena> arena(SeatId seat) { return executor_.arena(seat); }
  int bell_fd() const { return executor_.bell_fd(); }
  bool welcomed() const { return session_ == Session::kOpen; }
  PeerId self() const { return self_; }
  /// A further descriptor to wait on: `ready` is called when it is readable or hung up, until it
  /// returns false.
  void watch(int fd, std::function<bool()> ready) { watched_.push_back({fd, std::move(ready)}); }

  /// From any thread: `job` runs on the loop's thread soon (or never, if the loop has ended).
  void post(std::function<void()> job);

 private:
  enum class Session { kNone, kGreeting, kOpen };
  struct Watched {
    int fd;
    std::function<bool()> ready;
  };

  // The scheduler.
  void listen_on_network(const std::optional<BusInfo>& bus);
  void connect();
  Hello make_hello() const;
  ValueLinks::Users link_users();
  ValueBroadcaster broadcaster();
  void scheduler_closed(const std::string& reason);
  void look_for_scheduler();
  void from_scheduler(Message&& message);
  bool about_values(Message& message);
  void refused(const Refused& refused);
  void finish(End end, std::string text);
  TimePoint session_deadline() const;

  // Clients.
  void from_client(ConnectionId from, Message&& message);
  void greet(ConnectionId from, const Hello& hello);
  void drop_client(ConnectionId client, RefusalCode code, const std::string& text);
  void client_closed(ConnectionId client);
  void close_client(ConnectionId client);
  void from_relayed(const Relay& relay, Frames&& frames);

  // Events and effects.
  void receive_messages();
  void run_effects();
  void collect();
  void run_jobs();
  bool turn_once(TimePoint deadline);
  void wait(TimePoint deadline);
  void sample_load(TimePoint now);
  void look_after_end(TimePoint now);
  TimePoint end_of_work() const;
  TimePoint drain_deadline() const;
  TimePoint end_deadline() const;
  void carry_out(SpawnSeat&& e);
  void carry_out(KillSeat&& e);
  void carry_out(DiscardSeat&& e);
  void carry_out(StopSeat&& e);
  void carry_out(SendContext&& e);
  void carry_out(DropContext&& e);
  void carry_out(InstallLease&& e);
  void carry_out(CutLease&& e);
  void carry_out(CallSeat&& e);
  void carry_out(OpenSeatLane&& e);
  void carry_out(CancelSeatCall&& e);
  void carry_out(SendToScheduler&& e);
  void carry_out(ReplyToClient&& e);
  void carry_out(RefuseClient&& e);
  void carry_out(SeatReport&& e);
  void carry_out(HostingReport&& e);
  void carry_out(LogLine&& e);
  void carry_out(GetValues&& e);
  void carry_out(Stopped&& e);
  void send(ConnectionId to, const Message& message);

  const Options options_;
  const PeerId self_;
  Observer& observer_;
  std::unique_ptr<Transport> transport_;
  WorkerCore core_;
  Executor executor_;
  ValueLinks links_;
  ValueStore values_;
  std::string socket_path_;
  LoadSampler sampler_;
  TimePoint sample_at_ = TimePoint::never();  // workers only: a script's load is its own affair
  TimePoint sweep_at_ = TimePoint::never();   // of shared memory, where there is some

  End end_ = End::kRunning;
  std::string end_text_;
  std::string last_trouble_;  // why the last connection to the scheduler ended
  bool stopping_ = false;
  bool draining_ = false;
  TimePoint drain_asked_{};
  TimePoint drain_until_ = TimePoint::never();
  bool template_announced_ = false;

  Session session_ = Session::kNone;
  std::string endpoint_;                           // of the scheduler
  std::string local_endpoint_, network_endpoint_;  // of this agent
  BusKeys network_keys_;                           // under which it listens at the latter
  ConnectionId scheduler_;
  bool was_open_ = false;  // there has been a session
  std::uint64_t sessions_ = 0;
  TimePoint greeting_ends_ = TimePoint::never();
  TimePoint retry_at_ = TimePoint::never();
  TimePoint lost_since_{};

  std::map<ConnectionId, bool> clients_;  // greeted?
  const Proof proof_ = make_proof();
  RelayedClients relayed_;
  Effects effects_;
  std::size_t effects_done_ = 0;
  bool carrying_out_ = false;
  std::vector<Event> events_;
  bool fed_ = true;    // since the last TurnEnded
  bool sent_ = false;  // since the last look at the transport

  std::vector<Watched> watched_;
  std::mutex jobs_mutex_;
  std::deque<std::function<void()>> jobs_;  // guarded by jobs_mutex_
  int wake_fd_ = -1;
  LoopWatch watch_{kLoopBound, &end_stuck_process};
};

}  // namespace betterbox
