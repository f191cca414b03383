#include "scheduler/relief.h"

#include <algorithm>

#include "scheduler/lease_steps.h"

namespace betterbox::scheduler {
namespace {

/// What waited for so long is worth two messages. It is also the least time between two looks.
constexpr Duration kPatience = milliseconds(2);
/// Crowded members that one look goes through, and idle ones that it tries for a lease: what it costs does not go
/// with the bus.
constexpr std::size_t kLookedAt = 16;

void plan_relief(const Turn& turn, Pool& pool, TimePoint at) {
  turn.state.set_timer(pool.relief_at, at, TimerKind::kRelief, pool.port.value);
}

/// Its items may go elsewhere, as far as is known, whatever the policy: it did not give them to wait for another call.
/// (A share with more than its slots can run is for the policy, and for steal().)
bool is_movable(const Turn& turn, const LeaseState& lease) {
  return !lease.nothing_to_revoke && lease.share->outstanding <= lease.share->slots &&
         !turn.state.peers.at(lease.call->id.client).client.throttled;
}

/// How many of the lease's items the member can begin with at once.
std::uint64_t room_for(const Turn& turn, const LeaseState& lease, const Member& member) {
  const std::uint64_t slots = slots_for(*lease.call, member);
  if (slots == 0 || member.filled >= kWhole) return 0;
  return std::min((kWhole - member.filled) / part_of_whole(slots),
                  items_before_end(turn, *lease.call, *member.agent, slots));
}

Member* find_helper(const Turn& turn, const Pool& pool, const LeaseState& lease) {
  std::size_t looked = 0;
  for (Member* member = pool.idle.front(); member != nullptr && looked < kLookedAt;
       member = List<Member, &Member::in_idle>::next(*member), ++looked) {
    if (member->agent != lease.member->agent && room_for(turn, lease, *member) > 0) return member;
  }
  return nullptr;
}

/// What was granted this long ago has been begun by now, or it waits. On the way it may do neither.
Duration patience_for(const LeaseState& lease, const Member& helper) {
  return std::max({kPatience, lease.member->agent->agent.round_trip.expected(),
                   helper.agent->agent.round_trip.expected()});
}

/// Moves items of the lease that was granted last and may be moved: it is the likeliest to wait.
/// Result: when to look again; never: when something has changed.
TimePoint relieve(const Turn& turn, const Pool& pool, const Member& crowded) {
  TimePoint next = TimePoint::never();
  const LeasesOfAgent& leases = crowded.agent->agent.leases;
  for (LeaseState* lease = leases.back(); lease != nullptr; lease = LeasesOfAgent::previous(*lease)) {
    if (lease->member != &crowded) continue;
    if (lease->revoking) return TimePoint::never();
    if (!is_movable(turn, *lease)) continue;
    Member* helper = find_helper(turn, pool, *lease);
    if (helper == nullptr) continue;
    const TimePoint at = lease->granted + patience_for(*lease, *helper);
    if (at > turn.now) {
      next = std::min(next, at);
      continue;
    }
    const std::uint64_t too_many = (crowded.filled - kWhole + lease->part - 1) / lease->part;
    revoke_for(turn, *lease, std::min({too_many, lease->open.size(), room_for(turn, *lease, *helper)}),
               *helper);
    return TimePoint::never();
  }
  return next;
}

}  // namespace

void watch_for_crowds(const Turn& turn, Pool& pool) {
  if (pool.crowded.empty() || pool.idle.empty() || pool.relief_at != TimePoint::never()) return;
  pool.looked_at = 0;
  plan_relief(turn, pool, turn.now + kPatience);
}

void on_relief_due(const Turn& turn, Pool& pool) {
  pool.relief_at = TimePoint::never();
  TimePoint next = TimePoint::never();
  for (std::size_t left = std::min(kLookedAt, pool.crowded.size()); left > 0 && !pool.idle.empty(); --left) {
    Member& crowded = *pool.crowded.front();
    pool.crowded.remove(crowded);  // its turn again after the others
    pool.crowded.push_back(crowded);
    next = std::min(next, relieve(turn, pool, crowded));
  }
  pool.looked_at += kLookedAt;
  if (next != TimePoint::never()) pool.looked_at = 0;
  if (pool.looked_at < pool.crowded.size()) next = std::min(next, turn.now + kPatience);
  if (next != TimePoint::never() && !pool.idle.empty())
    plan_relief(turn, pool, std::max(next, turn.now + kPatience));
}

}  // namespace betterbox::scheduler
