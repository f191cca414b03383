#include "scheduler/waits.h"

#include <algorithm>

#include "runtime/printable.h"
#include "scheduler/leases.h"
#include "scheduler/results.h"

namespace betterbox::scheduler {
namespace {

/// What one wait may be for.
constexpr std::size_t kMaxAwaited = 4096;
/// That a wait is over may be on its way when the next one is told: a cycle must last.
constexpr Duration kLastingCycle = milliseconds(200);
/// Nothing that runs lets go for so long: not a multiple of what waits wake up for, which looks like the end of a wait.
constexpr Duration kStuckGrace = seconds(3);
/// Steps of a cycle that are shown.
constexpr std::size_t kShownSteps = 16;
/// Of names that users chose, in a message for people.
constexpr std::size_t kMostName = 100;

/// The one box at the port of a call that is spread over boxes.
BoxId only_box(const State& state, CallId id) {
  const auto call = state.calls.find(id);
  if (call == state.calls.end() || call->second.port == kFunctionPool) return {};
  const auto boxes = state.boxes.find(call->second.port);
  if (boxes == state.boxes.end() || boxes->second.size() != 1) return {};
  return boxes->second.begin()->second.info.box;
}

std::vector<const Waits*> cycle_through(const State& state, WaitId id) {
  return state.waits.cycle_through(id, [&](CallId call) { return only_box(state, call); });
}

std::string name_of(const State& state, const Waits& wait) {
  if (wait.box != BoxId{}) {
    const auto agent = state.peers.find(wait.box.agent);
    if (agent == state.peers.end()) return "a box";
    const auto box = agent->second.agent.boxes.find(wait.box.seat);
    if (box == agent->second.agent.boxes.end()) return "a box";
    const BoxInfo& info = box->second.info;
    return "box " + printable(info.class_name, kMostName) + " at port " + std::to_string(info.port.value) +
           " (pid " + std::to_string(agent->second.pid) + " on " + printable(agent->second.host, kMostName) +
           ", slot " + std::to_string(wait.box.seat.value) + ")";
  }
  const auto call = state.calls.find(wait.call);
  return "an item of " + (call == state.calls.end() ? std::string("a call")
                                                    : printable(call->second.method, kMostName) + "()");
}

constexpr std::string_view kAdvice =
    ". A box runs one call at a time: make the method that is waited for `@concurrent` or `async`, or return "
    "the promise "
    "instead of waiting for it";

/// "box A at port 1 waits for box B at port 2, which waits for box A at port 1".
std::string shown(const State& state, const std::vector<const Waits*>& cycle) {
  std::string text = name_of(state, *cycle.front());
  if (cycle.size() == 1) return text + " waits for itself";
  for (std::size_t i = 1; i <= cycle.size(); ++i) {
    if (i == kShownSteps && cycle.size() > kShownSteps) {
      text += ", and so on over " + std::to_string(cycle.size() - i) + " more";
      break;
    }
    text += (i == 1 ? " waits for " : ", which waits for ") + name_of(state, *cycle[i % cycle.size()]);
  }
  return text;
}

/// Whatever items have called could only run in slots, and each of these holds an item that waits.
bool is_stuck(const Pool& pool) {
  if (pool.port != kFunctionPool || pool.members.empty()) return false;
  return std::all_of(pool.members.begin(), pool.members.end(), [](const auto& entry) {
    const Load& load = entry.second->agent->agent.load;
    return entry.second->agent->connected() && !load.lends && load.waiting_slots >= entry.second->slots;
  });
}

}  // namespace

void watch_for_stuck_items(const Turn& turn, Pool& pool) {
  if (pool.stuck_at == TimePoint::never() && is_stuck(pool))
    turn.state.set_timer(pool.stuck_at, turn.now + kStuckGrace, TimerKind::kStuck, pool.port.value);
}

void on_stuck_due(const Turn& turn, Pool& pool) {
  pool.stuck_at = TimePoint::never();
  if (!is_stuck(pool)) return;
  const std::set<CallId> calls = pool.calls;
  for (const CallId id : calls) {
    CallState& call = turn.state.calls.at(id);
    if (call.depth == 0 || call.items.pending_items() + call.outstanding == 0) continue;
    const std::vector<Range> lost = unsettled_in(call, {0, CallItems::kMaxIndex}).ranges();
    call.items.withdraw({0, CallItems::kMaxIndex});
    end_leases(turn, call);
    turn.state.reindex_waiting(call, false);
    settle_as_lost(
        turn, call, lost, LostCode::kDeadlock, {},
        "all " + std::to_string(pool.slots) +
            " slots hold items that wait for calls of their own, and no more places can be lent to these. "
            "Start more workers (ranks of an MPI job have one thread each and lend nothing), or nest less");
  }
}

Complaint on_waits(const Turn& turn, Peer& client, Waits&& waits) {
  if (waits.boxes.size() + waits.calls.size() > kMaxAwaited) return "Waits for more than is allowed";
  const WaitId id{client.id, waits.number};
  turn.state.waits.erase(id);
  if (waits.boxes.empty() && waits.calls.empty()) return std::nullopt;
  if (!turn.state.waits.put(id, std::move(waits)) || cycle_through(turn.state, id).empty())
    return std::nullopt;
  TimePoint unused = TimePoint::never();
  turn.state.set_timer(unused, turn.now + kLastingCycle, TimerKind::kDeadlock, client.id.value, id.second);
  return std::nullopt;
}

void on_deadlock_due(const Turn& turn, WaitId id) {
  const std::vector<const Waits*> cycle = cycle_through(turn.state, id);
  const Peer* client = turn.state.find_peer(id.first);
  if (cycle.empty() || client == nullptr) return;
  turn.send(*client, Deadlock{id.second, shown(turn.state, cycle).append(kAdvice)});
}

}  // namespace betterbox::scheduler
