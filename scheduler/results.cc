#include "scheduler/results.h"

#include <algorithm>

#include "scheduler/leases.h"

namespace betterbox::scheduler {
namespace {

/// Ranges without outcomes per message: bounds the message when a call with many fragments is cancelled.
constexpr std::size_t kSpansPerMessage = 512;
/// What a kept message costs beside its frames.
constexpr std::size_t kMessageOverheadBytes = 256;

void set_throttled(const Turn& turn, Peer& client, bool throttled) {
  client.client.throttled = throttled;
  for (const std::uint64_t serial : client.client.calls) {
    CallState& call = turn.state.calls.at({client.id, serial});
    if (call.done) continue;
    turn.state.reindex_waiting(call, true);
    if (throttled) revoke_whole_call(turn, call);
  }
}

}  // namespace

void keep_results(ClientPart& client, Results&& results, Frames&& frames, bool durable) {
  KeptResults kept;
  kept.bytes = kMessageOverheadBytes;
  for (const Frame& frame : frames) kept.bytes += frame.size();
  kept.durable = durable;
  kept.body = std::move(results);
  kept.frames = std::move(frames);
  client.unacked_bytes += kept.bytes;
  client.unacked.push_back(std::move(kept));
}

void deliver(const Turn& turn, CallState& call, std::vector<PageSpan> spans, Frames frames) {
  Peer* client = turn.state.find_peer(call.id.client);
  BB_CHECK(client != nullptr);
  ClientPart& part = client->client;
  Results results{++part.results_sent, call.id.serial, std::move(spans)};
  if (call.durable) turn.persist(ItemsSettled{client->id, results, frames});
  turn.send(*client, results, frames);
  keep_results(part, std::move(results), std::move(frames), call.durable);
  if (part.unacked_bytes > kResultWindowBytes && !part.throttled) set_throttled(turn, *client, true);
}

void settle(const Turn& turn, CallState& call, std::span<const PageSpan> spans) {
  const std::size_t held = call.items.held_bytes();
  for (const PageSpan& span : spans) {
    const Range range{span.first, span.first + span.count};
    call.items.settle(range);
    turn.state.counters.items_settled += range.size();
    if (call.deaths.empty()) continue;
    call.deaths.erase(call.deaths.lower_bound(range.begin), call.deaths.lower_bound(range.end));
  }
  if (held != call.items.held_bytes()) {
    Peer* client = turn.state.find_peer(call.id.client);
    BB_CHECK(client != nullptr);
    client->client.item_bytes -= held - call.items.held_bytes();
  }
  call.last_outcome = turn.now;
  if (call.items.unsettled_items() == 0) turn.state.count_maybe_done(call);
}

void settle_as_lost(const Turn& turn, CallState& call, const std::vector<Range>& parts, LostCode code,
                    const DeathReport& death, std::string_view detail) {
  std::vector<PageSpan> spans;
  Frames frames;
  for (const Range& part : parts) {
    turn.state.counters.items_lost += part.size();
    const std::string item = make_lost_item(code, part.begin, death, detail);
    spans.push_back({part.begin, part.size()});
    settle(turn, call, std::span(&spans.back(), 1));
    frames.push_back(make_single_page(std::as_bytes(std::span(item))));
    if (spans.size() < kSpansPerMessage) continue;
    deliver(turn, call, std::move(spans), std::move(frames));
    spans.clear();
    frames.clear();
  }
  if (!spans.empty()) deliver(turn, call, std::move(spans), std::move(frames));
}

Complaint on_results_acknowledged(const Turn& turn, Peer& client, std::uint64_t ack) {
  ClientPart& part = client.client;
  if (ack > part.results_sent) return "Acknowledge of results that were never sent";
  bool durable = false;
  while (!part.unacked.empty() && part.unacked.front().body.ack <= ack) {
    durable = durable || part.unacked.front().durable;
    part.unacked_bytes -= part.unacked.front().bytes;
    part.unacked.pop_front();
  }
  if (durable) turn.persist(ResultsAcknowledged{client.id, ack});
  if (part.throttled && part.unacked_bytes <= kResultWindowBytes / 2) set_throttled(turn, client, false);
  return std::nullopt;
}

void resend_results(const Turn& turn, Peer& client) {
  for (const KeptResults& kept : client.client.unacked) turn.send(client, kept.body, kept.frames);
}

}  // namespace betterbox::scheduler
