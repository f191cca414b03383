#include "scheduler/inquiries.h"

#include <algorithm>
#include <utility>

#include "scheduler/leases.h"
#include "scheduler/results.h"

namespace betterbox::scheduler {
namespace {

/// Asks for what is untouched in the leases that hold items of the inquiry.
void ask_agents(const Turn& turn, CallState& call, Inquiry& inquiry) {
  for (LeaseState* lease = call.leases.front(); lease != nullptr; lease = LeasesOfCall::next(*lease)) {
    const bool concerned = std::ranges::any_of(inquiry.items.ranges(), [&](const Range& r) {
      return lease->range.overlaps(r) && !lease->open.intersection(r).empty();
    });
    if (!concerned) continue;
    if (lease->member->agent->connected()) {
      inquiry.awaited.insert(lease->id);
      revoke_whole_lease(turn, *lease);
    } else {
      inquiry.begun.insert(lease->id);
    }
  }
}

/// Leases that are gone are not waited for; an agent that was away when it was to answer is asked again.
void look_at_awaited(const Turn& turn, Inquiry& inquiry) {
  std::erase_if(inquiry.awaited, [&](LeaseId id) {
    LeaseState* lease = turn.state.find_lease(id);
    if (lease == nullptr || lease->open.empty()) return true;
    revoke_whole_lease(turn, *lease);  // nothing if it is under way, or the agent is still away
    return false;
  });
}

void withdraw_waiting(const Turn& turn, CallState& call, const RangeSet& items) {
  std::vector<Range> withdrawn;
  for (const Range& r : items.ranges()) {
    for (const Range& part : call.items.withdraw(r)) withdrawn.push_back(part);
  }
  if (withdrawn.empty()) return;
  turn.state.reindex_waiting(call, false);
  settle_as_lost(turn, call, withdrawn, LostCode::kCancelled, kNoDeath, "");
}

/// What is open in leases that keep it.
std::vector<Range> begun_items(const Turn& turn, const Inquiry& inquiry) {
  RangeSet begun;
  for (const LeaseId id : inquiry.begun) {
    const LeaseState* lease = turn.state.find_lease(id);
    if (lease == nullptr) continue;
    for (const Range& r : inquiry.items.ranges()) {
      for (const Range& part : lease->open.intersection(r)) begun.insert(part);
    }
  }
  return begun.ranges();
}

}  // namespace

Complaint on_inquire(const Turn& turn, Peer& client, const Inquire& inquire) {
  Inquiry inquiry;
  inquiry.number = inquire.number;
  inquiry.withdraw = inquire.withdraw;
  for (const Range& r : inquire.items) {
    if (r.begin >= r.end || r.end > CallItems::kMaxIndex) return "Inquire with an impossible range";
    inquiry.items.insert(r);
  }
  CallState* call = turn.state.find_call({client.id, inquire.serial});
  if (call == nullptr) {  // forgotten, or lost with an earlier scheduler
    turn.send(client, Begun{inquire.serial, inquire.number, {}});
    return std::nullopt;
  }
  if (call->inquiries.size() >= kMaxInquiries) {  // the oldest has waited long enough: it gets what is known
    Inquiry& oldest = call->inquiries.front();
    oldest.begun.merge(oldest.awaited);
    oldest.awaited.clear();
  }
  if (inquire.withdraw) {
    for (const Range& r : inquiry.items.ranges()) {
      const Range later{std::max(r.begin, call->items.known_end()), r.end};
      if (later.begin < later.end) call->unwanted.insert(later);
    }
  }
  ask_agents(turn, *call, inquiry);
  call->inquiries.push_back(std::move(inquiry));
  turn.state.inquired.insert(call->id);
  return std::nullopt;
}

void note_begun(const Turn& turn, LeaseState& lease, bool whole) {
  bool again = false;
  for (Inquiry& inquiry : lease.call->inquiries) {
    if (!inquiry.awaited.contains(lease.id)) continue;
    if (!whole) {
      again = true;
      continue;
    }
    inquiry.awaited.erase(lease.id);
    inquiry.begun.insert(lease.id);
  }
  if (again) revoke_whole_lease(turn, lease);
}

void answer_inquiries(const Turn& turn) {
  State& state = turn.state;
  for (const CallId id : std::exchange(state.inquired, {})) {
    CallState* call = state.find_call(id);
    if (call == nullptr) continue;
    withdraw_waiting(turn, *call, call->unwanted);
    std::erase_if(call->inquiries, [&](Inquiry& inquiry) {
      if (inquiry.withdraw) withdraw_waiting(turn, *call, inquiry.items);
      look_at_awaited(turn, inquiry);
      if (!inquiry.awaited.empty()) return false;
      if (const Peer* client = state.find_peer(id.client))
        turn.send(*client, Begun{id.serial, inquiry.number, begun_items(turn, inquiry)});
      return true;
    });
    if (!call->inquiries.empty()) state.inquired.insert(id);
  }
}

}  // namespace betterbox::scheduler
