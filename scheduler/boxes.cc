#include "scheduler/boxes.h"

#include <algorithm>

#include "scheduler/leases.h"
#include "scheduler/resources.h"
#include "scheduler/results.h"
#include "scheduler/values.h"

namespace betterbox::scheduler {
namespace {

/// Boxes of one agent: a seat is a slot.
constexpr std::size_t kMaxBoxes = kMaxSlots;

/// What changed at one port.
struct Change {
  std::vector<BoxEntry> joined;
  std::vector<BoxId> left;
};
using Changes = std::map<Port, Change>;

BoxEntry entry_of(const Peer& agent, const Box& box) {
  return {box.info, agent.endpoint, agent.network_endpoint, agent.host, agent.pid, box.joined};
}

void remove_box(State& state, Peer& agent, SeatId seat, Changes& changes) {
  const auto it = agent.agent.boxes.find(seat);
  const Box& box = it->second;
  changes[box.info.port].left.push_back(box.info.box);
  auto& at_port = state.boxes[box.info.port];
  at_port.erase(box.joined);
  if (at_port.empty()) state.boxes.erase(box.info.port);
  agent.agent.boxes.erase(it);
}

void add_box(State& state, Peer& agent, BoxInfo&& info, Changes& changes) {
  const auto before = agent.agent.boxes.find(info.box.seat);
  std::uint64_t joined = ++state.joins;
  if (before != agent.agent.boxes.end()) {
    const bool same = before->second.info.box == info.box && before->second.info.port == info.port;
    if (same) {
      joined = before->second.joined;  // described anew: it keeps its place
    } else {
      remove_box(state, agent, info.box.seat, changes);
    }
  }
  const Port port = info.port;
  Box& box = agent.agent.boxes[info.box.seat];
  box = {std::move(info), joined};
  const BoxEntry entry = entry_of(agent, box);
  state.boxes[port][joined] = entry;
  changes[port].joined.push_back(entry);
}

void broadcast(const Turn& turn, Changes& changes) {
  for (auto& [port, change] : changes) {
    const auto watchers = turn.state.watchers.find(port);
    if (watchers == turn.state.watchers.end()) continue;
    for (const PeerId id : watchers->second) {
      turn.send(turn.state.peers.at(id), Boxes{port, false, change.joined, change.left});
    }
  }
}

/// The agent has `slots` slots in a pool from now on.
void set_membership(const Turn& turn, Peer& agent, Port port, std::uint32_t slots, bool fresh_capacity) {
  State& state = turn.state;
  Pool& pool = state.pool(port);
  const auto it = agent.agent.memberships.find(port);
  if (slots == 0) {
    if (it == agent.agent.memberships.end()) return;
    put_back_leases_of_port(turn, agent, port);
    state.remove_from_pool(it->second);
    agent.agent.memberships.erase(it);
    on_member_left(turn, pool, agent.id);
  } else {
    Member& member = agent.agent.memberships[port];
    const bool fresh = fresh_capacity || member.slots != slots;
    member.agent = &agent;
    member.port = port;
    pool.slots += slots;
    pool.slots -= member.slots;
    member.slots = slots;
    pool.members[agent.id] = &member;
    state.reindex(member);
    state.mark_dirty(member);
    if (fresh) on_member_changed(turn, pool, member);
  }
  watch_for_missing_boxes(turn, pool);
}

void update_memberships(const Turn& turn, Peer& agent, bool fresh_capacity = false) {
  std::map<Port, std::uint32_t> slots;
  for (const auto& [port, member] : agent.agent.memberships) slots[port] = 0;
  slots[kFunctionPool] = agent.agent.function_slots;
  for (const auto& [seat, box] : agent.agent.boxes) ++slots[box.info.port];
  for (const auto& [port, count] : slots) set_membership(turn, agent, port, count, fresh_capacity);
  for (const CallId id : agent.agent.calls) {
    CallState& call = turn.state.calls.at(id);
    turn.state.reindex(call, call.shares.at(agent.id));
  }
}

bool same(const Resources& a, const Resources& b) {
  return a.cpus_milli == b.cpus_milli && a.memory_bytes == b.memory_bytes && a.gpus_milli == b.gpus_milli &&
         std::equal(a.named.begin(), a.named.end(), b.named.begin(), b.named.end(),
                    [](const Amount& x, const Amount& y) { return x.name == y.name && x.milli == y.milli; });
}

Complaint check_offer(const Peer& agent, const Offer& offer) {
  if (offer.function_slots > kMaxSlots) return "Offer of more slots than an agent may have";
  if (offer.function_slots > 0 && agent.role != Role::kWorker)
    return "Offer of function slots by a peer that is no worker";
  if (agent.agent.boxes.size() + offer.joined.size() > 2 * kMaxBoxes)
    return "Offer of more boxes than an agent may have";
  if (Complaint complaint = check_resources(offer.capacity)) return complaint;
  for (const BoxInfo& info : offer.joined) {
    if (info.box.agent != agent.id) return "Offer of a box of somebody else";
    if (info.port == kFunctionPool) return "Offer of a box at port 0";
  }
  return std::nullopt;
}

}  // namespace

Complaint on_offer(const Turn& turn, Peer& agent, Offer&& offer) {
  if (Complaint complaint = check_offer(agent, offer)) return complaint;
  Changes changes;
  for (const BoxId& left : offer.left) {
    const auto it = agent.agent.boxes.find(left.seat);
    if (it != agent.agent.boxes.end() && it->second.info.box == left)
      remove_box(turn.state, agent, left.seat, changes);
  }
  if (!agent.agent.offered) {
    // The first Offer of a session is complete: boxes that left while the agent was away are not in it.
    std::set<SeatId> named;
    for (const BoxInfo& info : offer.joined) named.insert(info.box.seat);
    const auto before = agent.agent.boxes;
    for (const auto& [seat, box] : before) {
      if (!named.contains(seat)) remove_box(turn.state, agent, seat, changes);
    }
    agent.agent.offered = true;
    on_keeper_offered(turn, agent);
  }
  for (BoxInfo& info : offer.joined) add_box(turn.state, agent, std::move(info), changes);
  agent.agent.function_slots = offer.function_slots;
  const bool fresh_capacity = !same(agent.agent.capacity, offer.capacity);
  agent.agent.capacity = std::move(offer.capacity);
  update_memberships(turn, agent, fresh_capacity);
  broadcast(turn, changes);
  return std::nullopt;
}

void on_watch(const Turn& turn, Peer& client, Port port) {
  client.client.watches.insert(port);
  turn.state.watchers[port].insert(client.id);
  send_snapshot(turn, client, port);
}

void on_unwatch(const Turn& turn, Peer& client, Port port) {
  client.client.watches.erase(port);
  const auto it = turn.state.watchers.find(port);
  if (it == turn.state.watchers.end()) return;
  it->second.erase(client.id);
  if (it->second.empty()) turn.state.watchers.erase(it);
}

void send_snapshot(const Turn& turn, const Peer& client, Port port) {
  Boxes snapshot{port, true, {}, {}};
  const auto it = turn.state.boxes.find(port);
  if (it != turn.state.boxes.end()) {
    for (const auto& [joined, entry] : it->second) snapshot.joined.push_back(entry);
  }
  turn.send(client, std::move(snapshot));
}

void connection_changed(const Turn& turn, Peer& agent) { update_memberships(turn, agent); }

void withdraw_everything(const Turn& turn, Peer& agent) {
  Changes changes;
  while (!agent.agent.boxes.empty()) remove_box(turn.state, agent, agent.agent.boxes.begin()->first, changes);
  agent.agent.function_slots = 0;
  update_memberships(turn, agent);
  broadcast(turn, changes);
}

void watch_for_missing_boxes(const Turn& turn, Pool& pool) {
  if (pool.port == kFunctionPool) return;  // workers may be started at any time
  const bool waits =
      pool.members.empty() && std::any_of(pool.calls.begin(), pool.calls.end(), [&](CallId id) {
        return turn.state.calls.at(id).items.pending_items() > 0;
      });
  if (waits == (pool.no_box_at != TimePoint::never())) return;
  turn.state.set_timer(pool.no_box_at, waits ? turn.now + kNoBoxGrace : TimePoint::never(), TimerKind::kNoBox,
                       pool.port.value);
}

void on_no_box(const Turn& turn, Pool& pool) {
  pool.no_box_at = TimePoint::never();
  const Range all{0, CallItems::kMaxIndex};
  const std::string detail = "no box is at port " + std::to_string(pool.port.value);
  for (const CallId id : pool.calls) {
    CallState& call = turn.state.calls.at(id);
    const std::vector<Range> lost = call.items.withdraw(all);
    turn.state.reindex_waiting(call, false);
    settle_as_lost(turn, call, lost, LostCode::kBoxLost, {}, detail);
  }
}

}  // namespace betterbox::scheduler
