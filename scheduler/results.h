// Results: what goes back to clients, numbered and kept until acknowledged (docs/protocol.md, section
// "Results"). A client that does not read is throttled: its calls are not granted and their leases cut.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "runtime/page.h"
#include "scheduler/state.h"

namespace betterbox::scheduler {

/// Sends pages of outcomes. REQUIRES: their items were settled just now.
void deliver(const Turn& turn, CallState& call, std::vector<PageSpan> spans, Frames frames);

/// Of items that were lost without a death.
inline const DeathReport kNoDeath;

/// Settles items without an outcome of user code and delivers that: one page per range.
/// REQUIRES: the parts are unsettled and in no lease and not pending.
void settle_as_lost(const Turn& turn, CallState& call, const std::vector<Range>& parts, LostCode code,
                    const DeathReport& death, std::string_view detail);

/// Settles items: the only way in which they become settled.
void settle(const Turn& turn, CallState& call, std::span<const PageSpan> spans);

/// Keeps results until the client acknowledges them.
void keep_results(ClientPart& client, Results&& results, Frames&& frames, bool durable);

Complaint on_results_acknowledged(const Turn& turn, Peer& client, std::uint64_t ack);

/// To a client that came back: everything unacknowledged again, in order.
void resend_results(const Turn& turn, Peer& client);

}  // namespace betterbox::scheduler
