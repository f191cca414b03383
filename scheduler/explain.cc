#include "scheduler/explain.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "runtime/printable.h"
#include "scheduler/lease_steps.h"
#include "scheduler/resources.h"

namespace betterbox::scheduler {
namespace {

/// Of names that users chose, in a message for people.
constexpr std::size_t kMostReason = 500;
/// Bytes that the agents of one CallStats may take: it must fit the body of a message.
constexpr std::size_t kAgentsBytes = kMaxBodyBytes / 2;
/// What one agent takes beside its texts and seats, and one seat; generously.
constexpr std::size_t kAgentBytes = 128;
constexpr std::size_t kSeatBytes = 56;
/// Agents that are gone and still told apart.
constexpr std::size_t kPastAgentsTold = 1024;

AgentStats agent_stats(const Share& share) {
  const Peer& agent = *share.agent;
  AgentStats stats;
  stats.agent = agent.id;
  stats.name = agent.name;
  stats.host = agent.host;
  stats.pid = agent.pid;
  stats.slots = share.slots;
  stats.items = share.done.items;
  stats.busy_ns = share.done.busy_ns;
  stats.first_ns = share.done.first_ns;
  stats.last_ns = share.done.last_ns;
  stats.retries = share.retries;
  stats.steals = share.steals;
  stats.outstanding = share.outstanding;
  stats.seats = share.done.seats;
  return stats;
}

std::size_t bytes_of(const AgentStats& agent) {
  return kAgentBytes + agent.name.size() + agent.host.size() + agent.seats.size() * kSeatBytes;
}

/// One entry stands for all agents that do not fit; its name says how many: "70 more".
void bound(std::vector<AgentStats>& agents) {
  std::size_t bytes = 0;
  std::size_t fit = 0;
  while (fit < agents.size() && (bytes += bytes_of(agents[fit])) <= kAgentsBytes) ++fit;
  if (fit == agents.size()) return;
  AgentStats rest;
  for (std::size_t i = fit; i < agents.size(); ++i) merge(rest, agents[i]);
  rest.name = std::to_string(agents.size() - fit) + " more";
  agents.resize(fit);
  agents.push_back(std::move(rest));
}

std::vector<AgentStats> agents_of(const CallState& call) {
  std::vector<AgentStats> agents = call.past_shares;
  agents.reserve(agents.size() + call.shares.size());
  for (const Share* share : call.shares.sorted()) agents.push_back(agent_stats(*share));
  if (call.seats_left == 0) {
    for (AgentStats& agent : agents) agent.seats.clear();
  }
  bound(agents);
  return agents;
}

void keep_past(CallState& call, AgentStats&& stats) {
  if (call.past_shares.size() < kPastAgentsTold) {
    call.past_shares.push_back(std::move(stats));
    return;
  }
  AgentStats& rest = call.past_shares.back();
  merge(rest, stats);
  rest.agent = {};
  rest.name = "(agents that left)";
}

/// What the members of a pool can do for one call.
struct Room {
  std::uint64_t places = 0;   ///< items that may run at a time at members that are there and well
  std::uint64_t free = 0;     ///< slots of these, without an item
  std::uint64_t waiting = 0;  ///< items there that wait for calls of their own
  bool lends = true;          ///< others may run in the places of all of these
  std::size_t able = 0;       ///< members that can run items at all
  std::size_t away = 0;       ///< of these
  std::size_t paused = 0;     ///< of these
  std::size_t ending = 0;     ///< of these
  const Peer* an_away_one = nullptr;
};

Room room_for(const Turn& turn, const CallState& call, const Pool& pool) {
  Room room;
  for (const auto& [id, member] : pool.members) {
    const std::uint64_t slots = slots_for(call, *member);
    if (slots == 0) continue;
    ++room.able;
    if (!member->agent->connected()) {
      ++room.away;
      room.an_away_one = member->agent;
    } else if (member->agent->agent.load.ending ||
               (member->outstanding == 0 && items_before_end(turn, call, *member->agent, slots) == 0)) {
      ++room.ending;
    } else if (member->agent->agent.load.paused) {
      ++room.paused;
    } else {
      room.places += slots;
      room.free += member->slots - std::min<std::uint64_t>(taking_slots(*member), member->slots);
      if (call.port != kFunctionPool) continue;
      const Load& load = member->agent->agent.load;
      room.waiting += std::min<std::uint64_t>(load.waiting_slots, member->outstanding);
      room.lends = room.lends && (load.lends || load.waiting_slots == 0);
    }
  }
  return room;
}

std::string workers(std::size_t count, std::size_t of, Port port) {
  const std::string one = port == kFunctionPool ? "worker" : "box process";
  const std::string plural = port == kFunctionPool ? "workers" : "box processes";
  if (of == 1) return "the only " + one + " for it is";
  if (count == of) return "all " + std::to_string(of) + " " + plural + " for it are";
  return std::to_string(count) + " of " + std::to_string(of) + " " + plural + (count == 1 ? " is" : " are");
}

std::string all_slots(const CallState& call, const Pool& pool, std::uint64_t places) {
  if (places < pool.slots && call.needy) {
    return "an item needs " + describe(call.needs).substr(0, kMostReason) + ": room for " +
           std::to_string(places) + " at a time, which is";
  }
  return pool.slots == 1 ? "the only slot is" : "all " + std::to_string(pool.slots) + " slots are";
}

void say_who_is_missing(const CallState& call, const Room& room, std::vector<std::string>& reasons) {
  if (room.away > 0 && room.away == room.able) {
    reasons.push_back("the connection to '" + printable(room.an_away_one->name, kMostReason) +
                      "' is lost: waiting for it to come back");
  } else if (room.away > 0) {
    reasons.push_back(workers(room.away, room.able, call.port) + " away");
  }
  if (room.ending > 0)
    reasons.push_back(workers(room.ending, room.able, call.port) + " about to end, before an item would");
  if (room.paused > 0)
    reasons.push_back(workers(room.paused, room.able, call.port) +
                      " paused: too little memory is left there");
}

std::string who_waits(const Room& room) {
  return (room.waiting == 1
              ? "an item that has begun waits for calls of its own"
              : std::to_string(room.waiting) + " items that have begun wait for calls of their own") +
         (room.lends ? ", which run in their places first" : ", and no more places can be lent to these");
}

void say_who_is_busy(const CallState& call, const Pool& pool, const Room& room,
                     std::vector<std::string>& reasons) {
  if (room.places == 0) return;
  if (call.items.pending_items() > 0 && pool.waiting.highest().priority > call.priority)
    reasons.push_back("calls of higher priority come first");
  if (room.waiting > 0) reasons.push_back(who_waits(room));
  if (room.free > 0 && !call.needy) return;
  const std::uint64_t lent = room.lends ? room.waiting : 0;
  if (pool.outstanding - call.outstanding >= pool.slots + lent) {
    reasons.push_back(all_slots(call, pool, pool.slots) + " busy with other calls");
  } else if (lent == 0 && call.items.unsettled_items() > room.places) {
    reasons.push_back(all_slots(call, pool, room.places) + " busy");
  }
}

std::string joined(const std::vector<std::string>& reasons) {
  std::string text;
  for (const std::string& reason : reasons) text += (text.empty() ? "" : "; ") + reason;
  return text;
}

}  // namespace

void keep_shares_as_history(const Turn& turn, Peer& agent) {
  for (const CallId id : agent.agent.calls) {
    CallState& call = turn.state.calls.at(id);
    const auto it = call.shares.find(agent.id);
    if (it->second.done.items > 0 || it->second.retries > 0) {
      AgentStats stats = agent_stats(it->second);
      stats.outstanding = 0;
      keep_past(call, std::move(stats));
    }
    turn.state.forget_share(it->second);
    call.shares.erase(it);
  }
  agent.agent.calls.clear();
}

CallStats call_stats(const Turn& turn, const CallState& call) {
  CallStats stats;
  stats.total = call.items.known_end();
  stats.closed = call.closed;
  stats.settled = call.items.settled_items();
  if (call.first_grant != TimePoint::never() && call.last_outcome > call.first_grant) {
    stats.makespan_ns = (call.last_outcome - call.first_grant).ns;
  }
  stats.busy_ns = call.busy_ns;
  stats.longest_ns = call.longest_ns;
  stats.agents = agents_of(call);
  stats.waiting = waiting_reason(turn, call);
  stats.policy = call.policy->name;
  stats.pending = call.items.pending_items();
  stats.leases = call.leases_granted;
  stats.splits = call.splits;
  stats.copies = call.copies;
  stats.copies_won = call.copies_won;
  stats.wasted_ns = call.wasted_ns;
  std::uint64_t slots = 0;
  for (const AgentStats& agent : stats.agents) slots += agent.slots;
  if (slots > 0) stats.ideal_ns = std::max(call.busy_ns / static_cast<std::int64_t>(slots), call.longest_ns);
  stats.greedy_ns = call.items.known_end() == 1 ? call.longest_ns : call.measured.greedy_ns(slots);
  return stats;
}

std::string waiting_reason(const Turn& turn, const CallState& call) {
  const State& state = turn.state;
  if (call.items.unsettled_items() == 0) return "";
  std::vector<std::string> reasons;
  const auto client = state.peers.find(call.id.client);
  if (client != state.peers.end() && client->second.client.throttled) {
    reasons.push_back("results are not being read: " + std::to_string(client->second.client.unacked_bytes) +
                      " bytes wait for the client");
  }
  const auto it = state.pools.find(call.port);
  if (it == state.pools.end() || it->second.members.empty()) {
    reasons.push_back(call.port == kFunctionPool
                          ? "no worker is on the bus: start one with `betterbox worker`"
                          : "no box is at port " + std::to_string(call.port.value));
    return joined(reasons);
  }
  const Pool& pool = it->second;
  const Room room = room_for(turn, call, pool);
  if (room.able == 0) reasons.push_back(why_unsatisfiable(call, pool));
  say_who_is_missing(call, room, reasons);
  say_who_is_busy(call, pool, room, reasons);
  return joined(reasons);
}

}  // namespace betterbox::scheduler
