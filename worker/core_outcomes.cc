// Outcomes: taking them from seats, learning from them, and when they leave for the scheduler (worker/core.h).
#include <algorithm>
#include <numeric>

#include "runtime/add_times.h"
#include "runtime/check.h"
#include "worker/core.h"

namespace betterbox {

// --- taking them --------------------------------------------------------------------------------

void WorkerCore::on(SeatProgressed&& e) {
  Seat* seat = find_seat(e.seat, e.life);
  if (seat == nullptr || e.station >= kSeatStations || e.count == 0) return;
  Station& place = seat->stations[e.station];
  if (!place.busy || place.generation != e.generation || e.first + std::uint64_t{e.count} > place.count)
    return;
  place.finished += e.count;
  seat->heard = now_;
  seat->served = true;
  seat->fruitless = 0;
  if (LeaseState* lease = find_lease(place.lease)) take_outcomes(*lease, *seat, place, e);  // else abandoned
  reindex(*seat);
}

void WorkerCore::take_outcomes(LeaseState& lease, Seat& seat, Station& place, const SeatProgressed& e) {
  const Range range{place.base + e.first, place.base + e.first + e.count};
  const auto view = PageView::parse(e.page.bytes());
  const bool fold = view && view->kind() == PageKind::kFold;
  const bool whole = view && (fold || view->count() == range.size());
  if (whole && lease.open.contains(range)) {
    gather(lease, seat, e, range, e.page);
    close_items(lease, range);
    return;
  }
  for (const Range& r : lease.open.intersection(range)) {
    // A fold settles as one unit: with a part that is not wanted any more, the rest runs again.
    if (!whole || fold) {
      place.again = true;
      continue;
    }
    gather(lease, seat, e, r, slice_page(e.page, *view, r.begin - range.begin, r.end - range.begin));
    close_items(lease, r);
  }
}

void WorkerCore::gather(LeaseState& lease, Seat& seat, const SeatProgressed& e, Range range, Frame page) {
  Gathered& out = lease.out;
  const double part = static_cast<double>(range.size()) / e.count;
  const auto busy_ns = static_cast<std::int64_t>(static_cast<double>(e.busy_ns) * part);
  out.bytes += page.size() + sizeof(OutcomeSpan);
  out.spans.push_back({range.begin, range.size(), busy_ns});
  out.frames.push_back(std::move(page));
  out.seats.push_back({seat.id, range.size(), busy_ns, e.busy_squares * part, e.longest_ns});
  if (out.spans.size() >= kMaxFrames / 2) out.merge();
  CallState& call = *find_call(lease.call);
  learn(seat, call, lease, range, static_cast<double>(busy_ns), e.busy_squares * part);
  plan_report(call, lease.call);
  if (out.bytes > kPageBytes * 4 || out.spans.size() >= kMaxFrames / 2) send_outcomes(lease);
}

/// Pages of neighbours that are small become one, spans come in order, and each seat is named once.
void WorkerCore::Gathered::merge() {
  if (spans.size() < 2) return;
  std::vector<std::uint32_t> order(spans.size());
  std::iota(order.begin(), order.end(), 0U);
  auto by_first = [&](std::uint32_t a, std::uint32_t b) { return spans[a].first < spans[b].first; };
  if (!std::is_sorted(order.begin(), order.end(), by_first)) std::sort(order.begin(), order.end(), by_first);
  std::vector<OutcomeSpan> merged_spans;
  Frames merged_frames;
  PageBuilder page;  // of the last span, while it can grow
  auto finish_page = [&] {
    if (!page.empty()) merged_frames.back() = page.finish();
  };
  for (std::size_t i = 0; i < order.size(); ++i) {
    const OutcomeSpan& span = spans[order[i]];
    Frame& frame = frames[order[i]];
    auto follows = [&](std::size_t next) {
      return next < order.size() && spans[order[next]].first == span.first + span.count &&
             frames[order[next]].size() <= kSmallPageBytes;
    };
    bool grows = !merged_spans.empty() && !page.empty() &&
                 merged_spans.back().first + merged_spans.back().count == span.first &&
                 page.bytes() + frame.size() <= kPageBytes;
    if (!grows) finish_page();
    const auto view = frame.size() <= kSmallPageBytes && (grows || follows(i + 1))
                          ? PageView::parse(frame.bytes())
                          : std::nullopt;
    if (view && !page.takes(*view)) {
      finish_page();
      grows = false;
    }
    if (!view || !page.takes(*view)) {
      finish_page();
      merged_spans.push_back(span);
      merged_frames.push_back(std::move(frame));
      continue;
    }
    page.add(*view);
    if (grows) {
      merged_spans.back().count += span.count;
      auto& busy_ns = merged_spans.back().busy_ns;
      busy_ns = add_times(busy_ns, span.busy_ns);
    } else {
      merged_spans.push_back(span);
      merged_frames.emplace_back();
    }
  }
  finish_page();
  spans = std::move(merged_spans);
  frames = std::move(merged_frames);
  merge_seats();
  bytes = spans.size() * sizeof(OutcomeSpan);
  for (const Frame& frame : frames) bytes += frame.size();
}

void WorkerCore::Gathered::merge_seats() {
  if (seats.size() < 2) return;
  std::stable_sort(seats.begin(), seats.end(),
                   [](const SeatWork& a, const SeatWork& b) { return a.seat < b.seat; });
  std::size_t kept = 0;
  for (std::size_t i = 1; i < seats.size(); ++i) {
    const SeatWork& work = seats[i];
    SeatWork& last = seats[kept];
    if (work.seat != last.seat) {
      seats[++kept] = work;
      continue;
    }
    last.items += work.items;
    last.busy_ns = add_times(last.busy_ns, work.busy_ns);
    last.busy_squares += work.busy_squares;
    last.longest_ns = std::max(last.longest_ns, work.longest_ns);
  }
  seats.resize(kept + 1);
}

/// Where the user said what items cost, times are those of an item of average cost.
void WorkerCore::learn(Seat& seat, CallState& call, const LeaseState& lease, Range range, double busy_ns,
                       double busy_squares) {
  double scale = 1;
  if (!lease.costs.empty() && lease.cost(range) > 0)
    scale = call.unit_cost * static_cast<double>(range.size()) / lease.cost(range);
  call.times.add(range.size(), busy_ns * scale, busy_squares * scale * scale);
  if (seat.times_of != lease.call) {
    unlearn(seat);
    seat.times_of = lease.call;
    seat.times = {};
  } else {
    count_times(seat, call, -1);
  }
  seat.times.add(range.size(), busy_ns * scale, busy_squares * scale * scale);
  count_times(seat, call, +1);
}

void WorkerCore::unlearn(Seat& seat) {
  if (CallState* call = find_call(seat.times_of)) count_times(seat, *call, -1);
  seat.times_of = {};
}

void WorkerCore::count_times(const Seat& seat, CallState& call, int sign) {
  call.known_rate += sign / seat.times.mean();
  call.known_scatter += sign * seat.times.variance() / seat.times.mean();
  call.known_seats = static_cast<std::uint32_t>(static_cast<int>(call.known_seats) + sign);
}

// --- when they leave ----------------------------------------------------------------------------

/// Outcomes of this call wait to be sent.
void WorkerCore::plan_report(CallState& call, CallId id) {
  if (call.due != TimePoint::never()) return;
  call.due = call.reported ? *call.reported + std::max(kOutcomeInterval, call.report_interval) : now_;
  due_.insert({call.due, id});
}

/// These items are nothing of this agent's any more. REQUIRES: they are open.
void WorkerCore::close_items(LeaseState& lease, Range range) {
  CallState& call = *find_call(lease.call);
  const std::uint64_t before = call.open;
  const std::uint64_t closed = lease.open.erase(range);
  BB_CHECK(closed == range.size());
  call.open -= closed;
  if (before > call.low_water && call.open <= call.low_water) call.urgent = true;
  if (call.urgent) touched_.insert(lease.call);
  if (lease.open.empty()) over_.push_back(lease.id);
}

void WorkerCore::lose(LeaseState& lease, std::uint64_t index, const DeathReport& death) {
  take_undivided(lease, {index, index + 1});
  lease.out.lost.push_back({index, death});
  CallState& call = *find_call(lease.call);
  call.urgent = true;
  plan_report(call, lease.call);
  close_items(lease, {index, index + 1});
}

void WorkerCore::on(SubLeaseDone&& e) {
  Seat* seat = find_seat(e.seat, e.life);
  if (seat == nullptr || e.station >= kSeatStations) return;
  const Station place = seat->stations[e.station];
  if (!place.busy || place.generation != e.generation) return;
  free_station(*seat, static_cast<int>(e.station));
  // A slot says this after its last outcome. Should some be missing, their items count as lost, so
  // that a slot that forgets outcomes cannot make an endless loop.
  if (place.again) {
    give_back(place);
  } else if (LeaseState* lease = find_lease(place.lease)) {
    for (const Range& r : lease->open.intersection(place.range())) {
      for (const Range& missing : lease->undivided.missing(r)) {
        for (std::uint64_t i = missing.begin; i < missing.end; ++i) lose(*lease, i, {});
      }
    }
  }
}

/// Outcomes leave when their time has come, and at once at the crossing of the low water and with the last item that
/// is here. What else the scheduler can use to grant more leaves soon: a lease that is over, and, below the low
/// water, a seat that finds nothing more to do.
void WorkerCore::flush_outcomes() {
  for (std::size_t i = 0; i < over_.size(); ++i) {  // reports add to it
    LeaseState* lease = find_lease(over_[i]);
    if (lease == nullptr || !lease->open.empty() || lease->out.empty()) continue;
    CallState& call = *find_call(lease->call);
    call.open == 0 ? report(call, lease->call) : report_soon(call, lease->call);
  }
  for (const CallId id : std::exchange(touched_, {})) {
    CallState* call = find_call(id);
    if (call == nullptr) continue;
    const bool freed = std::exchange(call->seat_freed, false);
    if (std::exchange(call->urgent, false)) {
      report(*call, id);
    } else if (freed && call->open <= call->low_water && call->undivided == 0) {
      report_soon(*call, id);
    }
  }
  while (!due_.empty() && due_.begin()->first <= now_) {
    const CallId id = due_.begin()->second;
    report(*find_call(id), id);
  }
}

/// At once in small pools; where reports are to be rare, slots that fall idle one after the other share one.
void WorkerCore::report_soon(CallState& call, CallId id) {
  if (call.due == TimePoint::never()) return;  // nothing waits
  const std::int64_t part = call.report_interval.ns / kSoonDivisor;
  const double least = static_cast<double>(part);
  const Duration wait{static_cast<std::int64_t>(std::clamp(call.times.mean() / 8, least, 2 * least))};
  const TimePoint soon = call.reported ? *call.reported + wait : now_;
  if (soon >= call.due) return;
  due_.erase({call.due, id});
  call.due = soon;
  due_.insert({call.due, id});
}

/// All that waits of this call leaves.
void WorkerCore::report(CallState& call, CallId id) {
  if (call.due == TimePoint::never()) return;
  due_.erase({std::exchange(call.due, TimePoint::never()), id});
  for (const LeaseId lease : call.leases) {
    if (LeaseState* state = find_lease(lease); !state->out.empty()) send_outcomes(*state);
  }
}

void WorkerCore::send_outcomes(LeaseState& lease) {
  lease.out.merge();
  Outcomes outcomes;
  outcomes.ack = next_ack_++;
  outcomes.lease = lease.id;
  outcomes.spans = std::move(lease.out.spans);
  outcomes.seats = std::move(lease.out.seats);
  outcomes.lost = std::move(lease.out.lost);
  outcomes.steals = std::exchange(lease.steals, 0);
  outcomes.held_ns = std::max<std::int64_t>(1, (now_ - lease.arrived).ns);
  Unacked sent{outcomes.ack, lease.out.bytes, {std::move(outcomes), std::move(lease.out.frames)}};
  lease.out = {};
  find_call(lease.call)->reported = now_;
  if (lease.open.empty()) over_.push_back(lease.id);
  unacked_bytes_ += sent.bytes;
  if (in_session_) send(sent.message);
  unacked_.push_back(std::move(sent));
}

void WorkerCore::finish_leases() {
  for (const LeaseId id : std::exchange(over_, {})) {
    const auto at = leases_.find(id);
    if (at == leases_.end() || !at->second.open.empty() || !at->second.out.empty()) continue;
    forget_lease(at);
  }
}

/// The nearer a call comes to its low water, the sooner the next look.
Duration WorkerCore::drain_interval() const {
  Duration interval = kLongestDrainInterval;
  for (const auto& [id, call] : calls_) {
    if (call.leases.empty()) continue;
    interval = std::min(interval, std::max(kDrainInterval, Duration{call.report_interval.ns / 4}));
    if (call.open <= call.low_water || !call.times.known()) continue;
    const double left = static_cast<double>(call.open - call.low_water) * call.times.mean() /
                        std::max(1.0, static_cast<double>(call.seats));
    if (left < static_cast<double>(interval.ns)) interval = Duration{static_cast<std::int64_t>(left)};
  }
  return std::max(interval, kShortestDrainInterval);
}

}  // namespace betterbox
