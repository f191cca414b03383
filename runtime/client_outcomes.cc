// Client: reading the outcomes of calls, taking them, and the conditions of waits for them.
#include <algorithm>
#include <utility>

#include "runtime/check.h"
#include "runtime/client.h"

namespace betterbox {
namespace {

/// What was handed out of a generator call is kept up to this size, so that a small one can be iterated again.
constexpr std::size_t kHandedBytes = 1U << 20;

}  // namespace

Client::Progress Client::progress(const CallPtr& call) {
  Lock lock = enter();
  if (!call->over) drain();
  return {call->known, call->settled.size(), call->closed, call->over, call->cancelled, call->failure};
}

std::optional<Outcome> Client::outcome(const CallPtr& call, std::uint64_t i, bool take) {
  Lock lock = enter();
  const auto* page = call->find_page(i);
  if (page == nullptr || (take && page->second.is_taken())) return std::nullopt;
  Outcome result = call->outcome(i);
  if (take) take_items(*call, {i, i + 1});
  return result;
}

bool Client::keeps_all(const CallPtr& call) {
  Lock lock = enter();
  return !call->handed_gone;
}

/// Adds what has succeeded of items that are there, up to the first that has not, or until that is enough. Result: how
/// many they are.
std::uint64_t Client::add_successes(const CallState& call, Range items, std::size_t& bytes,
                                    std::vector<Span>& spans) {
  std::uint64_t at = items.begin;
  while (at < items.end && bytes < kPageBytes) {
    const auto* found = call.find_page(at);
    if (found == nullptr) break;
    const auto& [first, page] = *found;
    const std::uint64_t end = std::min(items.end, first + page.count);
    Span span{page.frame, page.view, {at, end}, at - first};
    if (span.is_column()) {
      bytes += span.items.size() * std::max<std::size_t>(1, page.view.value_size());
      at = end;
    }
    for (; at < end && bytes < kPageBytes; ++at) {
      const ItemBytes item = span.item(at - span.items.begin);
      if (is_failed(item)) break;
      bytes += item.size();
    }
    span.items.end = at;
    if (!span.items.empty()) spans.push_back(std::move(span));
    if (at < end) break;
  }
  return at - items.begin;
}

std::vector<Client::Span> Client::successes(const CallPtr& call, std::uint64_t first, std::uint64_t limit,
                                            bool to_take) {
  Lock lock = enter();
  std::vector<Span> spans;
  if (to_take) {
    const auto* page = call->find_page(first);
    if (page == nullptr || page->second.is_taken()) return spans;
  }
  const auto there = call->settled.missing({first, first + limit});
  const Range items{first, there.empty() ? first + limit : there.front().begin};
  std::size_t bytes = 0;
  add_successes(*call, items, bytes, spans);
  return spans;
}

std::vector<Client::Span> Client::landed(const CallPtr& call, Landing& at, std::uint64_t limit, bool to_take,
                                         std::optional<std::uint64_t>& failed) {
  Lock lock = enter();
  std::vector<Span> spans;
  std::size_t bytes = 0;
  while (limit > 0 && bytes < kPageBytes && at.arrivals < call->landed.size()) {
    const Range group = call->landed[at.arrivals];
    const std::uint64_t begin = group.begin + at.items;
    const Range items{begin, std::min(group.end, begin + limit)};
    const auto* page = call->find_page(begin);
    const bool gone = page == nullptr || (to_take && page->second.is_taken());  // somebody else took it
    const std::uint64_t taken = gone ? 0 : add_successes(*call, items, bytes, spans);
    limit -= taken;
    at.items += taken;
    const bool stopped = taken < items.size() && bytes < kPageBytes && !gone;
    if (stopped && spans.empty()) failed = begin;
    if (gone || failed) ++at.items;
    if (at.items == group.size()) at = {at.arrivals + 1, 0};
    if (stopped) break;
  }
  return spans;
}

void Client::take(const CallPtr& call, Range items) {
  Lock lock = enter();
  take_items(*call, items);
}

void Client::take_items(CallState& call, Range items) {
  while (!items.empty()) {
    const auto page = std::prev(call.results.upper_bound(items.begin));
    const std::uint64_t part = std::min(items.end, page->first + page->second.count) - items.begin;
    page->second.taken += part;
    if (page->second.is_taken()) let_go(call, page->first);
    items.begin += part;
    // The feeder, in a wait of its own, is told when there is room for many.
    constexpr std::uint64_t kMany = kGeneratorWindowItems / 8;
    const bool many = call.taken / kMany != (call.taken + part) / kMany;
    call.taken += part;
    if (many && call.windowed) wake_waiters();
  }
}

/// A page was taken whole. Of a generator call the first few bytes stay.
void Client::let_go(CallState& call, std::uint64_t first) {
  const auto page = call.results.find(first);
  if (call.windowed && !call.handed_gone) {
    call.handed_bytes += page->second.frame.size();
    if (call.handed_bytes <= kHandedBytes && !PageView::may_refer(page->second.frame.bytes())) return;
    std::erase_if(call.results, [](const auto& entry) { return entry.second.is_taken(); });
  } else {
    call.results.erase(page);
  }
  call.handed_gone = true;
}

std::vector<Client::ResultSpan> Client::result_spans(const CallPtr& call) {
  Lock lock = enter();
  std::vector<ResultSpan> spans;
  spans.reserve(call->results.size());
  for (const auto& [first, page] : call->results) spans.push_back({first, page.count, page.frame, page.view});
  return spans;
}

std::optional<std::uint64_t> Client::first_success(const CallPtr& call) {
  Lock lock = enter();
  if (!any_success(call)()) return std::nullopt;
  return call->success;
}

CallStats Client::explain(const CallPtr& call, TimePoint deadline, const Interrupt& interrupt) {
  std::uint64_t serial = call->serial;
  {
    Lock lock = enter();
    flush_streams();
    if (call->has_stats || call->kind == CallState::Kind::kDirect || !calls_.contains(serial) ||
        session_ != Session::kOpen) {
      CallStats stats = call->stats;
      stats.total = call->known;
      stats.closed = call->closed;
      stats.settled = call->settled.size();
      if (!call->over && call->kind == CallState::Kind::kDirect)
        stats.waiting = "the boxes have not answered yet";
      return stats;
    }
    explanations_.erase(serial);
    send({Explain{serial}, {}});
  }
  wait([&] { return explanations_.contains(serial) || call->has_stats || session_ != Session::kOpen; },
       deadline, interrupt);
  Lock lock = enter();
  if (call->has_stats) return call->stats;
  if (const auto found = explanations_.find(serial); found != explanations_.end()) {
    CallStats stats = std::move(found->second);
    explanations_.erase(found);
    return stats;
  }
  throw BusError("the scheduler did not explain the call in time");
}

Client::Condition Client::settled_item(const CallPtr& call, std::uint64_t i) {
  return [call, i] { return call->over || call->has_outcome(i); };
}

Client::Condition Client::over(const CallPtr& call) {
  return [call] { return call->over; };
}

Client::Condition Client::any_success(const CallPtr& call) {
  return [call] {
    while (!call->success && call->success_cursor < call->landed.size()) {
      const Range range = call->landed[call->success_cursor++];
      for (std::uint64_t i = range.begin; i < range.end && !call->success; ++i) {
        const auto* page = call->find_page(i);
        if (page == nullptr) continue;  // somebody took it
        if (page->second.is_column() || !call->outcome(i).failed()) call->success = i;
      }
    }
    return call->success.has_value() || call->over;
  };
}

Client::Condition Client::more_landed(const CallPtr& call, std::uint64_t arrivals) {
  return [call, arrivals] { return call->over || call->landed.size() > arrivals; };
}

}  // namespace betterbox
