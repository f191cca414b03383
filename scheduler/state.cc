#include "scheduler/state.h"

#include <algorithm>

namespace betterbox::scheduler {
namespace {

/// A lease with less time left is not worth a message to and fro.
constexpr Duration kWorthRevoking = milliseconds(1);
/// Taken for the time of an item before any was measured.
constexpr double kAssumedItemNs = 1e6;

std::size_t lease_limit(const Member& member) {
  return std::max(kMinLeasesPerWorker, kMaxLeasesPerSlot * member.slots);
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
  const PeerId id = member.agent->id;
  p.by_load.erase({member.load, id});
  p.idle.erase({member.load, id});
  member.load = member.slots == 0 ? 0 : member.outstanding * 1024 / member.slots;
  member.grantable = member.agent->connected() && member.slots > 0 && member.leases < lease_limit(member);
  if (!member.grantable) return;
  p.by_load.insert({member.load, id});
  if (member.outstanding < member.slots && !member.stealing) p.idle.insert({member.load, id});
}

void State::reindex(CallState& call, Share& share) {
  const PeerId id = share.agent->id;
  if (share.hungry) call.hungry_shares.erase({share.hungry_key, id});
  const auto member = share.agent->agent.memberships.find(call.port);
  const std::uint64_t slots =
      member == share.agent->agent.memberships.end() ? 0 : slots_for(call, member->second);
  share.hungry = slots > 0 && share.outstanding <=
                                  call.policy->low_water({slots, share.outstanding, share.times}, kRoundTrip);
  share.hungry_key = slots == 0 ? 0 : share.outstanding * 1024 / slots;
  if (share.hungry) call.hungry_shares.insert({share.hungry_key, id});
}

void State::reindex(LeaseState& lease) {
  Pool& p = pool(lease.call->port);
  if (lease.victim_key >= 0) p.victims.erase({lease.victim_key, lease.id});
  lease.victim_key = -1;
  if (lease.revoking || lease.nothing_to_revoke || !lease.member->agent->connected()) return;
  const std::uint64_t slots = slots_for(*lease.call, *lease.member);
  if (lease.open.size() <= slots || slots == 0) return;
  const double own = lease.call->shares.at(lease.member->agent->id).times.mean();
  const double mean = own > 0 ? own : lease.call->times.known() ? lease.call->times.mean() : kAssumedItemNs;
  const double left = static_cast<double>(lease.open.size()) * mean / static_cast<double>(slots);
  if (left < static_cast<double>(kWorthRevoking.ns)) return;
  lease.victim_key = static_cast<std::int64_t>(std::min(left, 1e18));
  p.victims.insert({lease.victim_key, lease.id});
}

void State::reindex_waiting(CallState& call, bool fresh) {
  Pool& p = pool(call.port);
  const auto client = peers.find(call.id.client);
  const bool throttled = client != peers.end() && client->second.client.throttled;
  if (call.items.pending_items() == 0 || throttled) {
    p.waiting.remove(call.id);
    p.dirty_calls.remove(call.id);
    return;
  }
  p.waiting.add(call.id);
  if (!fresh) return;
  p.dirty_calls.add(call.id);
  dirty_pools.insert(call.port);
}

void State::mark_dirty(const Member& member) {
  pool(member.port).dirty_agents.insert(member.agent->id);
  dirty_pools.insert(member.port);
}

void State::remove_from_pool(Member& member) {
  Pool& p = pool(member.port);
  const PeerId id = member.agent->id;
  p.by_load.erase({member.load, id});
  p.idle.erase({member.load, id});
  p.dirty_agents.erase(id);
  p.members.erase(id);
  p.slots -= member.slots;
  member.slots = 0;
  member.grantable = false;
}

bool Turn::send(const Peer& to, Body body, Frames frames) const {
  if (!to.connected()) return false;
  effects.send.push_back(SendMessage{to.connection, {std::move(body), std::move(frames)}});
  return true;
}

}  // namespace betterbox::scheduler
