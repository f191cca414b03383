#include "scheduler/calls.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "scheduler/boxes.h"
#include "scheduler/broadcasts.h"
#include "scheduler/copies.h"
#include "scheduler/explain.h"
#include "scheduler/leases.h"
#include "scheduler/resources.h"
#include "scheduler/results.h"

namespace betterbox::scheduler {
namespace {

/// The factor leaves room for pages that are partly settled: a client may count items, not pages.
constexpr std::size_t kItemBytesRefused = 4 * kItemWindowBytes;
constexpr std::int64_t kMaxTimeoutNs = std::int64_t{1} << 60;

/// Costs are given for all items of a call or for none; of settled ones nothing is known any more.
Complaint check_costs(const CallState& call, const Items& items) {
  if (items.spans.empty() && items.costs.empty()) return std::nullopt;
  std::uint64_t count = 0;
  for (const PageSpan& span : items.spans) {
    if (span.count > CallItems::kMaxIndex) return "Items with an impossible span";
    count = std::min(count + span.count, CallItems::kMaxIndex);
  }
  if (!items.costs.empty() && items.costs.size() != count) return "Items need one cost each, or none";
  if (call.items.unsettled_items() > 0 && call.items.has_costs() == items.costs.empty())
    return "Items with costs in a call whose other items have none, or without";
  for (const float cost : items.costs) {
    if (!std::isfinite(cost) || cost < 0) return "Items with a cost that is negative or no number";
  }
  return std::nullopt;
}

/// REQUIRES: a record of one of its calls follows.
void record_client(const Turn& turn, Peer& client) {
  if (client.client.recorded) return;
  client.client.recorded = true;
  turn.persist(
      ClientKnown{client.id, client.host, client.boot_id, client.pid, client.name, client.background});
}

/// What nobody runs any more: pending items and those in leases are taken from where they are.
std::vector<Range> take_back_unsettled(const Turn& turn, CallState& call, Range range) {
  std::vector<Range> unsettled = unsettled_in(call, range).ranges();
  call.items.withdraw(range);
  abandon(turn, call, range);
  turn.state.reindex_waiting(call, false);
  return unsettled;
}

void settle_everything(const Turn& turn, CallState& call, LostCode code, std::string_view detail) {
  const Range all{0, CallItems::kMaxIndex};
  const std::vector<Range> unsettled = unsettled_in(call, all).ranges();
  call.items.withdraw(all);
  end_leases(turn, call);
  turn.state.reindex_waiting(call, false);
  settle_as_lost(turn, call, unsettled, code, kNoDeath, detail);
}

}  // namespace

CallState& open_call(const Turn& turn, Peer& client, Call&& message, Frame context) {
  State& state = turn.state;
  const CallId id{client.id, message.serial};
  CallState& call = state.calls[id];
  call.id = id;
  call.port = message.port;
  call.method = std::move(message.method);
  call.name = std::move(message.name);
  call.retries = message.retries;
  call.idempotent = message.idempotent;
  call.fold = message.fold;
  call.durable = message.durable && state.config.journal;
  call.refused = message.durable && !state.config.journal;
  call.copies_permille = message.copies_permille;
  call.timeout_ns = message.timeout_ns;
  call.priority = message.priority;
  call.depth = message.depth;
  call.needs = std::move(message.needs);
  call.values = std::move(message.values);
  call.needy = items_that_fit({}, call.needs, 1) == 0;
  call.policy = find_policy(message.policy);
  call.context = std::move(context);
  call.content = message.content;
  call.items = CallItems(message.settled);
  client.client.calls.insert(message.serial);
  state.pool(call.port).calls.insert(id);
  if (may_copy(call)) state.pool(call.port).copying.insert(id);
  if (message.timeout_ns > 0) {
    state.set_timer(call.deadline, turn.now + Duration{message.timeout_ns}, TimerKind::kCallTimeout,
                    id.client.value, id.serial);
  }
  return call;
}

bool append_items(Peer& client, CallState& call, const Items& items, Frames&& frames) {
  std::size_t& held = client.client.item_bytes;
  std::span<const float> costs = items.costs;
  for (std::size_t i = 0; i < items.spans.size(); ++i) {
    const PageSpan& span = items.spans[i];
    if (!call.items.may_append(span)) return false;
    held -= call.items.held_bytes();
    call.items.append(span, std::move(frames[i]), costs.first(costs.empty() ? 0 : span.count));
    if (!costs.empty()) costs = costs.subspan(span.count);
    held += call.items.held_bytes();
  }
  return true;
}

void close_call(const Turn& turn, CallState& call) {
  if (call.closed) return;
  call.closed = true;
  call.items.close();
  turn.state.count_maybe_done(call);
}

Complaint on_call(const Turn& turn, Peer& client, Call&& message, Frames&& frames) {
  const CallId id{client.id, message.serial};
  if (message.serial == 0) return "Call without a serial number";
  if (turn.state.find_call(id) != nullptr)
    return "Call " + std::to_string(message.serial) + " is open already";
  if (frames.size() != 1) return "Call needs its context as the one frame";
  if (message.timeout_ns < 0 || message.timeout_ns > kMaxTimeoutNs) return "Call with an impossible timeout";
  for (const Range& r : message.settled) {
    if (r.begin >= r.end || r.end > CallItems::kMaxIndex) return "Call with an impossible range";
  }
  if (Complaint complaint = check_resources(message.needs)) return complaint;
  if (find_policy(message.policy) == nullptr) return "Call with the unknown policy '" + message.policy + "'";
  if (message.durable && turn.state.config.journal) {
    record_client(turn, client);
    turn.persist(CallOpened{id, message, frames.front()});
    turn.send(client, Accepted{message.serial, 0});
  }
  open_call(turn, client, std::move(message), std::move(frames.front()));
  return std::nullopt;
}

Complaint on_items(const Turn& turn, Peer& client, Items&& items, Frames&& frames) {
  CallState* call = turn.state.find_call({client.id, items.serial});
  if (call == nullptr) return "Items of a call that is not open";
  if (items.spans.size() != frames.size()) return "Items need one page per span";
  if (call->closed && !items.spans.empty()) return "Items of a call that is closed";
  if (client.client.item_bytes > kItemBytesRefused) return "more items than the window allows";
  if (Complaint complaint = check_costs(*call, items)) return complaint;
  if (call->durable && (!items.spans.empty() || (items.closed && !call->closed)))
    turn.persist(ItemsAppended{call->id, items, frames});
  if (!append_items(client, *call, items, std::move(frames)))
    return "Items that do not follow the ones before";
  if (items.closed) close_call(turn, *call);
  if (call->durable) turn.send(client, Accepted{items.serial, call->items.known_end()});
  if (call->timed_out) {
    settle_everything(turn, *call, LostCode::kTimeout, "");
  } else if (call->refused) {
    settle_everything(turn, *call, LostCode::kUnsatisfiable,
                      "a durable call needs a scheduler with a journal, and this one has none");
  } else if (!items.spans.empty()) {
    if (!call->unwanted.empty()) turn.state.inquired.insert(call->id);
    turn.state.reindex_waiting(*call, true);
    watch_for_missing_boxes(turn, turn.state.pool(call->port));
    look_for_able_member(turn, *call);
  }
  return std::nullopt;
}

Complaint on_cancel(const Turn& turn, Peer& client, const Cancel& cancel) {
  CallState* call = turn.state.find_call({client.id, cancel.serial});
  if (call == nullptr) return std::nullopt;  // forgotten, or lost with an earlier scheduler
  if (cancel.range.begin > cancel.range.end) return "Cancel with an impossible range";
  const Range range{std::min(cancel.range.begin, CallItems::kMaxIndex),
                    std::min(cancel.range.end, CallItems::kMaxIndex)};
  settle_as_lost(turn, *call, take_back_unsettled(turn, *call, range), LostCode::kCancelled, kNoDeath, "");
  return std::nullopt;
}

void on_forget(const Turn& turn, Peer& client, std::uint64_t serial) {
  if (CallState* call = turn.state.find_call({client.id, serial})) drop_call(turn, *call);
}

void on_explain(const Turn& turn, Peer& client, std::uint64_t serial) {
  Explanation answer{serial, {}};
  if (const CallState* call = turn.state.find_call({client.id, serial}))
    answer.stats = call_stats(turn, *call);
  turn.send(client, std::move(answer));
}

void on_call_timeout(const Turn& turn, CallState& call) {
  call.deadline = TimePoint::never();
  call.timed_out = true;
  if (call.durable) turn.persist(CallTimedOut{call.id});
  settle_everything(turn, call, LostCode::kTimeout, "");
}

void drop_call(const Turn& turn, CallState& call) {
  State& state = turn.state;
  const CallId id = call.id;
  if (call.durable) turn.persist(CallForgotten{id});
  call.items.withdraw({0, CallItems::kMaxIndex});
  end_leases(turn, call);
  state.reindex_waiting(call, false);
  state.set_timer(call.deadline, TimePoint::never(), TimerKind::kCallTimeout, id.client.value, id.serial);
  for (Share* share : call.shares.sorted()) {
    state.forget_share(*share);
    share->agent->agent.calls.erase(id);
  }
  forget_needs(turn, call);
  state.pool(call.port).calls.erase(id);
  if (may_copy(call)) state.pool(call.port).copying.erase(id);
  watch_for_missing_boxes(turn, state.pool(call.port));
  if (Peer* client = state.find_peer(id.client)) {
    client->client.item_bytes -= call.items.held_bytes();
    client->client.calls.erase(id.serial);
  }
  let_go_of_values(turn, call);
  state.calls.erase(id);
}

void finish_calls(const Turn& turn) {
  State& state = turn.state;
  while (!state.maybe_done.empty()) {
    const CallId id = state.maybe_done.back();
    state.maybe_done.pop_back();
    CallState* found = state.find_call(id);
    if (found == nullptr) continue;
    CallState& call = *found;
    call.maybe_done = false;
    if (!call.closed || call.done || call.items.unsettled_items() > 0) continue;
    call.done = true;
    end_leases(turn, call);
    forget_needs(turn, call);
    state.set_timer(call.deadline, TimePoint::never(), TimerKind::kCallTimeout, id.client.value, id.serial);
    let_go_of_values(turn, call);
    state.pool(call.port).calls.erase(id);
    if (may_copy(call)) state.pool(call.port).copying.erase(id);
    watch_for_missing_boxes(turn, state.pool(call.port));
    if (const Peer* client = state.find_peer(id.client)) {
      turn.send(*client, Settled{id.serial, call_stats(turn, call)});
    }
  }
}

std::vector<KnownCall> reconcile_calls(const Turn& turn, Peer& client,
                                       const std::vector<std::uint64_t>& serials) {
  const std::set<std::uint64_t> named(serials.begin(), serials.end());
  const std::set<std::uint64_t> ours = client.client.calls;
  std::vector<KnownCall> known;
  for (const std::uint64_t serial : ours) {
    CallState& call = turn.state.calls.at({client.id, serial});
    if (named.contains(serial)) {
      known.push_back({serial, call.items.known_end()});
    } else {
      drop_call(turn, call);
    }
  }
  return known;
}

void resend_settled(const Turn& turn, Peer& client, const std::vector<KnownCall>& known) {
  for (const KnownCall& k : known) {
    const CallState& call = turn.state.calls.at({client.id, k.serial});
    if (call.done) turn.send(client, Settled{k.serial, call_stats(turn, call)});
  }
}

}  // namespace betterbox::scheduler
