#include "scheduler/copies.h"

#include <algorithm>
#include <vector>

#include "scheduler/lease_steps.h"

namespace betterbox::scheduler {
namespace {

/// An item is worth a copy when it has run longer than items of the call do on average (copies use idle slots, and
/// their budget bounds what they cost; waiting longer made calls end later, simulated over all kinds of items)...
constexpr double kLongerThanMean = 1;
/// ...and so long that ending the loser's process is no matter.
constexpr Duration kWorthAProcess = milliseconds(5);
/// Looks are at least so far apart: they go over all leases of a call.
constexpr Duration kLeastInterval = milliseconds(1);
constexpr Duration kLookCostPerLease = microseconds(10);
/// Calls that one look goes over.
constexpr std::size_t kCallsLookedAt = 64;
/// Items for which no helper is found before a look at a call ends: which idle member may help goes with the item.
constexpr int kHelpedInVain = 16;
/// Idle members that are asked for one copy.
constexpr int kHelpersLookedAt = 16;

/// Another slot of the same agent helps only if the item hangs, not if its machine is slow: this many times longer.
constexpr std::int64_t kLongerForOwnAgent = 2;

/// An item that runs, since when at least, and how long is long for it.
struct Candidate {
  TimePoint since;
  Duration limit;
  LeaseState* lease = nullptr;
  std::uint64_t index = 0;
};

TimePoint running_since(const LeaseState& lease) {
  return std::max(lease.granted, lease.share->running_since);
}

/// Ready: it has no pending items, and something is known of its items.
bool is_at_its_tail(const State& state, const CallState& call) {
  return call.items.pending_items() == 0 && call.outstanding > 0 && call.times.known() &&
         !state.peers.at(call.id.client).client.throttled;
}

bool within_budget(const CallState& call) {
  const double mean = call.times.mean();
  const double spent =
      static_cast<double>(call.wasted_ns) + mean * static_cast<double>(call.twins.size() + 1);
  return spent <= static_cast<double>(call.busy_ns) * call.copies_permille / 1000;
}

Duration long_time(double ns) { return {static_cast<std::int64_t>(std::min(1e17, ns))}; }

/// `mean` is that of average items.
Duration long_for(const CallState& call, double mean, std::uint64_t item) {
  const double expected = mean * call.items.average_items(call.items.cost_of({item, item + 1}), 1);
  return std::max(kWorthAProcess, long_time(kLongerThanMean * expected));
}

/// What runs too long already. `next` becomes the time at which another item will, if that is earlier.
std::vector<Candidate> find_candidates(const Turn& turn, const CallState& call, TimePoint& next) {
  std::vector<Candidate> found;
  for (LeaseState* lease = call.leases.front(); lease != nullptr; lease = LeasesOfCall::next(*lease)) {
    const Share& share = *lease->share;
    if (share.outstanding > share.slots) continue;  // some of it has not begun: it will be cut
    const TimePoint since = running_since(*lease);
    for (const Range& open : lease->open.ranges()) {
      for (std::uint64_t i = open.begin; i < open.end; ++i) {
        const Duration limit = long_for(call, call.times.mean(), i);
        if (since + limit > turn.now) {
          next = std::min(next, since + limit);
        } else if (!call.twins.contains(i)) {
          found.push_back({since, limit, lease, i});
        }
      }
    }
  }
  std::stable_sort(found.begin(), found.end(),
                   [](const Candidate& a, const Candidate& b) { return a.since < b.since; });
  return found;
}

/// An idle member for a copy: another agent, unless there is none; then the same, if the item hangs. Nobody who is
/// known to be slower than the time that the item has run.
Member* find_helper(const Turn& turn, const CallState& call, const Pool& pool, const Candidate& candidate) {
  Member* own = nullptr;
  int looked = 0;
  for (Member* member = pool.idle.front(); member != nullptr && looked < kHelpersLookedAt;
       member = List<Member, &Member::in_idle>::next(*member), ++looked) {
    if (member->free_slots == 0) continue;
    if (slots_for(call, *member) == 0 || items_before_end(turn, call, *member->agent, 1) == 0) continue;
    if (member == candidate.lease->member) {
      if (turn.now - candidate.since >= candidate.limit * kLongerForOwnAgent) own = member;
      continue;
    }
    const auto share = call.shares.find(member->agent->id);
    const double mean = share != call.shares.end() ? share->second.times.mean() : 0;
    if (mean < static_cast<double>((turn.now - candidate.since).ns)) return member;
  }
  return own;
}

void copy(const Turn& turn, CallState& call, const Candidate& candidate, Member& helper) {
  const Range item{candidate.index, candidate.index + 1};
  LeaseState& lease = lend(turn, call, helper, item, candidate.lease->attempt);
  lease.nothing_to_revoke = true;
  turn.state.reindex(call, *lease.share);
  call.twins[candidate.index] = {candidate.lease->id, lease.id};
  ++call.copies;
}

/// Result: when to look at the call again.
TimePoint copy_what_runs_long(const Turn& turn, Pool& pool, CallState& call) {
  TimePoint next = TimePoint::never();
  const std::vector<Candidate> candidates = find_candidates(turn, call, next);
  const TimePoint later = turn.now + long_time(call.times.mean());
  int in_vain = 0;
  for (const Candidate& candidate : candidates) {
    if (!within_budget(call) || in_vain == kHelpedInVain) return later;
    if (Member* helper = find_helper(turn, call, pool, candidate)) {
      copy(turn, call, candidate, *helper);
    } else {
      ++in_vain;
    }
  }
  return in_vain > 0 ? std::min(next, later) : next;
}

Duration least_interval(const CallState& call) {
  return std::max(kLeastInterval, kLookCostPerLease * static_cast<std::int64_t>(call.leases.size()));
}

void plan_copies(const Turn& turn, Pool& pool, TimePoint at) {
  turn.state.set_timer(pool.copies_at, at, TimerKind::kCopies, pool.port.value);
}

}  // namespace

void watch_for_copies(const Turn& turn, Pool& pool) {
  if (pool.copying.empty()) return;
  if (pool.idle.empty() || !pool.waiting.empty()) return plan_copies(turn, pool, TimePoint::never());
  if (pool.copies_at == TimePoint::never())
    plan_copies(turn, pool, std::max(turn.now + kLeastInterval, pool.no_copies_before));
}

void on_copies_due(const Turn& turn, Pool& pool) {
  pool.copies_at = TimePoint::never();
  pool.no_copies_before = turn.now;
  TimePoint next = TimePoint::never();
  auto at = pool.copying.upper_bound(pool.copies_cursor);
  for (std::size_t left = std::min(kCallsLookedAt, pool.copying.size()); left > 0; --left, ++at) {
    if (pool.idle.empty()) return;
    if (at == pool.copying.end()) at = pool.copying.begin();
    pool.copies_cursor = *at;
    CallState& call = turn.state.calls.at(*at);
    if (!is_at_its_tail(turn.state, call)) continue;
    pool.no_copies_before = pool.no_copies_before + least_interval(call);
    next = std::min(next, copy_what_runs_long(turn, pool, call));
  }
  if (next != TimePoint::never()) plan_copies(turn, pool, std::max(next, pool.no_copies_before));
}

void stop_other_twins(const Turn& turn, LeaseState& lease, Range range) {
  CallState& call = *lease.call;
  auto it = call.twins.lower_bound(range.begin);
  while (it != call.twins.end() && it->first < range.end) {
    const Range item{it->first, it->first + 1};
    const bool copy_won = it->second.copy == lease.id;
    LeaseState& other = turn.state.leases.at(copy_won ? it->second.original : it->second.copy);
    it = call.twins.erase(it);
    if (copy_won) ++call.copies_won;
    call.wasted_ns += (turn.now - running_since(other)).ns;
    take_out(turn.state, other, item);
    turn.send(*other.member->agent, Abandon{other.id, item});
    settle_down(turn.state, other);
  }
}

}  // namespace betterbox::scheduler
