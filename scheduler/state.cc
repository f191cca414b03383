#include "scheduler/state.h"

#include <algorithm>

namespace betterbox::scheduler {
namespace {

/// Of an agent's slots, however busy its host is: the load is of a moment.
constexpr double kMostTakenByOthers = 0.9;

/// What an item that waits has asked for must come in beside it.
std::size_t lease_limit(const Member& member) {
  return std::max(kMinLeasesPerWorker, kMaxLeasesPerSlot * member.slots) +
         kMaxLeasesPerSlot * lent_slots(member);
}

template <class Members> void move_to(Members& members, Member& member, bool belongs) {
  if (belongs == Members::contains(member)) return;
  if (belongs) {
    members.push_back(member);
  } else {
    members.remove(member);
  }
}

}  // namespace

State::State(Config c) : config(std::move(c)) {}

Peer* State::find_peer(PeerId id) {
  const auto it = peers.find(id);
  return it == peers.end() ? nullptr : &it->second;
}

CallState* State::find_call(CallId id) {
  const auto it = calls.find(id);
  return it == calls.end() ? nullptr : &it->second;
}

LeaseState* State::find_lease(LeaseId id) {
  const auto it = leases.find(id);
  return it == leases.end() ? nullptr : &it->second;
}

Pool& State::pool(Port port) {
  Pool& pool = pools[port];
  pool.port = port;
  return pool;
}

LeaseId State::new_lease_id() {
  // The upper half tells incarnations of the scheduler apart.
  return {((config.peer.value << 32) | (std::uint64_t{1} << 63)) + ++lease_ids};
}

void State::set_timer(TimePoint& current, TimePoint at, TimerKind kind, std::uint64_t a, std::uint64_t b) {
  if (current == at) return;
  if (current != TimePoint::never()) timers.erase({current, kind, a, b});
  if (at != TimePoint::never()) timers.insert({at, kind, a, b});
  current = at;
}

void State::reindex(Member& member) {
  Pool& p = pool(member.port);
  const Load& load = member.agent->agent.load;
  member.grantable =
      member.agent->connected() && !load.paused && member.slots > 0 && member.leases < lease_limit(member);
  const int bucket = member.grantable ? p.by_load.bucket_of(taken_slots(member), member.slots) : -1;
  if (bucket != member.bucket) {
    if (member.bucket >= 0) p.by_load.remove(member, member.bucket);
    if (bucket >= 0) p.by_load.add(member, bucket);
    member.bucket = bucket;
  }
  const bool idle = member.grantable && !member.stealing &&
                    taking_slots(member) < std::max<std::uint64_t>(member.slots, member.reserve);
  const std::uint64_t free_slots =
      idle && taking_slots(member) < member.slots ? member.slots - taking_slots(member) : 0;
  p.idle_slots += free_slots - member.free_slots;
  member.free_slots = free_slots;
  move_to(p.idle, member, idle);
  move_to(p.crowded, member, is_crowded(member));
}

void State::reindex(CallState& call, Share& share) {
  Pool& p = pool(call.port);
  const auto at = share.agent->agent.memberships.find(call.port);
  const std::uint64_t slots = at == share.agent->agent.memberships.end() ? 0 : slots_for(call, at->second);

  const bool hungry =
      slots > 0 &&
      share.outstanding <= call.policy->low_water({slots, share.outstanding, share.times, call.times.mean()},
                                                  share.agent->agent.round_trip.ahead());
  if (hungry != call.hungry_shares.contains(share)) {
    if (hungry) {
      call.hungry_shares.push_back(share);
    } else {
      call.hungry_shares.remove(share);
    }
  }
  const bool worth_cutting = call.policy->adapts && slots > 0 && share.outstanding > slots &&
                             share.agent->connected() && lease_to_cut(share) != nullptr;
  std::optional<VictimKey> key;
  if (worth_cutting) key = VictimKey{share.finish, call.id, share.agent->id};
  if (key == share.victim_key) return;
  if (share.victim_key) p.victims.erase(*share.victim_key);
  if (key) p.victims.emplace(*key, &share);
  share.victim_key = key;
}

void State::forget_share(Share& share) {
  CallState& call = *share.call;
  BB_CHECK(share.leases.empty());
  call.hungry_shares.remove(share);
  if (share.victim_key) pool(call.port).victims.erase(*share.victim_key);
  share.victim_key.reset();
}

void State::count_maybe_done(CallState& call) {
  if (call.maybe_done) return;
  call.maybe_done = true;
  maybe_done.push_back(call.id);
}

void State::reindex_waiting(CallState& call, bool fresh) {
  Pool& p = pool(call.port);
  const auto client = peers.find(call.id.client);
  const bool throttled = client != peers.end() && client->second.client.throttled;
  if (call.items.pending_items() == 0 || throttled) {
    p.waiting.remove(call.id, call.rank());
    p.dirty_calls.remove(call.id, call.rank());
    return;
  }
  p.waiting.add(call.id, call.rank());
  if (!fresh) return;
  p.dirty_calls.add(call.id, call.rank());
  dirty_pools.insert(call.port);
}

void State::mark_dirty(Member& member) {
  Pool& p = pool(member.port);
  if (!p.dirty_agents.contains(member)) p.dirty_agents.push_back(member);
  dirty_pools.insert(member.port);
}

void State::remove_from_pool(Member& member) {
  Pool& p = pool(member.port);
  p.dirty_agents.remove(member);
  p.members.erase(member.agent->id);
  p.slots -= member.slots;
  member.slots = 0;
  reindex(member);
}

LeaseState* lease_to_cut(const Share& share) {
  for (LeaseState* lease = share.leases.back(); lease != nullptr; lease = LeasesOfShare::previous(*lease)) {
    if (lease->revoking) return nullptr;
    if (!lease->nothing_to_revoke) return lease;
  }
  return nullptr;
}

RangeSet unsettled_in(const CallState& call, Range within) {
  RangeSet unsettled;
  for (const Range& r : call.items.pending_in(within)) unsettled.insert(r);
  for (const LeaseState* lease = call.leases.front(); lease != nullptr; lease = LeasesOfCall::next(*lease)) {
    for (const Range& r : lease->open.intersection(within)) unsettled.insert(r);
  }
  return unsettled;
}

std::uint64_t slots_to_begin_with(const CallState& call, const Member& member) {
  const std::uint64_t slots = slots_for(call, member);
  const AgentPart& agent = member.agent->agent;
  if (agent.load.others_cpus_milli == 0 || agent.capacity.cpus_milli == 0 || slots == 0) return slots;
  const double taken =
      static_cast<double>(agent.load.others_cpus_milli) / static_cast<double>(agent.capacity.cpus_milli);
  const double left = static_cast<double>(slots) * (1 - std::min(kMostTakenByOthers, taken));
  return std::max<std::uint64_t>(1, static_cast<std::uint64_t>(left));
}

bool Turn::send(const Peer& to, Body body, Frames frames) const {
  if (!to.connected()) return false;
  effects.send.push_back(SendMessage{to.connection, {std::move(body), std::move(frames)}});
  return true;
}

}  // namespace betterbox::scheduler
