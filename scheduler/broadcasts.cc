#include "scheduler/broadcasts.h"

#include <algorithm>
#include <utility>

#include "runtime/limits.h"
#include "runtime/messages.h"
#include "scheduler/value_steps.h"

namespace betterbox::scheduler {
namespace {

bool is_in_store(const State& state, const Value& value, const std::string& store) {
  if (store == value.home && !value.lost_at_home) return true;
  return std::ranges::any_of(value.keepers, [&](const auto& keeper) {
    return keeper.second.kept && state.peers.at(keeper.first).store == store;
  });
}

bool is_on_its_way(const State& state, const Value& value, const std::string& store) {
  return std::ranges::any_of(value.keepers, [&](const auto& keeper) {
    return !keeper.second.kept && state.peers.at(keeper.first).store == store;
  });
}

/// Who begins: the scheduler, or an agent that is a rank. Nobody: a client that is none of these has it.
struct Root {
  PeerId peer;
  std::optional<std::uint32_t> rank;
};

Root find_root(const State& state, const Value& value) {
  const Config& own = state.config;
  if (value.home == own.store && !value.lost_at_home) return {own.peer, own.rank};
  for (const auto& [id, agent] : state.peers) {
    const auto keeper = value.keepers.find(id);
    const bool keeps = keeper != value.keepers.end() && keeper->second.kept;
    const bool at_home = agent.store == value.home && !value.lost_at_home;
    if (!agent.is_agent() || !agent.connected() || !(keeps || at_home)) continue;
    if (const auto rank = rank_in(agent.endpoint)) return {id, rank};
  }
  return {};
}

void due(const Turn& turn, Value& value, Peer& agent) {
  if (is_in_store(turn.state, value, agent.store)) return;
  auto& agents = turn.state.values.due[value.id.name];
  if (std::ranges::find(agents, agent.id) == agents.end()) agents.push_back(agent.id);
}

bool may_get(const Peer& agent, const ValueId& value) {
  return value.bytes >= kBroadcastMinBytes && !agent.store.empty() && agent.connected() &&
         rank_in(agent.endpoint);
}

void begin(const Turn& turn, Value& value, const std::vector<PeerId>& agents) {
  State& state = turn.state;
  std::map<std::uint32_t, Peer*> by_rank;
  for (const PeerId id : agents) {
    Peer* agent = state.find_peer(id);
    if (agent != nullptr && agent->connected()) by_rank[*rank_in(agent->endpoint)] = agent;
  }
  std::vector<Peer*> firsts;  // of each store
  for (const auto& [rank, agent] : by_rank) {
    touch(state, value, agent->id);
    if (is_on_its_way(state, value, agent->store)) {
      value.waiting.insert(agent->id);
      continue;
    }
    value.keepers[agent->id];
    firsts.push_back(agent);
  }
  if (firsts.empty()) return;
  const Root root = find_root(state, value);
  if (!root.rank) {  // as if they had located it
    for (Peer* agent : firsts) fetch_value(turn, value, agent->id);
    return;
  }
  Broadcast broadcast{++state.values.broadcasts, value.id, value.home, {*root.rank}};
  for (const Peer* agent : firsts) broadcast.members.push_back(*rank_in(agent->endpoint));
  ++state.counters.values_broadcast;
  if (root.peer == state.config.peer) {
    turn.effects.send.push_back(GiveValue{broadcast});
  } else {
    turn.send(state.peers.at(root.peer), broadcast);
  }
  for (const Peer* agent : firsts) turn.send(*agent, broadcast);
}

}  // namespace

void want_values(const Turn& turn, const CallState& call, Peer& agent) {
  if (!turn.state.config.rank) return;
  for (const CallValue& needed : call.values) {
    if (!may_get(agent, needed.value)) continue;
    Value& value = known_value(turn, needed.value, needed.store);
    value.calls.insert(call.id);
    due(turn, value, agent);
  }
}

Complaint on_broadcast(const Turn& turn, Peer& client, const Broadcast& asked) {
  if (asked.value.name.empty() || asked.sequence != 0) return "Broadcast of nothing";
  if (!turn.state.config.rank) return std::nullopt;
  Value& value = known_value(turn, asked.value, asked.store);
  touch(turn.state, value, client.id);
  for (const std::uint64_t id : asked.members) {
    Peer* agent = turn.state.find_peer(PeerId{id});
    if (agent != nullptr && agent->is_agent() && may_get(*agent, value.id)) due(turn, value, *agent);
  }
  return std::nullopt;
}

void begin_broadcasts(const Turn& turn) {
  if (turn.state.values.due.empty()) return;
  for (const auto& [name, agents] : std::exchange(turn.state.values.due, {})) {
    const auto known = turn.state.values.by_name.find(name);
    if (known != turn.state.values.by_name.end()) begin(turn, known->second, agents);
  }
}

void let_go_of_values(const Turn& turn, const CallState& call) {
  if (!turn.state.config.rank) return;
  for (const CallValue& needed : call.values) {
    const auto known = turn.state.values.by_name.find(needed.value.name);
    if (known == turn.state.values.by_name.end() || known->second.calls.erase(call.id) == 0) continue;
    if (known->second.calls.empty() && known->second.holders.empty()) forget_value(turn, known->second);
  }
}

}  // namespace betterbox::scheduler
