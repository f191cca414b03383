#include "scheduler/sessions.h"

#include <algorithm>

#include "runtime/socket_names.h"
#include "scheduler/boxes.h"
#include "scheduler/calls.h"
#include "scheduler/deployments.h"
#include "scheduler/explain.h"
#include "scheduler/leases.h"
#include "scheduler/relay.h"
#include "scheduler/results.h"
#include "scheduler/values.h"

namespace betterbox::scheduler {
namespace {

enum class Parting { kBye, kLost, kOffence };

bool on_this_host(const State& state, const Peer& peer) {
  return peer.host == state.config.host && peer.boot_id == state.config.boot_id;
}

/// Why this Hello is not accepted.
struct Objection {
  RefusalCode code = RefusalCode::kIdentity;
  std::string text;
};

std::optional<Objection> object_to(State& state, const Hello& hello, const Proof& proof) {
  const bool known_role =
      hello.role == Role::kWorker || hello.role == Role::kBoxHost || hello.role == Role::kClient;
  if (!known_role)
    return Objection{RefusalCode::kIdentity,
                     "this role is not allowed here: be a worker, a box host or a client"};
  if (!hello.peer || hello.peer == state.config.peer)
    return Objection{RefusalCode::kIdentity, "this peer id is not allowed"};
  if (hello.session == 0) return Objection{RefusalCode::kProtocol, "sessions count from 1"};
  const Peer* known = state.find_peer(hello.peer);
  if (known == nullptr) return std::nullopt;
  const bool same = known->role == hello.role && known->host == hello.host &&
                    known->boot_id == hello.boot_id && known->pid == hello.pid;
  // A client that is known from a journal alone has shown none yet.
  const bool proven = known->proof == proof || (known->proof.empty() && known->session == 0);
  if (!same || !proven) return Objection{RefusalCode::kIdentity, "this peer id belongs to another process"};
  if (hello.session <= known->session)
    return Objection{RefusalCode::kIdentity, "this peer has a newer session"};
  return std::nullopt;
}

/// The peer has no connection any more; its record stays.
void detach(const Turn& turn, Peer& peer) {
  State& state = turn.state;
  state.connections.erase(peer.connection);
  peer.connection = {};
  ++state.counters.sessions_ended;
  if (!peer.background) --state.foreground_peers;
  on_source_detached(turn, peer);
  end_relays(turn, peer);
  if (peer.is_agent()) {
    peer.agent.ack_planned = false;
    peer.agent.unacked_bytes = 0;
    connection_changed(turn, peer);
  }
  state.waits.erase_client(peer.id);
  watch_for_idleness(turn);
}

void attach(const Turn& turn, Peer& peer, ConnectionId connection, std::uint64_t session) {
  State& state = turn.state;
  peer.connection = connection;
  peer.session = session;
  state.connections[connection] = &peer;
  ++state.counters.sessions_begun;
  if (!peer.background) {
    ++state.foreground_peers;
    state.anybody_came = true;
  }
  state.set_timer(peer.gone_at, TimePoint::never(), TimerKind::kPeerGone, peer.id.value);
  peer.agent.offered = false;
  watch_for_idleness(turn);
}

/// Only one whose name says that it is this peer's: a peer may claim any.
void remove_socket_of(const Turn& turn, const Peer& peer) {
  constexpr std::string_view kIpc = "ipc://";
  std::string own(1, '/');
  own += socket_name_of(peer.id);
  if (peer.endpoint.starts_with(kIpc) && peer.endpoint.ends_with(own))
    turn.effects.send.push_back(RemoveSocket{peer.endpoint.substr(kIpc.size())});
}

/// Removes a peer that is not connected, and everything of it.
void remove_peer(const Turn& turn, Peer& peer, Parting parting) {
  State& state = turn.state;
  BB_CHECK(!peer.connected());
  state.set_timer(peer.gone_at, TimePoint::never(), TimerKind::kPeerGone, peer.id.value);
  if (parting != Parting::kBye) ++state.counters.peers_lost;
  if (peer.is_agent()) {
    put_back_leases(turn, peer, parting == Parting::kLost);
    withdraw_everything(turn, peer);
    keep_shares_as_history(turn, peer);
    forget_worker(turn, peer);
    if (parting == Parting::kLost && on_this_host(state, peer)) remove_socket_of(turn, peer);
  }
  const std::set<std::uint64_t> serials = peer.client.calls;
  for (const std::uint64_t serial : serials) drop_call(turn, state.calls.at({peer.id, serial}));
  if (peer.client.recorded) turn.persist(ClientForgotten{peer.id});
  const std::set<Port> watches = peer.client.watches;
  for (const Port port : watches) on_unwatch(turn, peer, port);
  forget_values_of(turn, peer);
  state.peers.erase(peer.id);
}

Welcome welcome_to(const State& state, std::uint64_t session) {
  return {state.config.peer, session, state.config.host, state.config.pid, {}, {}};
}

void begin_first_session(const Turn& turn, ConnectionId connection, Hello&& hello) {
  Peer& peer = turn.state.peers[hello.peer];
  peer.id = hello.peer;
  peer.role = hello.role;
  peer.host = std::move(hello.host);
  peer.boot_id = std::move(hello.boot_id);
  peer.store = std::move(hello.store);
  if (peer.is_agent()) turn.state.values.agents[peer.store].insert(peer.id);
  peer.pid = hello.pid;
  peer.name = std::move(hello.name);
  peer.endpoint = std::move(hello.endpoint);
  peer.network_endpoint = std::move(hello.network_endpoint);
  peer.log_folder = std::move(hello.log_folder);
  peer.background = hello.background;
  attach(turn, peer, connection, hello.session);
  Welcome welcome = welcome_to(turn.state, hello.session);
  for (const HeldLease& held : hello.leases) welcome.dropped_leases.push_back(held.lease);
  turn.send(peer, std::move(welcome));
}

void resume_agent(const Turn& turn, Peer& agent, const Hello& hello) {
  Reconciled reconciled = reconcile_leases(turn, agent, hello.leases);
  Welcome welcome = welcome_to(turn.state, hello.session);
  welcome.dropped_leases = std::move(reconciled.dropped);
  turn.send(agent, std::move(welcome));
  for (const Abandon& abandon : reconciled.abandoned) turn.send(agent, abandon);
  if (agent.agent.outcomes_seen > 0) acknowledge_outcomes(turn, agent);
  fail_unhosted(turn, agent);
  connection_changed(turn, agent);
}

void resume_client(const Turn& turn, Peer& client, const Hello& hello) {
  Welcome welcome = welcome_to(turn.state, hello.session);
  welcome.calls = reconcile_calls(turn, client, hello.calls);
  const std::vector<KnownCall> known = welcome.calls;
  turn.send(client, std::move(welcome));
  resend_results(turn, client);
  resend_settled(turn, client, known);
  for (const Port port : client.client.watches) send_snapshot(turn, client, port);
  while (!client.client.late_answers.empty()) {
    Message message = std::move(client.client.late_answers.front());
    client.client.late_answers.pop_front();
    turn.send(client, std::move(message.body), std::move(message.frames));
  }
}

void resume(const Turn& turn, Peer& peer, ConnectionId connection, Hello&& hello) {
  ++turn.state.counters.sessions_resumed;
  if (peer.connected()) {
    // Its process opened a new connection before the end of the old one was seen.
    turn.effects.send.push_back(EndConnection{peer.connection});
    detach(turn, peer);
  }
  attach(turn, peer, connection, hello.session);
  peer.endpoint = std::move(hello.endpoint);
  peer.network_endpoint = std::move(hello.network_endpoint);
  if (!peer.is_agent()) peer.store = std::move(hello.store);  // a recorded client's is not known
  if (peer.is_agent()) {
    resume_agent(turn, peer, hello);
  } else {
    resume_client(turn, peer, hello);
  }
}

}  // namespace

void refuse(const Turn& turn, ConnectionId connection, RefusalCode code, const std::string& text) {
  turn.state.proofs.erase(connection);  // nobody tells the end of a connection that is ended here
  turn.effects.send.push_back(SendMessage{connection, {Refused{code, text}, {}}});
  turn.effects.send.push_back(EndConnection{connection});
}

void on_proof(const Turn& turn, ConnectionId connection, const Proof& proof) {
  if (turn.state.proofs.emplace(connection, proof).second) return;
  ++turn.state.counters.refused_messages;
  refuse(turn, connection, RefusalCode::kProtocol, "a peer shows one Proof, and then says Hello");
}

void on_hello(const Turn& turn, ConnectionId connection, Hello&& hello) {
  Proof proof;
  if (const auto shown = turn.state.proofs.find(connection); shown != turn.state.proofs.end()) {
    proof = shown->second;
    turn.state.proofs.erase(shown);
  }
  if (const auto objection = object_to(turn.state, hello, proof)) {
    ++turn.state.counters.refused_sessions;
    refuse(turn, connection, objection->code, objection->text);
    return;
  }
  const PeerId id = hello.peer;
  if (Peer* known = turn.state.find_peer(hello.peer)) {
    resume(turn, *known, connection, std::move(hello));
  } else {
    begin_first_session(turn, connection, std::move(hello));
  }
  turn.state.peers.at(id).proof = proof;
}

void on_connection_ended(const Turn& turn, ConnectionId connection, bool malformed) {
  State& state = turn.state;
  state.proofs.erase(connection);
  if (malformed) ++state.counters.malformed_messages;
  const auto it = state.connections.find(connection);
  if (it == state.connections.end()) return;
  Peer& peer = *it->second;
  detach(turn, peer);
  if (malformed) {
    remove_peer(turn, peer, Parting::kOffence);
  } else if (peer.process_dead) {
    remove_peer(turn, peer, Parting::kLost);
  } else {
    state.set_timer(peer.gone_at, turn.now + kReconnectGrace, TimerKind::kPeerGone, peer.id.value);
  }
}

void on_process_ended(const Turn& turn, PeerId id) {
  Peer* peer = turn.state.find_peer(id);
  if (peer == nullptr) return;
  peer->process_dead = true;
  if (!peer->connected()) remove_peer(turn, *peer, Parting::kLost);
}

void on_bye(const Turn& turn, Peer& peer) {
  turn.effects.send.push_back(EndConnection{peer.connection});
  detach(turn, peer);
  remove_peer(turn, peer, Parting::kBye);
}

void drop_offender(const Turn& turn, Peer& peer, const std::string& complaint) {
  refuse(turn, peer.connection, RefusalCode::kProtocol, complaint);
  detach(turn, peer);
  remove_peer(turn, peer, Parting::kOffence);
}

void on_peer_gone(const Turn& turn, Peer& peer) {
  peer.gone_at = TimePoint::never();
  remove_peer(turn, peer, Parting::kLost);
}

void end_all_sessions(const Turn& turn, const std::string& reason) {
  for (const auto& [id, peer] : turn.state.peers) {
    if (peer.connected()) refuse(turn, peer.connection, RefusalCode::kEnding, reason);
  }
}

void watch_for_idleness(const Turn& turn) {
  State& state = turn.state;
  if (state.config.idle_life.ns == 0) return;
  const bool idle = state.foreground_peers == 0;
  if (idle && state.idle_at != TimePoint::never()) return;
  const Duration life =
      state.anybody_came ? state.config.idle_life : std::max(state.config.idle_life, kFirstPeerPatience);
  state.set_timer(state.idle_at, idle ? turn.now + life : TimePoint::never(), TimerKind::kIdle, 0);
}

}  // namespace betterbox::scheduler
