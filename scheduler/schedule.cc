#include "scheduler/schedule.h"

#include "scheduler/copies.h"
#include "scheduler/leases.h"
#include "scheduler/relief.h"
#include "scheduler/values.h"

namespace betterbox::scheduler {
namespace {

/// How many candidates one step looks at before it gives up: what a step costs does not go with the bus.
constexpr int kSharesLookedAt = 16;

bool is_hungry(const CallState& call, const Member& member) {
  if (!member.grantable) return false;
  const auto share = call.shares.find(member.agent->id);
  if (share != call.shares.end()) return call.hungry_shares.contains(share->second);
  return slots_for(call, member) > 0;
}

Member* find_untouched_worker(Pool& pool, CallState& call) {
  for (auto it = pool.members.upper_bound(call.untouched_cursor); it != pool.members.end(); ++it) {
    call.untouched_cursor = it->first;
    if (!call.shares.contains(it->first) && is_hungry(call, *it->second)) return it->second;
  }
  return nullptr;
}

bool has_free_slot(const Member& member) {
  return member.bucket < LoadIndex<Member, &Member::in_bucket>::kFullBucket;
}

/// Offers a call's items to workers with a free slot in whose store its values are, then to the least loaded that are
/// hungry for them, then to others that are.
/// Result: true if one took some.
bool offer_to_a_worker(const Turn& turn, Pool& pool, CallState& call) {
  int looked = 0;
  if (!call.values.empty()) {
    for (Member* member = pool.by_load.least_loaded(); member != nullptr && looked < kSharesLookedAt;
         ++looked) {
      if (is_hungry(call, *member) && has_values(turn.state, call, *member) && has_free_slot(*member) &&
          grant(turn, call, *member))
        return true;
      member = pool.by_load.next(*member, member->bucket);
    }
    looked = 0;
  }
  for (Member* member = pool.by_load.least_loaded(); member != nullptr;
       member = pool.by_load.next(*member, member->bucket)) {
    if (is_hungry(call, *member) && grant(turn, call, *member)) return true;
    if (++looked == kSharesLookedAt) break;
  }
  if (looked < kSharesLookedAt) return false;  // those were all
  looked = 0;
  for (Share* share = call.hungry_shares.front(); share != nullptr && looked < kSharesLookedAt;
       share = HungryShares::next(*share), ++looked) {
    const auto member = share->agent->agent.memberships.find(call.port);
    if (member != share->agent->agent.memberships.end() && member->second.grantable &&
        grant(turn, call, member->second)) {
      return true;
    }
  }
  Member* untouched = find_untouched_worker(pool, call);
  return untouched != nullptr && grant(turn, call, *untouched);
}

/// Calls with new items look for workers, taking turns.
void offer_calls_to_workers(const Turn& turn, Pool& pool) {
  while (!pool.dirty_calls.empty()) {
    const CallId id = pool.dirty_calls.next();
    CallState& call = turn.state.calls.at(id);
    if (!offer_to_a_worker(turn, pool, call)) pool.dirty_calls.remove(id, call.rank());
  }
}

/// A worker that may have become hungry looks at the calls that wait: higher ranks first, equals in turns.
void offer_waiting_calls(const Turn& turn, Pool& pool, Member& worker) {
  std::optional<FairQueue::Rank> level;
  if (!pool.waiting.empty()) level = pool.waiting.highest();
  for (; level && worker.grantable; level = pool.waiting.below(*level)) {
    std::size_t in_vain = 0;
    while (worker.grantable && in_vain < pool.waiting.size_at(*level)) {
      CallState& call = turn.state.calls.at(pool.waiting.next_at(*level));
      if (is_hungry(call, worker) && grant(turn, call, worker)) {
        in_vain = 0;
      } else {
        ++in_vain;
      }
    }
  }
}

void offer_workers_to_calls(const Turn& turn, Pool& pool) {
  while (Member* worker = pool.dirty_agents.front()) {
    pool.dirty_agents.remove(*worker);
    offer_waiting_calls(turn, pool, *worker);
  }
}

/// A worker has a free slot, and there was nothing for it: it takes from the one that would end last.
void move_work_to_idle_workers(const Turn& turn, Pool& pool) {
  int looked = 0;
  for (Member* thief = pool.idle.front();
       thief != nullptr && !pool.victims.empty() && looked < kSharesLookedAt; ++looked) {
    Member* next = List<Member, &Member::in_idle>::next(*thief);
    auto victim = pool.victims.rbegin();
    while (victim != pool.victims.rend() && victim->second->agent == thief->agent) ++victim;
    const bool stole = victim != pool.victims.rend() && steal(turn, *victim->second, *thief);
    if (!stole) {  // its turn again after the others
      pool.idle.remove(*thief);
      pool.idle.push_back(*thief);
    }
    thief = next;
  }
}

}  // namespace

void offer_again(const Turn& turn, Pool& pool) {
  pool.offer_again_at = TimePoint::never();
  if (pool.waiting.empty()) return;
  for (Member* member = pool.idle.front(); member != nullptr;
       member = List<Member, &Member::in_idle>::next(*member))
    turn.state.mark_dirty(*member);
}

void schedule(const Turn& turn) {
  while (!turn.state.dirty_pools.empty()) {
    Pool& pool = turn.state.pool(*turn.state.dirty_pools.begin());
    turn.state.dirty_pools.erase(turn.state.dirty_pools.begin());
    offer_calls_to_workers(turn, pool);
    offer_workers_to_calls(turn, pool);
    move_work_to_idle_workers(turn, pool);
    watch_for_crowds(turn, pool);
    watch_for_copies(turn, pool);
  }
}

}  // namespace betterbox::scheduler
