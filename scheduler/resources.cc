#include "scheduler/resources.h"

#include <algorithm>
#include <tuple>

#include "runtime/printable.h"
#include "scheduler/leases.h"
#include "scheduler/results.h"
#include "scheduler/waits.h"

namespace betterbox::scheduler {
namespace {

/// Kinds of resources that have names.
constexpr std::size_t kMostNamed = 64;
/// Of names that users chose, in a message for people.
constexpr std::size_t kMostText = 500;

bool find_able(CallState& call, const Pool& pool) {
  for (const auto& [id, member] : pool.members) {
    if (slots_for(call, *member) == 0) continue;
    call.able = id;
    return true;
  }
  return false;
}

void lose_pending(const Turn& turn, CallState& call, const Pool& pool) {
  const std::vector<Range> lost = call.items.withdraw({0, CallItems::kMaxIndex});
  turn.state.reindex_waiting(call, false);
  settle_as_lost(turn, call, lost, LostCode::kUnsatisfiable, {}, why_unsatisfiable(call, pool));
}

/// An empty pool is no verdict: a member may come at any time.
void watch_unsatisfied(const Turn& turn, Pool& pool) {
  const bool waits = !pool.unsatisfied.empty() && !pool.members.empty();
  turn.state.set_timer(pool.unsatisfied_at,
                       waits ? std::max(turn.now, pool.changed + kNoBoxGrace) : TimePoint::never(),
                       TimerKind::kUnsatisfied, pool.port.value);
}

/// How many of the kinds of needs the capacity meets: who lacks least has "most".
int kinds_met(const Resources& capacity, const Resources& needs) {
  int met = 0;
  met += items_that_fit(capacity, {needs.cpus_milli, 0, 0, {}}, 1) > 0 ? 1 : 0;
  met += items_that_fit(capacity, {0, needs.memory_bytes, 0, {}}, 1) > 0 ? 1 : 0;
  met += items_that_fit(capacity, {0, 0, needs.gpus_milli, {}}, 1) > 0 ? 1 : 0;
  for (const Amount& amount : needs.named)
    met += items_that_fit(capacity, {0, 0, 0, {amount}}, 1) > 0 ? 1 : 0;
  return met;
}

/// What a peer says is not believed beyond ten years.
constexpr std::uint64_t kMostTimeLeftMs = 315'360'000'000;

void pause(const Turn& turn, Peer& agent) {
  for (LeaseState* lease = agent.agent.leases.front(); lease != nullptr;
       lease = LeasesOfAgent::next(*lease)) {
    if (!lease->nothing_to_revoke) revoke_whole_lease(turn, *lease);
  }
}

}  // namespace

Complaint check_resources(const Resources& resources) {
  if (resources.named.size() > kMostNamed) return "more kinds of resources than are allowed";
  for (std::size_t i = 1; i < resources.named.size(); ++i) {
    if (resources.named[i - 1].name >= resources.named[i].name) return "resources whose names do not ascend";
  }
  return std::nullopt;
}

void look_for_able_member(const Turn& turn, CallState& call) {
  if (!call.needy || call.able) return;
  Pool& pool = turn.state.pool(call.port);
  if (find_able(call, pool)) return;
  if (!pool.members.empty() && pool.changed + kNoBoxGrace <= turn.now) return lose_pending(turn, call, pool);
  pool.unsatisfied.insert(call.id);
  watch_unsatisfied(turn, pool);
}

void on_member_changed(const Turn& turn, Pool& pool, const Member& member) {
  pool.changed = turn.now;
  const PeerId id = member.agent->id;
  std::erase_if(pool.unsatisfied, [&](CallId waiting) {
    CallState& call = turn.state.calls.at(waiting);
    if (slots_for(call, member) == 0) return false;
    call.able = id;
    return true;
  });
  for (const CallId other : pool.calls) {
    CallState& call = turn.state.calls.at(other);
    if (call.able != id || slots_for(call, member) > 0) continue;
    call.able = {};
    if (!find_able(call, pool)) pool.unsatisfied.insert(other);
  }
  watch_unsatisfied(turn, pool);
}

void on_member_left(const Turn& turn, Pool& pool, PeerId agent) {
  pool.changed = turn.now;
  for (const CallId id : pool.calls) {
    CallState& call = turn.state.calls.at(id);
    if (call.able != agent) continue;
    call.able = {};
    if (!find_able(call, pool)) pool.unsatisfied.insert(id);
  }
  watch_unsatisfied(turn, pool);
}

void forget_needs(const Turn& turn, CallState& call) {
  if (!call.needy) return;
  call.able = {};
  Pool& pool = turn.state.pool(call.port);
  if (pool.unsatisfied.erase(call.id) > 0) watch_unsatisfied(turn, pool);
}

void on_unsatisfied(const Turn& turn, Pool& pool) {
  pool.unsatisfied_at = TimePoint::never();
  const std::set<CallId> calls = std::exchange(pool.unsatisfied, {});
  for (const CallId id : calls) lose_pending(turn, turn.state.calls.at(id), pool);
}

std::string why_unsatisfiable(const CallState& call, const Pool& pool) {
  const Peer* best = nullptr;
  const auto rank = [&](const Peer& peer) {
    const Resources& has = peer.agent.capacity;
    return std::tuple(kinds_met(has, call.needs), has.cpus_milli, has.memory_bytes);
  };
  for (const auto& [id, member] : pool.members) {
    if (best == nullptr || rank(*member->agent) > rank(*best)) best = member->agent;
  }
  BB_CHECK(best != nullptr);
  return "it needs " + describe(call.needs).substr(0, kMostText) + "; the " +
         (call.port == kFunctionPool ? "worker" : "process") + " with most has " +
         describe(best->agent.capacity).substr(0, kMostText) + " (" + printable(best->name, kMostText) + ")";
}

void on_load(const Turn& turn, Peer& agent, const Load& load) {
  const bool was_paused = agent.agent.load.paused;
  const bool lends_more = load.waiting_slots > agent.agent.load.waiting_slots;
  agent.agent.load = load;
  const std::uint64_t left_ms = std::min(load.time_left_ms, kMostTimeLeftMs);
  agent.agent.ends =
      left_ms > 0 ? turn.now + milliseconds(static_cast<std::int64_t>(left_ms)) : TimePoint::never();
  for (auto& [port, member] : agent.agent.memberships) {
    turn.state.reindex(member);
    if ((was_paused && !load.paused) || lends_more) turn.state.mark_dirty(member);
  }
  if (load.paused) pause(turn, agent);
  if (!load.lends) watch_for_stuck_items(turn, turn.state.pool(kFunctionPool));
}

}  // namespace betterbox::scheduler
