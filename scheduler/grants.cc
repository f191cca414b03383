// Who gets how many items, and from whom: leases are granted and cut by the call's policy (runtime/policy.h).
#include <algorithm>
#include <cmath>

#include "scheduler/broadcasts.h"
#include "scheduler/lease_steps.h"
#include "scheduler/leases.h"

namespace betterbox::scheduler {
namespace {

/// Pages of one lease: well below the frames that a message may have.
constexpr std::size_t kMaxLeasePages = kMaxFrames / 2;
/// Items of one lease that carry costs: a megabyte of them.
constexpr std::uint64_t kMaxCostedItems = std::uint64_t{1} << 18;
/// What one lease costs the scheduler, several times over: leases of all workers together are longer.
constexpr Duration kLeaseCost = microseconds(2);
/// The farthest that an end is foreseen, in ns.
constexpr double kFarAhead = 1e17;

Share& share_of(CallState& call, Peer& agent) {
  const auto [it, added] = call.shares.try_emplace(agent.id);
  if (added) {
    it->second.agent = &agent;
    it->second.call = &call;
    agent.agent.calls.insert(call.id);
  }
  return it->second;
}

void send_context(const Turn& turn, CallState& call, Share& share) {
  if (share.context_sent) return;
  share.context_sent = true;
  want_values(turn, call, *share.agent);
  Context context{call.id,       call.port,  call.method, call.fold, std::string(call.policy->name),
                  call.priority, call.needs, call.values, 0,         {},
                  call.depth};
  Frames frames{call.context};
  const HeldContents::Key key{call.id.client, call.content, call.context.size()};
  if (HeldContents::may_hold(key)) {
    HeldContents& contents = share.agent->agent.contents;
    context.held = contents.use(key);
    if (context.held != 0) {
      frames.clear();
    } else {
      context.held = contents.add(key, context.dropped);
    }
  }
  turn.send(*share.agent, std::move(context), std::move(frames));
}

LeaseState& new_lease(State& state, CallState& call, Member& member, Share& share) {
  const LeaseId id = state.new_lease_id();
  LeaseState& lease = state.leases[id];
  lease.id = id;
  lease.call = &call;
  lease.member = &member;
  lease.share = &share;
  share.leases.push_back(lease);
  call.leases.push_back(lease);
  member.agent->agent.leases.push_back(lease);
  ++member.leases;
  return lease;
}

/// Average items, of which costs that differ wildly may make more than can be counted.
std::uint64_t to_count(double average_items) {
  constexpr double kMost = 1e15;
  return static_cast<std::uint64_t>(std::clamp(average_items, 1.0, kMost));
}

Work work_of(const Turn& turn, const CallState& call, const Peer& agent) {
  const Pool& pool = turn.state.pool(call.port);
  Work work;
  work.remaining = call.items.pending_items();
  work.total = call.items.known_end();
  if (call.items.has_costs()) {
    work.remaining = to_count(call.items.pending_average_items());
    work.total = to_count(call.items.known_average_items());
  }
  work.outstanding = call.outstanding;
  work.total_slots = pool.slots;
  work.idle_slots = pool.idle_slots;
  work.takers = pool.members.size();
  work.mean_ns = call.times.mean();
  if (work.mean_ns > 0) {
    // An item takes the mean wherever it happens to run, so this is the sum of all rates, measured or not; and no
    // worker whose few first items were short by chance can distort it for long.
    work.items_per_ns = static_cast<double>(pool.slots) / work.mean_ns;
    work.scatter = static_cast<double>(pool.slots) * call.times.variance() / work.mean_ns;
  }
  work.since_given = turn.now - call.last_grant;
  work.round_trip = agent.agent.round_trip.ahead();
  work.least_lease = kLeaseCost * static_cast<std::int64_t>(work.takers);
  return work;
}

/// An idle member leaves the call's items to others: they should have come for them in so much time.
void plan_to_offer_again(const Turn& turn, const CallState& call, Duration time) {
  Pool& pool = turn.state.pool(call.port);
  const TimePoint at = std::max(turn.now + kRoundTrip, call.last_grant + time);
  if (at < pool.offer_again_at)
    turn.state.set_timer(pool.offer_again_at, at, TimerKind::kOfferAgain, pool.port.value);
}

/// All agents of a pool together send one message in kReportCost.
Duration report_interval(const Pool& pool) {
  return std::max(kReportInterval, kReportCost * static_cast<std::int64_t>(pool.members.size()));
}

/// How much of what a victim has not begun a thief should get, so that both end at the same time; 0: not worth it.
std::uint64_t items_to_steal(const Turn& turn, const Share& victim, const Member& thief) {
  const CallState& call = *victim.call;
  const std::uint64_t thief_slots = slots_for(call, thief);
  if (thief_slots == 0 || turn.state.peers.at(call.id.client).client.throttled) return 0;
  const std::uint64_t most =
      std::min(victim.outstanding - std::min<std::uint64_t>(victim.outstanding, victim.slots),
               items_before_end(turn, call, *thief.agent, thief_slots));
  if (most == 0) return 0;
  const double victim_mean = victim.times.mean_among(call.times.mean());
  if (victim_mean <= 0) return (most + 1) / 2;  // nothing is known of the items
  const auto known = call.shares.find(thief.agent->id);
  const double thief_mean =
      (known != call.shares.end() ? known->second.times : ItemTimes()).mean_among(call.times.mean());
  const double left = static_cast<double>((victim.finish - turn.now).ns);
  const Duration way =
      std::max(victim.agent->agent.round_trip.expected(), thief.agent->agent.round_trip.expected());
  const bool early = known != call.shares.end() && thief.outstanding >= thief.slots;
  const Duration own = early ? known->second.finish - turn.now : Duration{0};
  const double steal_ns = static_cast<double>(std::max(way, own).ns);  // until it can begin with them
  double untouched = static_cast<double>(most);
  if (left > 0) {
    if (steal_ns + thief_mean >= left) return 0;
    untouched = std::min(untouched, left / victim_mean * victim.slots);
  }
  const double victim_rate = victim.slots / victim_mean;
  const double thief_rate = static_cast<double>(thief_slots) / thief_mean;
  const double share =
      std::max(0.0, untouched - steal_ns * victim_rate) * thief_rate / (thief_rate + victim_rate);
  return std::min(most, static_cast<std::uint64_t>(std::max(1.0, std::round(share))));
}

}  // namespace

std::uint64_t items_before_end(const Turn& turn, const CallState& call, const Peer& agent,
                               std::uint64_t slots) {
  constexpr std::uint64_t kAny = ~std::uint64_t{0};
  if (agent.agent.ends == TimePoint::never()) return kAny;
  const auto known = call.shares.find(agent.id);
  const bool is_known = known != call.shares.end();
  const double mean = (is_known ? known->second.times : ItemTimes()).mean_among(call.times.mean());
  const double left = static_cast<double>((agent.agent.ends - turn.now).ns);
  if (left <= 0) return 0;
  const double each =
      mean > 0 ? std::min(std::floor(left / mean), 1e9) : 1;  // one, to learn how long they take
  const auto most = static_cast<std::uint64_t>(each * static_cast<double>(slots));
  return most - std::min(most, is_known ? known->second.outstanding : 0);
}

void expect_finish(const Turn& turn, const CallState& call, Share& share) {
  const double mean = share.times.mean_among(call.times.mean());
  const double items = call.items.average_items(share.cost, share.outstanding);
  const double left = items * mean / std::max<double>(1, share.slots);
  share.finish = turn.now + Duration{static_cast<std::int64_t>(std::min(left, kFarAhead))};
}

LeaseState& lend(const Turn& turn, CallState& call, Member& member, Range range, std::uint32_t attempt) {
  State& state = turn.state;
  Pool& pool = state.pool(call.port);
  Share& share = share_of(call, *member.agent);
  share.slots = static_cast<std::uint32_t>(slots_for(call, member));
  LeaseState& lease = new_lease(state, call, member, share);
  lease.range = range;
  lease.attempt = attempt;
  lease.part = part_of_whole(share.slots);
  lease.open.insert(range);
  lease.granted = turn.now;
  lease.session = member.agent->session;
  member.outstanding += range.size();
  member.filled += range.size() * lease.part;
  share.outstanding += range.size();
  call.outstanding += range.size();
  pool.outstanding += range.size();
  if (call.items.has_costs()) share.cost += call.items.cost_of(range);
  ++state.counters.leases_granted;
  ++call.leases_granted;
  expect_finish(turn, call, share);

  send_context(turn, call, share);
  Lease message{lease.id, call.id, range, attempt, {}};
  message.costs = call.items.costs_of(range);
  const RoundTrip& round_trip = member.agent->agent.round_trip;
  message.low_water = call.policy->low_water({share.slots, share.outstanding, share.times, call.times.mean()},
                                             round_trip.ahead());
  member.reserve = round_trip.is_far() ? message.low_water : 0;
  message.report_interval_ns = report_interval(pool).ns;
  Frames frames;
  call.items.pages_of(range, message.spans, frames);
  turn.send(*member.agent, std::move(message), std::move(frames));
  state.reindex(member);
  state.reindex(call, share);
  return lease;
}

void revoke_for(const Turn& turn, LeaseState& lease, std::uint64_t count, Member& thief) {
  lease.revoking = true;
  lease.whole = false;
  lease.thief = thief.agent->id;
  thief.stealing = true;
  turn.state.reindex(thief);
  turn.state.reindex(*lease.call, *lease.share);
  ++turn.state.counters.revokes_sent;
  turn.send(*lease.member->agent, Revoke{lease.id, count});
}

bool grant(const Turn& turn, CallState& call, Member& member) {
  BB_CHECK(member.grantable && call.items.pending_items() > 0);
  State& state = turn.state;
  Peer& agent = *member.agent;
  const std::uint64_t slots = slots_for(call, member);
  const auto known = call.shares.find(agent.id);
  Taker taker{slots, 0, {}};
  if (known != call.shares.end())
    taker.outstanding = known->second.outstanding, taker.times = known->second.times;
  if (slots == 0) return false;
  if (!taker.times.known()) taker.slots = slots_to_begin_with(call, member);
  const Work work = work_of(turn, call, agent);
  const std::uint64_t fitting = items_before_end(turn, call, agent, slots);
  if (fitting == 0) return false;
  const std::uint64_t wanted = std::min(call.policy->items_to_give(work, taker, call.memory), fitting);
  if (wanted == 0) {
    if (taker.outstanding < taker.slots) plan_to_offer_again(turn, call, time_without(work, taker));
    return false;
  }

  const std::uint64_t items =
      call.items.has_costs() ? std::min(call.items.items_for(wanted), kMaxCostedItems) : wanted;
  const Part part = call.items.take(std::min(items, kMaxLeaseItems), kMaxLeaseBytes, kMaxLeasePages);
  if (call.first_grant == TimePoint::never()) call.first_grant = turn.now;
  call.last_grant = turn.now;
  const LeaseState& lease = lend(turn, call, member, part.range, part.attempt);
  if (part.stolen) ++lease.share->steals;
  state.reindex_waiting(call, false);
  return true;
}

bool steal(const Turn& turn, Share& victim, Member& thief) {
  LeaseState* lease = lease_to_cut(victim);
  BB_CHECK(lease != nullptr);
  const std::uint64_t count = items_to_steal(turn, victim, thief);
  if (count == 0) return false;
  revoke_for(turn, *lease, std::min(count, lease->open.size()), thief);
  return true;
}

}  // namespace betterbox::scheduler
