// Values in shared memory (docs/protocol.md, section "Values"). The scheduler never has their bytes: it says who
// keeps them, and who gets them from whom.
//
//  - A value stays known while a peer holds it; copies that were fetched for calls and have no known holder stay for
//    kUnheldValueLife after they were last needed.
//  - `replicas` agents are asked to keep a value, in different stores first. Where one is lost another is asked.
//  - A store gives to at most kTransfersPerStore at a time; each that has got it gives, too.
#pragma once

#include "scheduler/state.h"

namespace betterbox::scheduler {

Complaint on_hold(const Turn& turn, Peer& peer, Hold&& hold);
void on_drop(const Turn& turn, Peer& peer, const std::string& name);
Complaint on_kept(const Turn& turn, Peer& agent, Kept&& kept);
void on_locate(const Turn& turn, Peer& peer, Locate&& locate);
void on_fetched(const Turn& turn, Peer& peer, const Fetched& fetched);
/// Fetch and Chunk go on to the peer that they name.
void pass_on(const Turn& turn, Peer& from, Fetch&& fetch);
void pass_on(const Turn& turn, Peer& from, Chunk&& chunk, Frames&& frames);

/// An agent has offered its slots: it may keep values. (A worker that returns is asked again for those it keeps.)
void on_keeper_offered(const Turn& turn, Peer& agent);
/// The peer's connection is over: what others get from it they get elsewhere.
void on_source_detached(const Turn& turn, Peer& peer);
/// Takes the peer out of all values. REQUIRES: it is not connected.
void forget_values_of(const Turn& turn, Peer& peer);
void on_value_unheld(const Turn& turn, std::uint64_t number);

/// All values that the call names are in the member's store.
bool has_values(const State& state, const CallState& call, const Member& member);

std::vector<ValueStatus> value_statuses(const State& state, std::size_t most);

}  // namespace betterbox::scheduler
