#include "scheduler/values.h"

#include "scheduler/value_steps.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace betterbox::scheduler {

void touch(State& state, Value& value, PeerId peer) {
  value.touchers.insert(peer);
  state.values.touched[peer].insert(value.id.name);
}

namespace {

void remember_unheld(const Turn& turn, Value& value) {
  const bool held = !value.holders.empty();
  turn.state.set_timer(value.unheld_at, held ? TimePoint::never() : turn.now + kUnheldValueLife,
                       TimerKind::kValueUnheld, value.number);
}

Value* find_value(State& state, const std::string& name) {
  const auto it = state.values.by_name.find(name);
  return it == state.values.by_name.end() ? nullptr : &it->second;
}

}  // namespace

Value& known_value(const Turn& turn, const ValueId& id, const std::string& home) {
  ValueTable& table = turn.state.values;
  const auto [it, added] = table.by_name.try_emplace(id.name);
  Value& value = it->second;
  if (added) {
    value.id = id;
    value.home = home;
    value.number = ++table.numbers;
    table.names[value.number] = id.name;
    remember_unheld(turn, value);
  }
  return value;
}

namespace {

// --- transfers ------------------------------------------------------------------------------------------

struct Origin {
  PeerId peer;
  std::string store;
};

bool can_give(const State& state, PeerId id, const Transfer& transfer, PeerId requester) {
  if (id == requester || transfer.avoided.contains(id)) return false;
  if (id == state.config.peer) return true;
  const auto peer = state.peers.find(id);
  return peer != state.peers.end() && peer->second.connected();
}

/// Who gives in a store that has the value: an agent that keeps it, the scheduler, another agent, or a client there.
PeerId giver_in(const State& state, const Value& value, const std::string& store, const Transfer& transfer,
                PeerId requester) {
  const auto agents = state.values.agents.find(store);
  const bool any = agents != state.values.agents.end();
  const auto ok = [&](PeerId id) { return can_give(state, id, transfer, requester); };
  if (any) {
    for (const PeerId id : agents->second) {
      const auto keeper = value.keepers.find(id);
      if (keeper != value.keepers.end() && keeper->second.kept && ok(id)) return id;
    }
  }
  if (store == state.config.store && ok(state.config.peer)) return state.config.peer;
  if (any) {
    for (const PeerId id : agents->second)
      if (ok(id)) return id;
  }
  for (const PeerId id : value.holders)
    if (ok(id) && state.peers.at(id).store == store) return id;
  return {};
}

/// Result: the store that gives the least now. `busy`: some have the value, but all of them give enough.
Origin find_origin(const State& state, const Value& value, const Transfer& transfer, const Peer& requester,
                   bool& busy) {
  std::set<std::string> stores;
  if (!value.lost_at_home) stores.insert(value.home);
  for (const auto& [id, keeper] : value.keepers)
    if (keeper.kept) stores.insert(state.peers.at(id).store);
  stores.erase(requester.store);
  Origin best;
  std::uint32_t least = kTransfersPerStore;
  for (const std::string& store : stores) {
    const PeerId giver = giver_in(state, value, store, transfer, requester.id);
    if (!giver) continue;
    const auto giving = state.values.giving.find(store);
    const std::uint32_t load = giving == state.values.giving.end() ? 0 : giving->second;
    busy = busy || load >= kTransfersPerStore;
    if (load >= least) continue;
    least = load;
    best = {giver, store};
  }
  return best;
}

void stop_giving(State& state, Transfer& transfer) {
  if (!transfer.source) return;
  transfer.source = {};
  const auto giving = state.values.giving.find(transfer.store);
  if (--giving->second == 0) state.values.giving.erase(giving);
}

std::string nobody_has(const Value& value) {
  return "nobody on the bus has the value any more (" + std::to_string(value.id.bytes) + " bytes, " +
         value.id.name + ")";
}

/// Gives a transfer its source, tells the requester that there is none, or lets it wait.
void begin_transfer(const Turn& turn, Value& value, PeerId requester) {
  Transfer& transfer = value.transfers.at(requester);
  Peer* peer = turn.state.find_peer(requester);
  if (transfer.source || peer == nullptr || !peer->connected()) return;
  bool busy = false;
  Origin origin = find_origin(turn.state, value, transfer, *peer, busy);
  if (!origin.peer && busy) {
    turn.state.values.queued.insert(value.id.name);
    return;
  }
  Source source{value.id.name, false, origin.peer, {}, {}};
  if (!origin.peer) {
    source.error = nobody_has(value);
    value.transfers.erase(requester);
  } else {
    transfer.source = origin.peer;
    transfer.store = origin.store;
    ++turn.state.values.giving[origin.store];
    const Peer* giver = turn.state.find_peer(origin.peer);
    if (giver != nullptr && giver->is_agent()) {
      source.endpoint = giver->host == peer->host ? giver->endpoint : giver->network_endpoint;
    }
  }
  turn.send(*peer, std::move(source));
}

/// Some store has room again, or has a value now.
void begin_waiting_transfers(const Turn& turn) {
  const std::set<std::string> queued = std::exchange(turn.state.values.queued, {});
  for (const std::string& name : queued) {
    Value* known = find_value(turn.state, name);
    if (known == nullptr) continue;
    Value& value = *known;
    std::vector<PeerId> waiting;
    for (const auto& [requester, transfer] : value.transfers)
      if (!transfer.source) waiting.push_back(requester);
    for (const PeerId requester : waiting) begin_transfer(turn, value, requester);
  }
}

void end_transfer(const Turn& turn, Value& value, PeerId requester) {
  const auto it = value.transfers.find(requester);
  if (it == value.transfers.end()) return;
  stop_giving(turn.state, it->second);
  value.transfers.erase(it);
  begin_waiting_transfers(turn);
}

void answer_waiting(const Turn& turn, Value& value, const std::string& store, const std::string& error) {
  std::erase_if(value.waiting, [&](PeerId id) {
    Peer* peer = turn.state.find_peer(id);
    if (peer != nullptr && peer->store != store) return false;
    if (peer != nullptr) turn.send(*peer, Source{value.id.name, error.empty(), {}, {}, error});
    return true;
  });
}

// --- keepers ------------------------------------------------------------------------------------------

void ask_to_keep(const Turn& turn, Value& value, Peer& agent, bool wanted) {
  Keeper& keeper = value.keepers[agent.id];
  keeper.wanted = keeper.wanted || wanted;
  touch(turn.state, value, agent.id);
  turn.send(agent, Keep{value.id, value.home});
}

std::uint32_t wanted_keepers(const Value& value) {
  return static_cast<std::uint32_t>(std::count_if(value.keepers.begin(), value.keepers.end(),
                                                  [](const auto& k) { return k.second.wanted; }));
}

/// Copies in each store; the owner's counts.
std::map<std::string, int> copies_by_store(const State& state, const Value& value) {
  std::map<std::string, int> copies{{value.home, 1}};
  for (const auto& [id, keeper] : value.keepers)
    if (keeper.wanted) ++copies[state.peers.at(id).store];
  return copies;
}

/// The worker in whose store there are the fewest copies, then the one that keeps the fewest values.
Peer* next_keeper(State& state, const Value& value) {
  const auto copies = copies_by_store(state, value);
  Peer* best = nullptr;
  std::tuple<int, std::size_t> least{};
  for (auto& [store, agents] : state.values.agents) {
    if (store.empty()) continue;
    const auto there = copies.find(store);
    for (const PeerId id : agents) {
      Peer& peer = state.peers.at(id);
      const auto keeper = value.keepers.find(id);
      const bool has = keeper != value.keepers.end() && keeper->second.wanted;
      if (has || peer.role != Role::kWorker || !peer.connected() || value.unable.contains(id)) continue;
      const auto touched = state.values.touched.find(id);
      const std::tuple<int, std::size_t> rank{
          there == copies.end() ? 0 : there->second,
          touched == state.values.touched.end() ? 0 : touched->second.size()};
      if (best == nullptr || rank < least) best = &peer, least = rank;
    }
  }
  return best;
}

void restore_replicas(const Turn& turn, Value& value) {
  if (value.replicas < 2 || value.holders.empty()) return;
  turn.state.values.short_of.erase(value.id.name);
  for (std::uint32_t count = wanted_keepers(value); count < value.replicas; ++count) {
    Peer* agent = next_keeper(turn.state, value);
    if (agent == nullptr) {  // when one comes: on_keeper_offered
      turn.state.values.short_of.insert(value.id.name);
      return;
    }
    ask_to_keep(turn, value, *agent, true);
  }
}

}  // namespace

void fetch_value(const Turn& turn, Value& value, PeerId requester) {
  touch(turn.state, value, requester);
  stop_giving(turn.state, value.transfers[requester]);
  begin_transfer(turn, value, requester);
}

void forget_value(const Turn& turn, Value& value) {
  State& state = turn.state;
  for (const auto& [id, keeper] : value.keepers) turn.send(state.peers.at(id), Discard{value.id.name});
  for (auto& [requester, transfer] : value.transfers) {
    stop_giving(state, transfer);
    turn.send(state.peers.at(requester), Source{value.id.name, false, {}, {}, nobody_has(value)});
  }
  for (const PeerId id : value.waiting) {
    if (Peer* peer = state.find_peer(id))
      turn.send(*peer, Source{value.id.name, false, {}, {}, nobody_has(value)});
  }
  const std::string name = value.id.name;
  for (const PeerId id : value.touchers) {
    const auto touched = state.values.touched.find(id);
    if (touched == state.values.touched.end()) continue;
    touched->second.erase(name);
    if (touched->second.empty()) state.values.touched.erase(touched);
  }
  state.set_timer(value.unheld_at, TimePoint::never(), TimerKind::kValueUnheld, value.number);
  state.values.names.erase(value.number);
  state.values.short_of.erase(name);
  state.values.queued.erase(name);
  state.values.by_name.erase(name);
  begin_waiting_transfers(turn);
}

// --- holders ------------------------------------------------------------------------------------------

Complaint on_hold(const Turn& turn, Peer& peer, Hold&& hold) {
  State& state = turn.state;
  if (hold.value.name.empty() || hold.value.bytes == 0) return "a value without a name or bytes";
  const auto touched = state.values.touched.find(peer.id);
  if (touched != state.values.touched.end() && touched->second.size() >= kMaxHeldValues)
    return "too many values are held";
  Value& value = known_value(turn, hold.value, hold.store);
  if (!(value.id == hold.value)) return "another value has this name";
  if (value.label.empty()) value.label = std::move(hold.label);
  if (hold.store == peer.store && !value.owner) value.owner = peer.id;
  value.replicas = std::max(value.replicas, hold.replicas);
  value.holders.insert(peer.id);
  touch(state, value, peer.id);
  remember_unheld(turn, value);
  restore_replicas(turn, value);
  return std::nullopt;
}

void on_drop(const Turn& turn, Peer& peer, const std::string& name) {
  Value* value = find_value(turn.state, name);
  if (value == nullptr || value->holders.erase(peer.id) == 0) return;
  if (value->holders.empty()) forget_value(turn, *value);
}

void on_value_unheld(const Turn& turn, std::uint64_t number) {
  Value& value = turn.state.values.by_name.at(turn.state.values.names.at(number));
  value.unheld_at = TimePoint::never();
  forget_value(turn, value);
}

// --- copies --------------------------------------------------------------------------------------------

Complaint on_kept(const Turn& turn, Peer& agent, Kept&& kept) {
  if (kept.value.name.empty() || kept.value.bytes == 0) return "a value without a name or bytes";
  Value* known = find_value(turn.state, kept.value.name);
  if (known == nullptr && !kept.ok) return std::nullopt;
  // Of an earlier scheduler: it is held again soon, or not wanted any more.
  Value& value = known != nullptr ? *known : known_value(turn, kept.value, agent.store);
  end_transfer(turn, value, agent.id);
  if (kept.ok) {
    value.keepers[agent.id].kept = true;
    touch(turn.state, value, agent.id);
    if (agent.store == value.home) value.lost_at_home = false;
    begin_waiting_transfers(turn);
  } else {
    value.keepers.erase(agent.id);
    value.unable.insert(agent.id);
    touch(turn.state, value, agent.id);
  }
  answer_waiting(turn, value, agent.store, kept.ok ? "" : kept.error);
  restore_replicas(turn, value);
  return std::nullopt;
}

void on_locate(const Turn& turn, Peer& peer, Locate&& locate) {
  State& state = turn.state;
  if (locate.value.name.empty() || locate.value.bytes == 0 || peer.store.empty()) {
    turn.send(peer, Source{locate.value.name, false, {}, {}, "this process has no usable shared memory"});
    return;
  }
  Value& value = known_value(turn, locate.value, locate.store);
  remember_unheld(turn, value);
  touch(state, value, peer.id);
  if (peer.store == value.home && !locate.avoid) value.lost_at_home = true;  // it would not ask
  if (!peer.is_agent()) {
    const auto agents = state.values.agents.find(peer.store);
    for (const PeerId id : agents == state.values.agents.end() ? std::set<PeerId>() : agents->second) {
      Peer& agent = state.peers.at(id);
      if (agent.role != Role::kWorker || !agent.connected()) continue;
      value.waiting.insert(peer.id);
      return ask_to_keep(turn, value, agent, false);
    }
  }
  Transfer& transfer = value.transfers[peer.id];
  if (locate.avoid) transfer.avoided.insert(locate.avoid);
  stop_giving(state, transfer);
  begin_transfer(turn, value, peer.id);
}

void on_fetched(const Turn& turn, Peer& peer, const Fetched& fetched) {
  if (Value* value = find_value(turn.state, fetched.name)) end_transfer(turn, *value, peer.id);
}

void pass_on(const Turn& turn, Peer& from, Fetch&& fetch) {
  if (fetch.peer == turn.state.config.peer) {
    turn.effects.send.push_back(
        ReadValue{from.connection, std::move(fetch.value), fetch.offset, fetch.count});
    return;
  }
  Peer* source = turn.state.find_peer(std::exchange(fetch.peer, from.id));
  if (source != nullptr) turn.send(*source, std::move(fetch));
}

void pass_on(const Turn& turn, Peer& from, Chunk&& chunk, Frames&& frames) {
  Peer* requester = turn.state.find_peer(std::exchange(chunk.peer, from.id));
  if (requester != nullptr) turn.send(*requester, std::move(chunk), std::move(frames));
}

// --- peers come and go ---------------------------------------------------------------------------------

void on_keeper_offered(const Turn& turn, Peer& agent) {
  const auto touched = turn.state.values.touched.find(agent.id);
  if (touched != turn.state.values.touched.end()) {
    for (const std::string& name : touched->second) {
      Value& value = turn.state.values.by_name.at(name);
      value.unable.erase(agent.id);
      if (value.keepers.contains(agent.id)) turn.send(agent, Keep{value.id, value.home});
    }
  }
  const std::set<std::string> short_of = turn.state.values.short_of;
  for (const std::string& name : short_of) restore_replicas(turn, turn.state.values.by_name.at(name));
}

void on_source_detached(const Turn& turn, Peer& peer) {
  const auto touched = turn.state.values.touched.find(peer.id);
  const std::set<std::string> names =
      touched == turn.state.values.touched.end() ? std::set<std::string>() : touched->second;
  for (const std::string& name : names)  // what it was getting itself it asks for again when it is back
    end_transfer(turn, turn.state.values.by_name.at(name), peer.id);
  if (turn.state.values.giving.empty()) return;
  bool any = false;
  for (auto& [name, value] : turn.state.values.by_name) {
    for (auto& [requester, transfer] : value.transfers) {
      if (!transfer.source || transfer.source != peer.id) continue;
      stop_giving(turn.state, transfer);
      turn.state.values.queued.insert(name);
      any = true;
    }
  }
  if (any) begin_waiting_transfers(turn);
}

void forget_values_of(const Turn& turn, Peer& peer) {
  State& state = turn.state;
  if (peer.is_agent()) {
    const auto agents = state.values.agents.find(peer.store);
    agents->second.erase(peer.id);
    if (agents->second.empty()) state.values.agents.erase(agents);
  }
  const auto touched = state.values.touched.find(peer.id);
  if (touched == state.values.touched.end()) return;
  const std::set<std::string> names = std::move(touched->second);
  state.values.touched.erase(touched);
  for (const std::string& name : names) {
    Value* value = find_value(state, name);
    if (value == nullptr) continue;
    value->touchers.erase(peer.id);
    const bool held = value->holders.erase(peer.id) > 0;
    const bool kept = value->keepers.erase(peer.id) > 0;
    value->unable.erase(peer.id);
    value->waiting.erase(peer.id);
    if (kept) {
      // Clients of its store that wait for it: another agent there, or they themselves.
      const std::set<PeerId> waiting = std::exchange(value->waiting, {});
      for (const PeerId id : waiting) {
        if (Peer* client = state.find_peer(id))
          on_locate(turn, *client, Locate{value->id, value->home, peer.id});
      }
    }
    end_transfer(turn, *value, peer.id);
    if (held && value->holders.empty()) {
      forget_value(turn, *value);
    } else {
      restore_replicas(turn, *value);
    }
  }
}

bool has_values(const State& state, const CallState& call, const Member& member) {
  const std::string& store = member.agent->store;
  return std::all_of(call.values.begin(), call.values.end(), [&](const CallValue& needed) {
    const auto known = state.values.by_name.find(needed.value.name);
    if (needed.store == store && (known == state.values.by_name.end() || !known->second.lost_at_home))
      return true;
    if (known == state.values.by_name.end()) return false;
    const auto& keepers = known->second.keepers;
    return std::any_of(keepers.begin(), keepers.end(), [&](const auto& keeper) {
      return keeper.second.kept && state.peers.at(keeper.first).store == store;
    });
  });
}

std::vector<ValueStatus> value_statuses(const State& state, std::size_t most) {
  std::vector<ValueStatus> all;
  for (const auto& [name, value] : state.values.by_name) {
    if (all.size() == most) break;
    ValueStatus status{value.id, value.label};
    if (const auto owner = state.peers.find(value.owner); owner != state.peers.end()) {
      status.owner_host = owner->second.host;
      status.owner_pid = owner->second.pid;
    }
    status.holders = static_cast<std::uint32_t>(value.holders.size());
    status.replicas = value.replicas;
    std::set<std::string> stores;
    if (!value.lost_at_home) stores.insert(value.home);
    for (const auto& [id, keeper] : value.keepers) {
      if (!keeper.kept) continue;
      ++status.copies;
      stores.insert(state.peers.at(id).store);
    }
    status.stores = static_cast<std::uint32_t>(stores.size());
    all.push_back(std::move(status));
  }
  return all;
}

}  // namespace betterbox::scheduler
