#include "simulator/fault_client.h"

#include <algorithm>
#include <string>
#include <utility>

#include "runtime/limits.h"
#include "runtime/policy.h"

namespace betterbox::sim {
namespace {

/// 1 and 2 have names; 0 is small and sent with each call.
std::uint64_t content_of(std::uint64_t serial) { return serial % 7 == 5 ? 0 : 1 + (serial % 4 == 3 ? 1 : 0); }

}  // namespace

Frame context_of(CallId call) {
  static const Frame kNamed[] = {Frame(std::string("context")), Frame(std::string(kContentMinBytes, '1')),
                                 Frame(std::string(kContentMinBytes, '2'))};
  return kNamed[content_of(call.serial)];
}

Hello FaultClient::hello(std::uint64_t session) const {
  Hello hello;
  hello.role = Role::kClient;
  hello.peer = peer_;
  hello.session = session;
  hello.host = "login";
  hello.pid = number_ + 1;
  hello.name = "c-" + std::to_string(number_);
  for (const auto& [serial, call] : calls_) hello.calls.push_back(serial);
  return hello;
}

void FaultClient::welcomed(const Welcome& welcome, const Say& say) {
  open_ = true;
  unacknowledged_ = false;
  std::map<std::uint64_t, std::uint64_t> there;
  for (const KnownCall& known : welcome.calls) there[known.serial] = known.items;
  for (const auto& [serial, items] : there) {
    const auto call = calls_.find(serial);
    if (call == calls_.end()) {  // given up since the greeting
      say({Forget{serial}, {}});
      continue;
    }
    if (items > call->second.known)
      throw Violation("reconciliation", "the scheduler knows more items of a call than it has");
  }
  for (auto& [serial, call] : calls_) {
    const auto known = there.find(serial);
    if (known != there.end()) {
      call.sent = std::min(known->second, call.sent);
    } else {
      call.sent = 0;
      call.settled = false;
      call.accepted = false;
      call.accepted_items = 0;
      call.opening.settled = call.delivered.ranges();
      say({call.opening, {context_of({peer_, serial})}});
    }
    call.close_sent = false;
    send_items(serial, call, say);
  }
}

void FaultClient::send_items(std::uint64_t serial, Open& call, const Say& say) {
  if (!open_ || (call.sent == call.known && (!call.closed || call.close_sent))) return;
  Items items;
  items.serial = serial;
  Frames frames;
  while (call.sent < call.known) {
    const std::uint64_t count = std::min<std::uint64_t>(call.known - call.sent, 1 + random_.below(40));
    items.spans.push_back({call.sent, count});
    frames.push_back(make_int_range_page(static_cast<std::int64_t>(call.sent), 1, count));
    for (std::uint64_t i = 0; call.tells_costs && i < count; ++i)
      items.costs.push_back(static_cast<float>(1 + (call.sent + i) % 7));
    call.sent += count;
  }
  items.closed = call.closed;
  call.close_sent = call.closed;
  say({std::move(items), std::move(frames)});
}

void FaultClient::open_call(const Say& say) {
  const std::uint64_t serial = ++serials_;
  Open& call = calls_[serial];
  call.planned = 1 + random_.below(shape_.items);
  call.outcomes.assign(call.planned, 0);
  call.opening.serial = serial;
  call.opening.content.low = content_of(serial);
  call.opening.method = "simulated";
  call.opening.retries = 6;
  call.opening.priority = random_.chance(0.2) ? static_cast<std::int32_t>(random_.below(3)) - 1 : 0;
  call.opening.durable = random_.chance(0.5);
  call.opening.policy =
      std::string(policies()[random_.chance(0.6) ? 0 : random_.below(policies().size())].name);
  call.opening.idempotent = random_.chance(0.4);
  if (call.opening.idempotent && random_.chance(0.7)) call.opening.copies_permille = 500;
  if (random_.chance(0.5)) call.opening.needs.cpus_milli = 1000;
  call.tells_costs = random_.chance(0.2);
  call.known = random_.chance(0.5) ? call.planned : random_.below(call.planned + 1);
  call.closed = call.known == call.planned && random_.chance(0.7);
  if (!open_) return;  // with the next Welcome
  say({call.opening, {context_of({peer_, serial})}});
  send_items(serial, call, say);
}

void FaultClient::step(const Say& say) {
  if (unacknowledged_ && open_) {
    unacknowledged_ = false;
    say({Acknowledge{ack_}, {}});
  }
  if (settling_) return;
  if (serials_ < shape_.calls && random_.chance(0.1)) return open_call(say);
  if (calls_.empty()) return;
  auto at = calls_.begin();
  std::advance(at, random_.below(calls_.size()));
  auto& [serial, call] = *at;
  if (call.known < call.planned) {
    call.known = std::min(call.planned, call.known + 1 + random_.below(20));
    call.closed = call.known == call.planned && random_.chance(0.5);
    send_items(serial, call, say);
  } else if (!call.closed) {
    call.closed = true;
    send_items(serial, call, say);
  } else if (open_ && !call.settled && random_.chance(0.02)) {
    const std::uint64_t begin = random_.below(call.known);
    const Range range{begin, std::min(call.known, begin + 1 + random_.below(5))};
    call.cancelled.insert(range);
    if (random_.chance(0.5)) {
      say({Cancel{serial, range}, {}});
    } else {
      say({Inquire{serial, 1, {range}, true}, {}});
    }
  } else if (call.settled ? random_.chance(0.2) : random_.chance(0.005)) {
    if (open_) say({Forget{serial}, {}});
    calls_.erase(at);
  } else if (open_ && random_.chance(0.05)) {
    say({Explain{serial}, {}});
  } else if (open_ && random_.chance(0.02)) {
    say({Inquire{serial, 2, {{0, call.known}}, false}, {}});
  }
}

void FaultClient::settle_down(const Say& say) {
  settling_ = true;
  for (auto& [serial, call] : calls_) {
    call.known = call.planned;
    call.closed = true;
    send_items(serial, call, say);
  }
}

bool FaultClient::done() const {
  return std::all_of(calls_.begin(), calls_.end(), [](const auto& call) {
    return call.second.settled && call.second.delivered.size() == call.second.known;
  });
}

void FaultClient::forget_all(const Say& say) {
  for (const auto& [serial, call] : calls_) say({Forget{serial}, {}});
  calls_.clear();
}

std::string FaultClient::unsettled() const {
  std::string text;
  for (const auto& [serial, call] : calls_) {
    if (call.settled) continue;
    text += " client " + std::to_string(number_) + " call " + std::to_string(serial) + ": " +
            std::to_string(call.delivered.size()) + " of " + std::to_string(call.known) + " items;";
  }
  return text;
}

std::map<std::uint64_t, std::uint64_t> FaultClient::accepted() const {
  std::map<std::uint64_t, std::uint64_t> kept;
  for (const auto& [serial, call] : calls_) {
    if (call.accepted) kept[serial] = call.accepted_items;
  }
  return kept;
}

// --- what comes ---------------------------------------------------------------------------------------------

void FaultClient::receive(Message&& message, const Say& say) {
  if (auto* results = std::get_if<Results>(&message.body)) {
    on_results(*results, message.frames, say);
  } else if (auto* settled = std::get_if<Settled>(&message.body)) {
    on_settled(*settled);
  } else if (auto* accepted = std::get_if<Accepted>(&message.body)) {
    const auto call = calls_.find(accepted->serial);
    if (call == calls_.end()) return;
    if (!call->second.opening.durable)
      throw Violation("durability", "a call was accepted that is not durable");
    call->second.accepted = true;
    call->second.accepted_items = std::max(call->second.accepted_items, accepted->items);
  }
}

void FaultClient::on_results(const Results& results, const Frames& frames, const Say& say) {
  ack_ = results.ack;
  unacknowledged_ = true;
  if (const auto call = calls_.find(results.serial); call != calls_.end()) {
    if (results.spans.size() != frames.size()) throw Violation("exactly-once", "results without their pages");
    for (std::size_t i = 0; i < frames.size(); ++i) take(call->second, results.spans[i], frames[i]);
  }
  if (random_.chance(0.3)) {
    unacknowledged_ = false;
    say({Acknowledge{ack_}, {}});
  }
}

void FaultClient::take(Open& call, const PageSpan& span, const Frame& page) {
  const Range range{span.first, span.first + span.count};
  const std::string name = "items " + std::to_string(range.begin) + " to " + std::to_string(range.end) +
                           " of call " + std::to_string(call.opening.serial) + " of client " +
                           std::to_string(peer_.value);
  if (range.end > call.known) throw Violation("exactly-once", "outcomes for " + name + ", which it has not");
  const std::uint64_t fresh = call.delivered.insert(range);
  if (fresh != 0 && fresh != range.size())
    throw Violation("exactly-once", name + " came partly a second time");
  if (fresh > 0 && call.settled) throw Violation("exactly-once", name + " came behind Settled");
  if (fresh == 0) ++repeated_;
  for (std::uint64_t k = 0; k < span.count; ++k) {
    LostCode lost{};
    const std::uint64_t number = Ledger::number_of(page, k, lost);
    std::uint64_t& outcome = call.outcomes[range.begin + k];
    if (fresh == 0) {
      if (number != outcome) throw Violation("exactly-once", name + " came with two different outcomes");
      continue;
    }
    outcome = number;
    ++delivered_;
    if (number != 0) continue;
    ++lost_;
    const bool allowed = lost == LostCode::kPoisoned ||
                         (lost == LostCode::kCancelled && call.cancelled.contains(range.begin + k));
    if (!allowed)
      throw Violation("exactly-once",
                      name + " were given up with code " + std::to_string(static_cast<int>(lost)));
  }
}

void FaultClient::on_settled(const Settled& settled) {
  const auto at = calls_.find(settled.serial);
  if (at == calls_.end()) return;
  Open& call = at->second;
  if (!call.closed || settled.stats.total != call.known || call.delivered.size() != call.known)
    throw Violation("exactly-once", "call " + std::to_string(settled.serial) + " was settled with " +
                                        std::to_string(call.delivered.size()) + " of " +
                                        std::to_string(call.known) + " outcomes delivered");
  if (!std::exchange(call.settled, true)) copied_ += settled.stats.copies;
}

}  // namespace betterbox::sim
