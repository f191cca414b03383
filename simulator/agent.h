// A simulated agent: the real worker core, and what worker/agent_loop.cc and worker/executor.cc do around it, on
// simulated slots. When it looks at its slots is as there: a station that is used up rings at once; after a look that
// found outcomes it looks again after an interval; after one that found none it is rung for the next outcome.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "simulator/cluster.h"
#include "simulator/slot.h"
#include "worker/core.h"

namespace betterbox::sim {

/// The submission is at this point of the cores' clock: what happens before it is in their past, too.
inline constexpr TimePoint kSubmission{1'000'000'000'000};
inline TimePoint core_time(std::int64_t ns) { return {kSubmission.ns + ns}; }
inline std::int64_t sim_time(TimePoint t) { return t == TimePoint::never() ? kNever : t.ns - kSubmission.ns; }

/// Outcomes that a slot has published: items [first, first + count) of a call, the first one begun at `start`.
struct Executed {
  CallId call;
  std::uint32_t agent = 0;
  std::uint32_t slot = 0;
  std::uint64_t first = 0;
  std::uint32_t count = 0;
  const std::int64_t* ends = nullptr;  ///< one per item
  std::int64_t start = 0;              ///< of the first
};

class SimAgent;

/// What agents stand in.
class AgentWorld {
 public:
  virtual ~AgentWorld() = default;
  virtual void from_agent(SimAgent& agent, Message&& message) = 0;
  /// Prefix sums of the call's item times.
  virtual const std::int64_t* sums_of(CallId call) = 0;
  /// Notes the execution; the result is its page of outcomes.
  virtual Frame outcomes(const Executed& executed) = 0;
  /// A slot is given what the call runs.
  virtual void context_given(CallId call, const Frame& context) = 0;
  /// Its core has ended (StopAsked was carried out).
  virtual void agent_stopped(SimAgent& agent) = 0;
};

class SimAgent {
 public:
  struct Options {
    std::uint32_t number = 0;
    PeerId peer;
    std::uint32_t slots = 1;
    std::int64_t wake_ns = 0;
  };
  SimAgent(AgentWorld& world, const Options& options, const Speed& speed);

  // What happens to it. Each is followed by turn().
  void receive(std::int64_t now, Message&& message);
  void feed(std::int64_t now, Event&& event);
  /// A slot's process dies. Result: false if there was none.
  bool crash_slot(std::int64_t now, std::uint32_t slot, std::int32_t signal);

  /// Looks at the slots, ends the core's turn. Result: when it wants to look again.
  std::int64_t turn(std::int64_t now);

  std::uint32_t number() const { return options_.number; }
  PeerId peer() const { return options_.peer; }
  const WorkerCore& core() const { return core_; }
  Hello hello(std::uint64_t session) const;
  std::int64_t busy_ns() const { return busy_ns_; }
  /// Work that was begun and whose outcome nobody saw, because the process was killed or died.
  std::int64_t wasted_ns() const { return wasted_ns_; }
  const std::vector<std::int64_t>& slot_busy_ns() const { return slot_busy_; }

 private:
  struct Process {
    SimSlot slot;
    std::uint32_t life = 0;
    bool alive = false;
    bool ready_said = true;
    std::int64_t died_at = kNever;  // not reported yet
    std::int32_t signal = 0;
    std::array<SimSlot::End, 2> ends;
    CallId calls[2];  // of the stations
  };

  void run_effects(std::int64_t now);
  void carry_out(std::int64_t now, Effect&& effect);
  void install(std::int64_t now, const InstallLease& e);
  CutDone cut(std::int64_t now, const CutLease& e);
  void die(std::int64_t now, std::uint32_t seat, std::int32_t signal);
  void note_waste(std::int64_t now, std::uint32_t seat);
  void collect(std::int64_t now);
  void report(std::int64_t now, std::uint32_t seat);
  void report_outcomes(std::int64_t now, std::uint32_t seat, const SlotRecord& record);
  void look_changed(std::uint32_t seat);
  std::int64_t next_look(std::int64_t now) const;

  AgentWorld& world_;
  const Options options_;
  const Speed& speed_;
  WorkerCore core_;
  std::vector<Process> processes_;
  std::vector<std::int64_t> record_at_;  // by slot: when it next says something
  std::vector<std::int64_t> ring_at_;    // ... that it rings for
  std::vector<std::int64_t> slot_busy_;
  std::int64_t busy_ns_ = 0, wasted_ns_ = 0;
  bool fed_ = false;
  bool outcomes_seen_ = false;
  bool carrying_out_ = false;
};

}  // namespace betterbox::sim
