// Sessions: who is on the bus. A connection begins with Hello; what a returning peer holds is reconciled;
// a peer that went without a word is waited for before its leases and calls end
// (docs/protocol.md, section "Sessions").
#pragma once

#include <string>

#include "scheduler/state.h"

namespace betterbox::scheduler {

/// The secret of a peer that greets next. A second one is an offence.
void on_proof(const Turn& turn, ConnectionId connection, const Proof& proof);
/// The first message of a connection, but for a Proof.
void on_hello(const Turn& turn, ConnectionId connection, Hello&& hello);

/// Sends a refusal and ends the connection.
void refuse(const Turn& turn, ConnectionId connection, RefusalCode code, const std::string& text);

void on_connection_ended(const Turn& turn, ConnectionId connection, bool malformed);
void on_process_ended(const Turn& turn, PeerId id);

/// The peer said Bye: everything of it ends at once.
void on_bye(const Turn& turn, Peer& peer);
/// The peer sent what is not allowed: it is told, and everything of it ends at once.
void drop_offender(const Turn& turn, Peer& peer, const std::string& complaint);
/// The time to come back has passed.
void on_peer_gone(const Turn& turn, Peer& peer);

/// Tells everybody that the scheduler ends.
void end_all_sessions(const Turn& turn, const std::string& reason);

/// Starts or stops the time that a scheduler without peers lives.
void watch_for_idleness(const Turn& turn);

}  // namespace betterbox::scheduler
