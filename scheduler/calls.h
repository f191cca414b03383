// Calls: opened, fed, cancelled and forgotten by clients (docs/protocol.md, section "Calls").
#pragma once

#include "scheduler/state.h"

namespace betterbox::scheduler {

Complaint on_call(const Turn& turn, Peer& client, Call&& call, Frames&& frames);
Complaint on_items(const Turn& turn, Peer& client, Items&& items, Frames&& frames);
Complaint on_cancel(const Turn& turn, Peer& client, const Cancel& cancel);
void on_forget(const Turn& turn, Peer& client, std::uint64_t serial);
void on_explain(const Turn& turn, Peer& client, std::uint64_t serial);

/// Makes the call, without a word to anybody. REQUIRES: the message is allowed, its policy known.
CallState& open_call(const Turn& turn, Peer& client, Call&& message, Frame context);
/// Result: false if a span does not follow the items before it (those before it were appended).
bool append_items(Peer& client, CallState& call, const Items& items, Frames&& frames);
void close_call(const Turn& turn, CallState& call);

void on_call_timeout(const Turn& turn, CallState& call);

/// Removes a call and everything of it, at agents too.
void drop_call(const Turn& turn, CallState& call);

/// Tells clients about the calls of which nothing is left to settle.
void finish_calls(const Turn& turn);

/// A client came back: calls that it does not name are dropped. Result: those that both know.
std::vector<KnownCall> reconcile_calls(const Turn& turn, Peer& client,
                                       const std::vector<std::uint64_t>& serials);
/// After its Welcome and its results: Settled once more for calls that it thinks unsettled.
void resend_settled(const Turn& turn, Peer& client, const std::vector<KnownCall>& known);

}  // namespace betterbox::scheduler
