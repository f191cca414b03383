#include "scheduler/relay.h"

#include <utility>

namespace betterbox::scheduler {

void on_relay(const Turn& turn, Peer& from, const Relay& relay, Frames&& frames) {
  Peer* to = turn.state.find_peer(relay.peer);
  const bool linked = to != nullptr && from.relayed_with.contains(to->id);
  if (relay.over) {
    if (!linked) return;
    from.relayed_with.erase(to->id);
    to->relayed_with.erase(from.id);
    turn.send(*to, Relay{from.id, true});
    return;
  }
  // It is clients that begin links.
  const bool may_begin = to != nullptr && to->connected() && to->is_agent() && !from.is_agent();
  if (!linked && !may_begin) {
    turn.send(from, Relay{relay.peer, true});
    return;
  }
  from.relayed_with.insert(to->id);
  to->relayed_with.insert(from.id);
  ++turn.state.counters.messages_relayed;
  turn.send(*to, Relay{from.id, false}, std::move(frames));
}

void end_relays(const Turn& turn, Peer& peer) {
  for (const PeerId id : std::exchange(peer.relayed_with, {})) {
    Peer& other = turn.state.peers.at(id);
    other.relayed_with.erase(peer.id);
    turn.send(other, Relay{peer.id, true});
  }
}

}  // namespace betterbox::scheduler
