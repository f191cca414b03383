#include "scheduler/status.h"

namespace betterbox::scheduler {
namespace {

std::vector<Counter> counters_of(const Counters& c) {
  return {
      {"malformed_messages", c.malformed_messages},
      {"refused_messages", c.refused_messages},
      {"refused_sessions", c.refused_sessions},
      {"sessions_begun", c.sessions_begun},
      {"sessions_ended", c.sessions_ended},
      {"sessions_resumed", c.sessions_resumed},
      {"peers_lost", c.peers_lost},
      {"messages_received", c.messages_received},
      {"stale_outcomes", c.stale_outcomes},
      {"items_settled", c.items_settled},
      {"items_lost", c.items_lost},
      {"items_retried", c.items_retried},
      {"leases_granted", c.leases_granted},
      {"leases_cut", c.leases_cut},
      {"revokes_sent", c.revokes_sent},
  };
}

PeerStatus status_of(const Peer& peer) {
  PeerStatus status{peer.role,
                    peer.id,
                    peer.name,
                    peer.host,
                    peer.pid,
                    peer.agent.function_slots,
                    0,
                    peer.log_folder,
                    peer.connected(),
                    peer.agent.capacity,
                    peer.agent.load};
  for (const auto& [port, member] : peer.agent.memberships) status.leased_items += member.outstanding;
  return status;
}

CallStatus status_of(const CallState& call) {
  return {call.id,
          call.port,
          call.method,
          call.name,
          call.items.known_end(),
          call.items.settled_items(),
          call.items.unsettled_items() - call.items.pending_items()};
}

}  // namespace

StatusReport status_report(const State& state, TimePoint now) {
  StatusReport report;
  const Config& own = state.config;
  report.scheduler = {Role::kScheduler, own.peer, own.name, own.host, own.pid, 0, 0, "", true, {}, {}};
  report.uptime_ns = (now - state.started).ns;
  for (const auto& [id, peer] : state.peers) report.peers.push_back(status_of(peer));
  for (const auto& [port, at_port] : state.boxes) {
    for (const auto& [joined, entry] : at_port) report.boxes.push_back(entry);
  }
  for (const auto& [id, call] : state.calls) report.calls.push_back(status_of(call));
  report.counters = counters_of(state.counters);
  return report;
}

}  // namespace betterbox::scheduler
