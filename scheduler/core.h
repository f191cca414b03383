// SchedulerCore: the scheduler as a state machine without I/O. The driver tells it events and the
// time, carries out the effects in their order, and calls it again at next_deadline() at the latest.
//
// No sockets, clocks, threads, randomness or logging inside: the same events give the same effects, in
// a server and in a simulator. Whatever peers send, it does not fail: what is not allowed is refused,
// counted, and its sender dropped.
#pragma once

#include <cstdint>
#include <vector>

#include "scheduler/effects.h"
#include "scheduler/events.h"
#include "scheduler/state.h"

namespace betterbox::scheduler {

class SchedulerCore {
 public:
  SchedulerCore(Config config, TimePoint now);
  /// The successor of a scheduler that kept these records, all of them, in order. `config.peer` must be a new one,
  /// `config.journal` true.
  SchedulerCore(Config config, TimePoint now, std::vector<Record> records);

  /// Appends to `effects` what is to be done. `now` never goes back.
  void handle(TimePoint now, Event&& event, Effects& effects);

  /// When handle() wants a DeadlineReached; never() if it does not.
  TimePoint next_deadline() const;

  /// Compares all tables with each other; ends the process if they disagree. For tests: it costs time
  /// in proportion to the state.
  void sanity_check() const { state_.sanity_check(); }

  /// What a journal may keep instead of all records until now.
  std::vector<Record> snapshot() const;

  const State& state() const { return state_; }

 private:
  State state_;
};

}  // namespace betterbox::scheduler
