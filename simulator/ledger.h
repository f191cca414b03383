// The checkers of outcomes: a ledger of every execution, of who holds which item by what passed between scheduler and
// agents, and of what may reach a client. Each execution has a number, which travels as its outcome's value.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "runtime/messages.h"
#include "runtime/page.h"

namespace betterbox::sim {

/// A rule was broken.
struct Violation : std::runtime_error {
  Violation(std::string which, const std::string& what)
      : std::runtime_error(what), checker(std::move(which)) {}
  std::string checker;
};

class Ledger {
 public:
  /// A whole execution; the result is its number. Checks that the slot ran nothing else meanwhile.
  std::uint64_t executed(CallId call, std::uint64_t item, PeerId agent, std::uint32_t slot,
                         std::int64_t start, std::int64_t end);
  /// The page of outcomes of executions [first, first + count).
  static Frame page(std::uint64_t first, std::uint32_t count);

  // What the scheduler learns and says, in its order. Leases of an agent that is gone, that came back without
  // them, that gave items back or was told to drop them: from then on their outcomes are stale.
  void scheduler_began();
  void lease_sent(PeerId agent, const Lease& lease);
  void agent_greets(PeerId agent, const std::vector<HeldLease>& held);
  void agent_gone(PeerId agent);
  void released(PeerId agent, const Released& released);
  void abandoned(const Abandon& abandon);
  void call_dropped(CallId call);
  void outcomes_arrived(PeerId agent, const Outcomes& outcomes, const Frames& frames);
  /// Checks that no stale attempt is among them.
  void results_leave(PeerId client, const Results& results, const Frames& frames);

  /// The execution number of an item of a page of results; 0: the system made the outcome, and says which.
  static std::uint64_t number_of(const Frame& page, std::uint64_t place, LostCode& lost);

  std::uint64_t run_twice() const { return run_twice_; }
  std::uint64_t executions() const { return runs_.size(); }

 private:
  struct Run {
    CallId call;
    std::uint64_t item = 0;
    std::uint64_t reported_to = 0;  ///< incarnation of the scheduler that heard of it first
    bool held = false;              ///< the item was the lease's when it did
    bool approved = false;
  };
  struct Held {
    PeerId agent;
    CallId call;
    RangeSet items;
  };
  Run& run(std::uint64_t number);

  std::deque<Run> runs_;  // number - 1
  std::map<std::pair<CallId, std::uint64_t>, std::uint32_t> times_run_;
  std::map<std::pair<PeerId, std::uint32_t>, std::int64_t> slot_free_at_;
  std::map<LeaseId, Held> held_;
  std::uint64_t incarnation_ = 0;
  std::uint64_t run_twice_ = 0;
};

}  // namespace betterbox::sim
