// The world of one fault run (simulator/faults.h): processes that live and die, the scheduler with its journal, and what
// passes between them.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "scheduler/core.h"
#include "simulator/agent.h"
#include "simulator/fault_client.h"
#include "simulator/faults.h"
#include "simulator/ledger.h"
#include "simulator/links.h"

namespace betterbox::sim {

class FaultWorld final : public AgentWorld {
 public:
  FaultWorld(std::uint64_t seed, const FaultOptions& options, FaultResult& result);
  /// Throws Violation.
  void run();
  /// What a run has counted, also one that ended early.
  void add_up();

  // AgentWorld
  void from_agent(SimAgent& agent, Message&& message) override;
  const std::int64_t* sums_of(CallId call) override;
  void context_given(CallId call, const Frame& context) override;
  Frame outcomes(const Executed& executed) override;
  void agent_stopped(SimAgent& agent) override;

 private:
  /// A worker or a client: a place for processes, one after the other.
  struct Host {
    bool is_client = false;
    std::uint32_t number = 0;
    std::uint32_t life = 0;
    bool alive = false;
    PeerId peer;
    std::uint64_t session = 0;
    std::optional<std::uint64_t> link;
    bool welcomed = false;
    bool stopped = false;  ///< its core has ended
    std::int64_t lost_since = 0;
    std::int64_t cut_off_until = 0;
    std::int64_t wake = kNever;
    std::uint32_t slots = 1;
    Speed speed;
    std::unique_ptr<SimAgent> agent;
    std::unique_ptr<FaultClient> client;
  };
  enum class Crash { kNone, kBeforeCommit, kAfterCommit };

  // fault_world.cc: the run, the scheduler
  void draw_hosts();
  void plan_faults();
  void step();
  void happen(const Happening& event);
  void heal();
  std::int64_t convergence_time() const;
  void wait_for_convergence();
  void check_quiet();
  void handle(scheduler::Event&& event);
  bool crash_is_due(const scheduler::Effects& effects) const;
  void commit(std::vector<scheduler::Record>&& records);
  void transmit(std::vector<scheduler::Effect>& effects, std::size_t count);
  void send_to(ConnectionId connection, Message&& message);
  void note_gone_agents();
  void to_scheduler(std::uint64_t link);
  void hear(const Link& link, const Message& message);
  void crash_scheduler();
  void restart_scheduler();
  void check_kept(const std::set<CallId>& at_crash) const;

  // fault_hosts.cc: processes, their sessions, the faults
  void start(Host& host);
  void die(Host& host);
  void connect(Host& host);
  void to_peer(std::uint64_t link);
  void to_worker(Host& host, Message&& message);
  void peer_sees_end(std::uint64_t link);
  void greeting_timeout(std::uint64_t link);
  void reconnect(std::uint32_t host, std::uint64_t life);
  void client_step(std::uint32_t host, std::uint64_t life);
  void turn(Host& host);
  FaultClient::Say say_of(Host& host);
  void fault();
  Host& any_worker() { return hosts_[random_.below(workers_)]; }
  Host& any_client() { return hosts_[workers_ + random_.below(hosts_.size() - workers_)]; }
  void partition();
  template <class... Parts> void note(const Parts&... parts);

  const FaultOptions options_;
  FaultResult& result_;
  Random random_;
  Agenda agenda_;
  Links links_;
  Ledger ledger_;
  std::int64_t now_ = 0;
  std::int64_t faults_end_ = 0;
  bool healing_ = false;

  std::vector<Host> hosts_;
  std::uint64_t workers_ = 0;
  std::uint64_t peer_ids_ = 0;
  std::uint64_t calls_per_client_ = 1, items_per_call_ = 1;
  double mean_ms_ = 1;
  std::map<CallId, std::vector<std::int64_t>> sums_;

  std::unique_ptr<scheduler::SchedulerCore> core_;
  std::uint32_t scheduler_life_ = 0;
  std::vector<scheduler::Record> journal_;
  std::set<CallId> calls_at_crash_;
  std::set<PeerId> agents_;  // that the scheduler has known
  Crash crash_ = Crash::kNone;
  std::int64_t crash_latest_ = 0;
  std::uint64_t handled_ = 0;
};

}  // namespace betterbox::sim
