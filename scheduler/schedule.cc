#include "scheduler/schedule.h"

#include "scheduler/leases.h"

namespace betterbox::scheduler {
namespace {

/// Least loaded workers to look at before the call's own indices are asked.
constexpr int kLookedAt = 16;

bool is_hungry(const CallState& call, const Member& member) {
  if (!member.grantable) return false;
  const auto share = call.shares.find(member.agent->id);
  if (share != call.shares.end()) return share->second.hungry;
  return slots_for(call, member) > 0;
}

Member* find_untouched_worker(Pool& pool, CallState& call) {
  for (auto it = pool.members.upper_bound(call.untouched_cursor); it != pool.members.end(); ++it) {
    call.untouched_cursor = it->first;
    if (!call.shares.contains(it->first) && is_hungry(call, *it->second)) return it->second;
  }
  return nullptr;
}

/// The least loaded worker that is hungry for this call, as far as a few looks tell; any, if there is one.
Member* find_hungry_worker(Pool& pool, CallState& call) {
  int looked = 0;
  for (const auto& [load, id] : pool.by_load) {
    Member* member = pool.members.at(id);
    if (is_hungry(call, *member)) return member;
    if (++looked == kLookedAt) break;
  }
  if (looked < kLookedAt) return nullptr;  // those were all
  for (const auto& [load, id] : call.hungry_shares) {
    const auto member = pool.members.find(id);
    if (member != pool.members.end() && member->second->grantable) return member->second;
  }
  return find_untouched_worker(pool, call);
}

/// Calls with new items look for workers, taking turns.
void offer_calls_to_workers(const Turn& turn, Pool& pool) {
  while (!pool.dirty_calls.empty()) {
    const CallId id = pool.dirty_calls.next();
    CallState& call = turn.state.calls.at(id);
    Member* worker = find_hungry_worker(pool, call);
    if (worker == nullptr) {
      pool.dirty_calls.remove(id);
    } else {
      grant(turn, call, *worker);
    }
  }
}

/// A worker that may have become hungry looks at the calls that wait, in turns.
void offer_waiting_calls(const Turn& turn, Pool& pool, Member& worker) {
  std::size_t in_vain = 0;
  while (worker.grantable && !pool.waiting.empty() && in_vain < pool.waiting.size()) {
    CallState& call = turn.state.calls.at(pool.waiting.next());
    if (!is_hungry(call, worker)) {
      ++in_vain;
      continue;
    }
    grant(turn, call, worker);
    in_vain = 0;
  }
}

void offer_workers_to_calls(const Turn& turn, Pool& pool) {
  while (!pool.dirty_agents.empty()) {
    const PeerId id = *pool.dirty_agents.begin();
    pool.dirty_agents.erase(pool.dirty_agents.begin());
    const auto worker = pool.members.find(id);
    if (worker != pool.members.end()) offer_waiting_calls(turn, pool, *worker->second);
  }
}

/// Nothing waits and a worker has a free slot: half of the lease with most time left is for it.
void move_work_to_idle_workers(const Turn& turn, Pool& pool) {
  if (!pool.waiting.empty()) return;
  auto idle = pool.idle.begin();
  while (idle != pool.idle.end() && !pool.victims.empty()) {
    Member& thief = *pool.members.at(idle->second);
    ++idle;
    auto victim = pool.victims.rbegin();
    while (victim != pool.victims.rend() && turn.state.leases.at(victim->second).member == &thief) ++victim;
    if (victim != pool.victims.rend()) revoke_half(turn, turn.state.leases.at(victim->second), thief);
  }
}

}  // namespace

void schedule(const Turn& turn) {
  while (!turn.state.dirty_pools.empty()) {
    Pool& pool = turn.state.pool(*turn.state.dirty_pools.begin());
    turn.state.dirty_pools.erase(turn.state.dirty_pools.begin());
    offer_calls_to_workers(turn, pool);
    offer_workers_to_calls(turn, pool);
    move_work_to_idle_workers(turn, pool);
  }
}

}  // namespace betterbox::scheduler
