#include "scheduler/recovery.h"

#include <algorithm>

#include "runtime/page.h"
#include "scheduler/boxes.h"
#include "scheduler/calls.h"
#include "scheduler/resources.h"
#include "scheduler/results.h"

namespace betterbox::scheduler {
namespace {

/// Results of calls that are not durable have numbers, too, and nobody kept the highest. So each incarnation counts
/// on from the next multiple of this: a number is never used for two different Results of one client.
constexpr std::uint64_t kNumbersPerIncarnation = std::uint64_t{1} << 40;
/// Pages of one record.
constexpr std::size_t kPagesPerRecord = 1024;

class Replay {
 public:
  explicit Replay(const Turn& turn) : turn_(turn) {}

  void operator()(ClientKnown& record) const {
    Peer& peer = turn_.state.peers[record.client];
    peer.id = record.client;
    peer.role = Role::kClient;
    peer.host = std::move(record.host);
    peer.boot_id = std::move(record.boot_id);
    peer.pid = record.pid;
    peer.name = std::move(record.name);
    peer.background = record.background;
    peer.client.recorded = true;
  }

  void operator()(ClientForgotten& record) const { turn_.state.peers.erase(record.client); }

  void operator()(CallOpened& record) const {
    open_call(turn_, client(record.id.client), std::move(record.call), std::move(record.context));
  }

  void operator()(ItemsAppended& record) const {
    CallState& c = call(record.id);
    // What does not follow the items before was refused then, too.
    append_items(client(record.id.client), c, record.items, std::move(record.pages));
    if (record.items.closed) close_call(turn_, c);
  }

  void operator()(ItemDied& record) const { call(record.id).deaths[record.index] = record.deaths; }

  void operator()(CallTimedOut& record) const {
    CallState& c = call(record.id);
    c.timed_out = true;
    turn_.state.set_timer(c.deadline, TimePoint::never(), TimerKind::kCallTimeout, c.id.client.value,
                          c.id.serial);
  }

  void operator()(ItemsSettled& record) const {
    ClientPart& part = client(record.client).client;
    part.results_sent = std::max(part.results_sent, record.results.ack);
    if (CallState* c = turn_.state.find_call({record.client, record.results.serial})) {
      for (const PageSpan& span : record.results.spans)
        settle_known(*c, {span.first, span.first + span.count});
    }
    keep_results(part, std::move(record.results), std::move(record.pages), true);
  }

  void operator()(ResultsAcknowledged& record) const {
    ClientPart& part = client(record.client).client;
    part.results_sent = std::max(part.results_sent, record.ack);
    while (!part.unacked.empty() && part.unacked.front().body.ack <= record.ack) {
      part.unacked_bytes -= part.unacked.front().bytes;
      part.unacked.pop_front();
    }
  }

  void operator()(CallForgotten& record) const {
    CallState& c = call(record.id);
    c.durable = false;  // no record of a record
    drop_call(turn_, c);
  }

 private:
  Peer& client(PeerId id) const { return turn_.state.peers.at(id); }
  CallState& call(CallId id) const { return turn_.state.calls.at(id); }

  void settle_known(CallState& call, Range range) const {
    for (const Range& part : call.items.pending_in(range)) {
      call.items.withdraw(part);
      const PageSpan span{part.begin, part.size()};
      settle(turn_, call, std::span(&span, 1));
    }
  }

  const Turn& turn_;
};

/// All records are in: what waits may run, and the client's time to come back begins.
void begin_again(const Turn& turn, Peer& client) {
  State& state = turn.state;
  ClientPart& part = client.client;
  part.results_sent = (part.results_sent / kNumbersPerIncarnation + 1) * kNumbersPerIncarnation;
  part.throttled = part.unacked_bytes > kResultWindowBytes;
  state.set_timer(client.gone_at, turn.now + kReconnectGrace, TimerKind::kPeerGone, client.id.value);
  for (const std::uint64_t serial : part.calls) {
    CallState& call = state.calls.at({client.id, serial});
    state.reindex_waiting(call, true);
    state.count_maybe_done(call);
    if (call.items.pending_items() > 0) look_for_able_member(turn, call);
  }
}

Call body_of(const CallState& call) {
  Call body;
  body.serial = call.id.serial;
  body.port = call.port;
  body.method = call.method;
  body.retries = call.retries;
  body.idempotent = call.idempotent;
  body.fold = call.fold;
  body.timeout_ns = call.timeout_ns;
  body.name = call.name;
  RangeSet settled = call.items.delivered();
  for (const Range& r : unsettled_in(call, {0, call.items.known_end()}).missing({0, call.items.known_end()}))
    settled.insert(r);
  body.settled = settled.ranges();
  body.policy = call.policy->name;
  body.priority = call.priority;
  body.depth = call.depth;
  body.needs = call.needs;
  body.values = call.values;
  body.copies_permille = call.copies_permille;
  body.durable = true;
  body.content = call.content;
  return body;
}

void append_pages(const CallState& call, std::vector<Record>& records) {
  std::vector<PageSpan> spans;
  Frames pages;
  call.items.all_pages(spans, pages);
  // Of items at the end that are settled no page is left; that they are there must not be forgotten.
  const std::uint64_t end = spans.empty() ? 0 : spans.back().first + spans.back().count;
  if (const std::uint64_t known = call.items.known_end(); end < known) {
    spans.push_back({end, known - end});
    pages.push_back(make_int_range_page(0, 0, known - end));
  }
  std::size_t at = 0;
  do {
    const std::size_t until = std::min(spans.size(), at + kPagesPerRecord);
    ItemsAppended record{call.id, {}, {}};
    record.items.serial = call.id.serial;
    for (; at < until; ++at) {
      record.items.spans.push_back(spans[at]);
      record.pages.push_back(pages[at]);
      if (spans[at].first >= end) continue;  // settled: its costs are gone, too
      const std::vector<float> costs =
          call.items.costs_of({spans[at].first, spans[at].first + spans[at].count});
      record.items.costs.insert(record.items.costs.end(), costs.begin(), costs.end());
    }
    record.items.closed = call.closed && at == spans.size();
    if (at > 0 || call.closed) records.push_back(std::move(record));
  } while (at < spans.size());
}

void append_call(const CallState& call, std::vector<Record>& records) {
  records.push_back(CallOpened{call.id, body_of(call), call.context});
  append_pages(call, records);
  for (const auto& [index, deaths] : call.deaths) records.push_back(ItemDied{call.id, index, deaths});
  if (call.timed_out) records.push_back(CallTimedOut{call.id});
}

}  // namespace

void recover(const Turn& turn, std::vector<Record>&& records) {
  Replay replay(turn);
  for (Record& record : records) std::visit(replay, record);
  for (auto& [id, peer] : turn.state.peers) begin_again(turn, peer);
  for (auto& [port, pool] : turn.state.pools) watch_for_missing_boxes(turn, pool);
  turn.state.counters = {};
}

std::vector<Record> records_of(const State& state) {
  std::vector<Record> records;
  for (const auto& [id, peer] : state.peers) {
    if (!peer.client.recorded) continue;
    records.push_back(ClientKnown{id, peer.host, peer.boot_id, peer.pid, peer.name, peer.background});
    for (const std::uint64_t serial : peer.client.calls) {
      const CallState& call = state.calls.at({id, serial});
      if (call.durable) append_call(call, records);
    }
    records.push_back(ResultsAcknowledged{id, peer.client.results_sent});  // of older ones; so far it counted
    for (const KeptResults& kept : peer.client.unacked) {
      if (kept.durable) records.push_back(ItemsSettled{id, kept.body, kept.frames});
    }
  }
  return records;
}

}  // namespace betterbox::scheduler
