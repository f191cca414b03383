#include "scheduler/leases.h"

#include <algorithm>

#include "runtime/add_times.h"
#include "runtime/page.h"
#include "runtime/printable.h"
#include "scheduler/copies.h"
#include "scheduler/inquiries.h"
#include "scheduler/lease_steps.h"
#include "scheduler/results.h"

namespace betterbox::scheduler {
namespace {

/// An agent learns at the latest after this time that its outcomes have arrived.
constexpr Duration kAckDelay = milliseconds(20);

/// After any change of a lease: every index that depends on it.
void lease_changed(State& state, LeaseState& lease) {
  state.reindex(*lease.member);
  state.reindex(*lease.call, *lease.share);
  state.mark_dirty(*lease.member);
}

void finish_revoke(State& state, LeaseState& lease) {
  lease.revoking = false;
  Peer* thief = state.find_peer(lease.thief);
  lease.thief = {};
  if (thief == nullptr) return;
  const auto member = thief->agent.memberships.find(lease.call->port);
  if (member == thief->agent.memberships.end()) return;
  member->second.stealing = false;
  state.reindex(member->second);
  state.mark_dirty(member->second);
}

/// Items left a lease: their costs, then (perhaps for many ranges at a time) their number.
void count_out_costs(LeaseState& lease, Range range) {
  if (lease.call->items.has_costs()) lease.share->cost -= lease.call->items.cost_of(range);
}
void count_out(State& state, LeaseState& lease, std::uint64_t items) {
  lease.member->outstanding -= items;
  lease.member->filled -= items * lease.part;
  state.pool(lease.member->port).outstanding -= items;
  lease.share->outstanding -= items;
  lease.call->outstanding -= items;
  lease.nothing_to_revoke = false;
}

/// Ends a lease of which nothing is open.
void end_lease(State& state, LeaseState& lease) {
  BB_CHECK(lease.open.empty());
  if (lease.revoking) finish_revoke(state, lease);
  --lease.member->leases;
  lease.share->leases.remove(lease);
  lease_changed(state, lease);
  lease.member->agent->agent.leases.remove(lease);
  lease.call->leases.remove(lease);
  state.leases.erase(lease.id);
}

template <class Leases> std::vector<LeaseState*> all_of(const Leases& leases) {
  std::vector<LeaseState*> all;
  all.reserve(leases.size());
  for (LeaseState* lease = leases.front(); lease != nullptr; lease = Leases::next(*lease))
    all.push_back(lease);
  return all;
}

void put_back(State& state, CallState& call, const Part& part) {
  Range rest = part.range;
  for (auto twin = call.twins.lower_bound(rest.begin); twin != call.twins.end() && twin->first < rest.end;) {
    if (rest.begin < twin->first) call.items.put_back({{rest.begin, twin->first}, part.attempt, part.stolen});
    rest.begin = twin->first + 1;
    twin = call.twins.erase(twin);  // the other one goes on
  }
  if (!rest.empty()) call.items.put_back({rest, part.attempt, part.stolen});
  state.reindex_waiting(call, true);
}

/// One more process died with this item: it waits again, or is poisoned.
/// REQUIRES: it was taken out of its lease. Result: true if it will be tried again.
bool count_death(const Turn& turn, CallState& call, std::uint64_t index, std::uint32_t attempt,
                 const DeathReport& death, std::string_view detail) {
  const std::uint32_t deaths = ++call.deaths[index];
  if (other_twin_goes_on(call, index)) return true;
  const Range item{index, index + 1};
  if (deaths <= call.retries) {
    ++turn.state.counters.items_retried;
    if (call.durable) turn.persist(ItemDied{call.id, index, deaths});
    put_back(turn.state, call, {item, attempt + 1, false});
    return true;
  }
  settle_as_lost(turn, call, {item}, LostCode::kPoisoned, death, detail);
  return false;
}

/// Of all that an agent says of one seat: more than any work takes, in ns^2, and still a number when it is added up.
constexpr double kMostSquares = 1e40;

/// One agent's work on a call since its last report.
/// `weight`: average items per item of this report.
void learn(const Turn& turn, CallState& call, Share& share, const std::vector<SeatWork>& seats,
           double weight) {
  share.done.add(seats, (turn.now - call.first_grant).ns, call.seats_left);
  std::uint64_t items = 0;
  double busy = 0, squares = 0;
  for (const SeatWork& work : seats) {
    call.longest_ns = std::max(call.longest_ns, work.longest_ns);
    items += work.items;
    busy += static_cast<double>(std::max<std::int64_t>(0, work.busy_ns));
    squares += std::min(kMostSquares, std::max(0.0, work.busy_squares));
  }
  if (weight != 1) busy /= weight, squares /= weight * weight;
  share.times.add(items, busy, squares);
  call.times.add(items, busy, squares);
}

/// Average items per item of these spans, as far as they are known and not settled; 1 if that says nothing.
double weight_of(const LeaseState& lease, const std::vector<OutcomeSpan>& spans) {
  const CallItems& items = lease.call->items;
  double cost = 0;
  std::uint64_t count = 0;
  for (const OutcomeSpan& span : spans) {
    for (const Range& part : lease.open.intersection({span.first, span.first + span.count})) {
      cost += items.cost_of(part);
      count += part.size();
    }
  }
  const double average = items.average_items(cost, count);
  return average > 0 ? average / static_cast<double>(count) : 1;
}

/// Accepts one page of outcomes, whole or in the parts that are still wanted of it.
class OutcomeIntake {
 public:
  OutcomeIntake(const Turn& turn, LeaseState& lease) : turn_(turn), lease_(lease), call_(*lease.call) {}

  void take(const OutcomeSpan& span, const Frame& page) {
    const Range range{span.first, span.first + span.count};
    if (lease_.open.contains(range)) {
      accept(range, page);
      call_.busy_ns = add_times(call_.busy_ns, std::max<std::int64_t>(0, span.busy_ns));
      if (call_.items.known_end() > 1) call_.measured.add(range, span.busy_ns);
      return;
    }
    ++turn_.state.counters.stale_outcomes;
    for (const Range& part : lease_.open.intersection(range)) take_part(part, range, page);
  }

  void deliver_taken() {
    if (spans_.empty()) return;
    count_out(turn_.state, lease_, taken_);
    settle(turn_, call_, spans_);
    deliver(turn_, call_, std::move(spans_), std::move(frames_));
  }

 private:
  void accept(Range range, const Frame& page) {
    BB_CHECK(lease_.open.erase(range) == range.size());
    count_out_costs(lease_, range);
    taken_ += range.size();
    if (!call_.twins.empty()) stop_other_twins(turn_, lease_, range);
    spans_.push_back({range.begin, range.size()});
    frames_.push_back(page);
  }

  /// Some items of the page are not wanted any more (cancelled while they ran). The others have their
  /// outcomes in it, except in a fold, which cannot be taken apart: they run again.
  void take_part(Range part, Range whole, const Frame& page) {
    const std::optional<PageView> view = call_.fold ? std::nullopt : PageView::parse(page.bytes());
    if (view && view->kind() != PageKind::kFold && view->count() == whole.size()) {
      accept(part, slice_page(page, *view, part.begin - whole.begin, part.end - whole.begin));
      return;
    }
    take_out(turn_.state, lease_, part);
    put_back(turn_.state, call_, {part, lease_.attempt, false});
  }

  const Turn& turn_;
  LeaseState& lease_;
  CallState& call_;
  std::uint64_t taken_ = 0;
  std::vector<PageSpan> spans_;
  Frames frames_;
};

void on_lost_items(const Turn& turn, LeaseState& lease, const std::vector<LostItem>& lost) {
  CallState& call = *lease.call;
  Share& share = *lease.share;
  for (const LostItem& item : lost) {
    if (!lease.open.contains(item.index)) {
      ++turn.state.counters.stale_outcomes;
      continue;
    }
    take_out(turn.state, lease, {item.index, item.index + 1});
    if (count_death(turn, call, item.index, lease.attempt, item.death, "")) ++share.retries;
  }
}

/// Acknowledgements to all agents together, too, leave at most once in kReportCost.
void plan_acknowledge(const Turn& turn, Peer& agent, std::size_t bytes) {
  AgentPart& part = agent.agent;
  part.unacked_bytes += bytes;
  if (part.unacked_bytes >= kAckEveryBytes) {
    acknowledge_outcomes(turn, agent);
  } else if (!part.ack_planned) {
    part.ack_planned = true;
    auto& queue = turn.state.acknowledge_at;
    const TimePoint at =
        turn.now + std::max(kAckDelay, kReportCost * static_cast<std::int64_t>(turn.state.peers.size()));
    queue.emplace_back(queue.empty() ? at : std::max(at, queue.back().first), agent.id);
  }
}

Complaint check_outcomes(const Outcomes& outcomes, const Frames& frames) {
  if (outcomes.spans.size() != frames.size()) return "Outcomes need one page per span";
  for (const OutcomeSpan& span : outcomes.spans) {
    if (span.count == 0 || span.first >= CallItems::kMaxIndex || span.count > CallItems::kMaxIndex) {
      return "Outcomes with an impossible span";
    }
  }
  return std::nullopt;
}

}  // namespace

void take_out(State& state, LeaseState& lease, Range range) {
  BB_CHECK(lease.open.erase(range) == range.size());
  count_out_costs(lease, range);
  count_out(state, lease, range.size());
}

void settle_down(State& state, LeaseState& lease) {
  if (lease.open.empty()) {
    end_lease(state, lease);
  } else {
    lease_changed(state, lease);
  }
}

void revoke_whole_lease(const Turn& turn, LeaseState& lease) {
  if (lease.revoking || lease.open.empty() || !lease.member->agent->connected()) return;
  lease.revoking = lease.whole = true;
  turn.state.reindex(*lease.call, *lease.share);
  ++turn.state.counters.revokes_sent;
  turn.send(*lease.member->agent, Revoke{lease.id, lease.open.size()});
}

void revoke_whole_call(const Turn& turn, CallState& call) {
  for (LeaseState* lease : all_of(call.leases)) revoke_whole_lease(turn, *lease);
}

Complaint on_outcomes(const Turn& turn, Peer& agent, Outcomes&& outcomes, Frames&& frames) {
  if (Complaint complaint = check_outcomes(outcomes, frames)) return complaint;
  std::size_t bytes = 64;
  for (const Frame& frame : frames) bytes += frame.size();
  const bool seen = outcomes.ack <= agent.agent.outcomes_seen;  // sent again after a reconnect
  agent.agent.outcomes_seen = std::max(agent.agent.outcomes_seen, outcomes.ack);
  plan_acknowledge(turn, agent, bytes);
  if (seen) return std::nullopt;

  LeaseState* lease = turn.state.find_lease(outcomes.lease);
  if (lease == nullptr || lease->member->agent != &agent) {
    turn.state.counters.stale_outcomes += outcomes.spans.size() + outcomes.lost.size();
    return std::nullopt;
  }
  if (outcomes.held_ns > 0 && lease->session == agent.session)  // what was sent again says nothing
    agent.agent.round_trip.add(turn.now - lease->granted - Duration{outcomes.held_ns});
  if (lease->share->outstanding > lease->share->slots) lease->share->running_since = turn.now;
  lease->share->steals += outcomes.steals;
  const double weight = lease->call->items.has_costs() ? weight_of(*lease, outcomes.spans) : 1;
  OutcomeIntake intake(turn, *lease);
  for (std::size_t i = 0; i < outcomes.spans.size(); ++i) intake.take(outcomes.spans[i], frames[i]);
  intake.deliver_taken();
  learn(turn, *lease->call, *lease->share, outcomes.seats, weight);
  on_lost_items(turn, *lease, outcomes.lost);
  expect_finish(turn, *lease->call, *lease->share);
  settle_down(turn.state, *lease);
  return std::nullopt;
}

Complaint on_released(const Turn& turn, Peer& agent, const Released& released) {
  for (const Range& r : released.ranges) {
    if (r.begin >= r.end) return "Released with an empty range";
  }
  LeaseState* lease = turn.state.find_lease(released.lease);
  if (lease == nullptr || lease->member->agent != &agent) return std::nullopt;  // it ended meanwhile
  if (lease->share->outstanding > lease->share->slots) lease->share->running_since = turn.now;
  bool gave = false;
  const bool for_a_thief = static_cast<bool>(lease->thief);
  for (const Range& r : released.ranges) {
    for (const Range& part : lease->open.intersection(r)) {
      take_out(turn.state, *lease, part);
      put_back(turn.state, *lease->call, {part, lease->attempt, static_cast<bool>(lease->thief)});
      gave = true;
    }
  }
  if (gave && lease->revoking) ++turn.state.counters.leases_cut;
  if (gave && for_a_thief) ++lease->call->splits;
  lease->nothing_to_revoke = !gave;
  const bool whole = lease->revoking && lease->whole;
  if (lease->revoking) finish_revoke(turn.state, *lease);
  note_begun(turn, *lease, whole);
  if (for_a_thief && agent.agent.load.paused) revoke_whole_lease(turn, *lease);  // it paused meanwhile
  settle_down(turn.state, *lease);
  return std::nullopt;
}

void abandon(const Turn& turn, CallState& call, Range range) {
  for (LeaseState* each : all_of(call.leases)) {
    LeaseState& lease = *each;
    if (!lease.range.overlaps(range)) continue;
    const std::vector<Range> parts = lease.open.intersection(range);
    if (parts.empty()) continue;
    for (const Range& part : parts) {
      take_out(turn.state, lease, part);
      turn.send(*lease.member->agent, Abandon{lease.id, part});
    }
    settle_down(turn.state, lease);
  }
  call.twins.erase(call.twins.lower_bound(range.begin), call.twins.lower_bound(range.end));
}

void end_leases(const Turn& turn, CallState& call) {
  for (LeaseState* each : all_of(call.leases)) {
    LeaseState& lease = *each;
    for (const Range& part : lease.open.ranges()) take_out(turn.state, lease, part);
    end_lease(turn.state, lease);
  }
  call.twins.clear();
  for (Share* each : call.shares.sorted()) {
    Share& share = *each;
    if (!share.context_sent) continue;
    share.context_sent = false;
    turn.send(*share.agent, DropCall{call.id});
  }
}

Reconciled reconcile_leases(const Turn& turn, Peer& agent, const std::vector<HeldLease>& held) {
  Reconciled result;
  std::map<LeaseId, RangeSet> undelivered;
  for (const HeldLease& h : held) {
    const LeaseState* lease = turn.state.find_lease(h.lease);
    if (lease == nullptr || lease->member->agent != &agent) {
      result.dropped.push_back(h.lease);
      continue;
    }
    RangeSet& items = undelivered[h.lease];
    for (const Range& r : h.undelivered) {
      if (r.begin < r.end) items.insert(r);
    }
    for (const Range& r : items.ranges()) {
      for (const Range& gone : lease->open.missing(r)) result.abandoned.push_back({h.lease, gone});
    }
  }
  agent.agent.contents.clear();
  for (const CallId id : agent.agent.calls) turn.state.calls.at(id).shares.at(agent.id).context_sent = false;
  for (LeaseState* each : all_of(agent.agent.leases)) {
    LeaseState& lease = *each;
    const auto listed = undelivered.find(lease.id);
    if (listed != undelivered.end()) lease.share->context_sent = true;
    for (const Range& open : lease.open.ranges()) {
      const auto not_held =
          listed == undelivered.end() ? std::vector<Range>{open} : listed->second.missing(open);
      for (const Range& part : not_held) {
        take_out(turn.state, lease, part);
        put_back(turn.state, *lease.call, {part, lease.attempt, false});
      }
    }
    if (lease.revoking) finish_revoke(turn.state, lease);
    settle_down(turn.state, lease);
  }
  return result;
}

void put_back_leases(const Turn& turn, Peer& agent, bool blame) {
  const DeathReport death{0, 0, agent.host, agent.pid, 0, ""};
  for (LeaseState* each : all_of(agent.agent.leases)) {
    LeaseState& lease = *each;
    CallState& call = *lease.call;
    for (const Range& open : lease.open.ranges()) {
      take_out(turn.state, lease, open);
      Range rest = open;
      if (blame) {
        if (count_death(turn, call, open.begin, lease.attempt, death,
                        "the process '" + printable(agent.name) + "' that held it was lost")) {
          ++lease.share->retries;
        }
        ++rest.begin;
      }
      if (!rest.empty()) put_back(turn.state, call, {rest, lease.attempt + (blame ? 1 : 0), false});
    }
    end_lease(turn.state, lease);
  }
}

void put_back_leases_of_port(const Turn& turn, Peer& agent, Port port) {
  for (LeaseState* each : all_of(agent.agent.leases)) {
    LeaseState& lease = *each;
    if (lease.call->port != port) continue;
    for (const Range& open : lease.open.ranges()) {
      take_out(turn.state, lease, open);
      put_back(turn.state, *lease.call, {open, lease.attempt, false});
      turn.send(agent, Abandon{lease.id, open});
    }
    end_lease(turn.state, lease);
  }
}

void acknowledge_outcomes(const Turn& turn, Peer& agent) {
  AgentPart& part = agent.agent;
  part.ack_planned = false;
  part.unacked_bytes = 0;
  if (turn.send(agent, Acknowledge{part.outcomes_seen})) part.outcomes_acked = part.outcomes_seen;
}

}  // namespace betterbox::scheduler
