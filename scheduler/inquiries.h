// Inquiries: which items of a call have begun, and cancelling only those that have not (docs/protocol.md, Inquire).
// Whoever holds items of a call is asked to give back what is untouched: what it keeps has begun.
#pragma once

#include "scheduler/state.h"

namespace betterbox::scheduler {

Complaint on_inquire(const Turn& turn, Peer& client, const Inquire& inquire);

/// An agent has answered a Revoke of this lease.
/// `whole`: it was asked for everything untouched, so that what is open in it has begun.
void note_begun(const Turn& turn, LeaseState& lease, bool whole);

/// Withdraws what waits and nobody is to run, and answers the inquiries about which nobody is asked any more. To be
/// called before work is granted.
void answer_inquiries(const Turn& turn);

}  // namespace betterbox::scheduler
