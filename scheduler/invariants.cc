// State::sanity_check: every table against every other one.
#include "scheduler/state.h"

namespace betterbox::scheduler {

void State::sanity_check() const {
  for (const auto& [id, call] : calls) check_call(call);
  check_pools();
  check_peers();
  check_values();
}

/// Every known item is settled, pending, or open in exactly one lease; in two if it has twins.
void State::check_call(const CallState& call) const {
  call.items.sanity_check();
  std::uint64_t leased = 0;
  std::map<PeerId, std::uint64_t> outstanding;
  RangeSet seen;
  std::uint64_t run_twice = 0;
  for (const LeaseState* each = call.leases.front(); each != nullptr; each = LeasesOfCall::next(*each)) {
    const LeaseState& lease = *each;
    BB_CHECK(&leases.at(lease.id) == each && lease.call == &call && LeasesOfAgent::contains(lease));
    BB_CHECK(lease.share == &call.shares.at(lease.member->agent->id) && LeasesOfShare::contains(lease));
    BB_CHECK(!lease.open.empty() && lease.range.contains(lease.open.front()) &&
             lease.range.contains(lease.open.back()));
    for (const Range& r : lease.open.ranges()) {
      BB_CHECK(call.items.delivered().intersection(r).empty());
      run_twice += r.size() - seen.insert(r);
    }
    leased += lease.open.size();
    outstanding[lease.member->agent->id] += lease.open.size();
  }
  for (const Range& r : call.items.pending_ranges()) BB_CHECK(seen.insert(r) == r.size());
  BB_CHECK(leased + call.items.pending_items() == call.items.unsettled_items() + run_twice);
  BB_CHECK(run_twice == call.twins.size());
  for (const auto& [index, twins] : call.twins)
    BB_CHECK(leases.at(twins.original).open.contains(index) && leases.at(twins.copy).open.contains(index));
  BB_CHECK(leased == call.outstanding);
  std::size_t hungry = 0;
  for (const Share* each : call.shares.sorted()) {
    const Share& share = *each;
    const PeerId id = share.agent->id;
    BB_CHECK(&call.shares.at(id) == each);
    BB_CHECK(share.agent == &peers.at(id) && share.agent->agent.calls.contains(call.id));
    BB_CHECK(share.call == &call && share.outstanding == outstanding[id]);
    hungry += call.hungry_shares.contains(share) ? 1 : 0;
    if (share.victim_key) BB_CHECK(pools.at(call.port).victims.at(*share.victim_key) == &share);
  }
  BB_CHECK(hungry == call.hungry_shares.size());
  for (const auto& [index, deaths] : call.deaths) BB_CHECK(seen.contains(index) && deaths > 0);
  BB_CHECK(peers.at(call.id.client).client.calls.contains(call.id.serial));
  if (call.able) BB_CHECK(slots_for(call, *pools.at(call.port).members.at(call.able)) > 0);
  BB_CHECK(call.done == !pools.at(call.port).calls.contains(call.id));
  BB_CHECK(!call.done || (call.closed && call.items.unsettled_items() == 0));
}

void State::check_pools() const {
  for (const auto& [port, p] : pools) {
    std::uint64_t pool_slots = 0;
    std::uint64_t outstanding = 0;
    std::uint64_t idle_slots = 0;
    std::size_t crowded = 0;
    for (const auto& [id, member] : p.members) {
      BB_CHECK(member->agent->id == id && member->port == port && member->slots > 0);
      BB_CHECK(member == &member->agent->agent.memberships.at(port));
      BB_CHECK(member->grantable == (member->bucket >= 0));
      if (member->grantable)
        BB_CHECK(member->bucket == p.by_load.bucket_of(taken_slots(*member), member->slots));
      idle_slots += member->free_slots;
      pool_slots += member->slots;
      outstanding += member->outstanding;
      BB_CHECK(p.crowded.contains(*member) == is_crowded(*member));
      crowded += p.crowded.contains(*member) ? 1 : 0;
    }
    BB_CHECK(crowded == p.crowded.size());
    BB_CHECK(pool_slots == p.slots && outstanding == p.outstanding);
    BB_CHECK(idle_slots == p.idle_slots && p.idle.size() <= p.members.size());
    for (const CallId id : p.calls) {
      const CallState& call = calls.at(id);
      const bool throttled = peers.at(id.client).client.throttled;
      BB_CHECK(p.waiting.contains(id, call.rank()) == (call.items.pending_items() > 0 && !throttled));
    }
    for (const CallId id : p.unsatisfied) BB_CHECK(p.calls.contains(id) && !calls.at(id).able);
    for (const auto& [key, share] : p.victims) BB_CHECK(share->victim_key == key);
    BB_CHECK(p.dirty_calls.empty() && p.dirty_agents.empty());
  }
  BB_CHECK(dirty_pools.empty() && maybe_done.empty());
}

void State::check_peers() const {
  std::uint64_t foreground = 0;
  std::size_t held_leases = 0;
  for (const auto& [id, peer] : peers) {
    BB_CHECK(peer.id == id);
    if (peer.connected()) BB_CHECK(connections.at(peer.connection) == &peer);
    if (peer.connected() && !peer.background) ++foreground;
    BB_CHECK(peer.connected() == (peer.gone_at == TimePoint::never()));
    held_leases += peer.agent.leases.size();
    peer.agent.contents.sanity_check();
    std::size_t in_memberships = 0;
    std::uint64_t filled = 0;
    for (const auto& [port, member] : peer.agent.memberships)
      in_memberships += member.leases, filled += member.filled;
    BB_CHECK(in_memberships == peer.agent.leases.size());
    for (const LeaseState* each = peer.agent.leases.front(); each != nullptr;
         each = LeasesOfAgent::next(*each))
      filled -= each->open.size() * each->part;
    BB_CHECK(filled == 0);
    for (const auto& [seat, box] : peer.agent.boxes)
      BB_CHECK(boxes.at(box.info.port).at(box.joined).info.box == box.info.box);
    std::size_t unacked = 0;
    for (const KeptResults& kept : peer.client.unacked) unacked += kept.bytes;
    BB_CHECK(unacked == peer.client.unacked_bytes);
    std::size_t item_bytes = 0;
    for (const std::uint64_t serial : peer.client.calls)
      item_bytes += calls.at({id, serial}).items.held_bytes();
    BB_CHECK(item_bytes == peer.client.item_bytes);
  }
  BB_CHECK(foreground == foreground_peers);
  BB_CHECK(held_leases == leases.size());
  BB_CHECK(connections.size() <= peers.size());
}

/// Whoever has a part in a value is known to have it; what stores give is what is under way.
void State::check_values() const {
  std::map<std::string, std::uint32_t> giving;
  BB_CHECK(values.names.size() == values.by_name.size());
  for (const auto& [name, value] : values.by_name) {
    BB_CHECK(value.id.name == name && values.names.at(value.number) == name);
    BB_CHECK(value.holders.empty() == (value.unheld_at != TimePoint::never()));
    const auto knows = [&, &known = name](PeerId id) {
      return peers.contains(id) && values.touched.contains(id) && values.touched.at(id).contains(known);
    };
    for (const PeerId id : value.holders) BB_CHECK(knows(id));
    std::uint32_t wanted = 0;
    for (const auto& [id, keeper] : value.keepers) {
      BB_CHECK(knows(id) && peers.at(id).is_agent());
      wanted += keeper.wanted ? 1 : 0;
    }
    BB_CHECK(wanted <= value.replicas);
    const bool is_short = value.replicas > 1 && !value.holders.empty() && wanted < value.replicas;
    BB_CHECK(!is_short || values.short_of.contains(name));
    for (const auto& [id, transfer] : value.transfers) {
      BB_CHECK(knows(id));
      if (transfer.source) ++giving[transfer.store];
      BB_CHECK(transfer.source || values.queued.contains(name) || !peers.at(id).connected());
    }
  }
  BB_CHECK(giving == values.giving);
  std::size_t touches = 0;
  for (const auto& [id, names] : values.touched) {
    BB_CHECK(peers.contains(id) && !names.empty());
    for (const std::string& name : names) BB_CHECK(values.by_name.at(name).touchers.contains(id));
    touches += names.size();
  }
  for (const auto& [name, value] : values.by_name) touches -= value.touchers.size();
  BB_CHECK(touches == 0);
  for (const auto& [store, count] : giving) BB_CHECK(count <= kTransfersPerStore);
}

}  // namespace betterbox::scheduler
