// Client, second part: calls, their items on the way out and their outcomes on the way in (client_outcomes.cc reads them).
#include <algorithm>
#include <atomic>
#include <utility>

#include "runtime/check.h"
#include "runtime/client.h"
#include "runtime/digest.h"
#include "runtime/shared_items.h"
#include "runtime/slot_place.h"

namespace betterbox {
namespace {

/// Items messages gather pages up to this size.
constexpr std::size_t kItemsMessageBytes = 1U << 20;
/// A generator's feeder runs this far ahead of what could be sent.
constexpr std::size_t kFeedAheadBytes = 8U << 20;

}  // namespace

std::uint32_t Client::depth_of_calls() {
  const std::uint32_t depth = SlotPlace::depth_of_calls();
  if (depth <= kMaxCallDepth) return depth;
  throw NestingError(
      "calls are nested in each other " + std::to_string(kMaxCallDepth) +
      " deep, the most that may be: does a function that calls itself through the bus, or a module that "
      "makes a call when it is imported, ever come to an end?");
}

std::uint64_t take_tokens(std::uint64_t count) {
  static std::atomic<std::uint64_t> next{1};
  return next.fetch_add(count);
}

const CallState::PlacedPage* CallState::find_page(std::uint64_t i) const {
  const auto after = results.upper_bound(i);
  if (after == results.begin()) return nullptr;
  const PlacedPage& found = *std::prev(after);
  return i < found.first + found.second.count ? &found : nullptr;
}

Outcome CallState::outcome(std::uint64_t i) const {
  const PlacedPage* found = find_page(i);
  BB_CHECK(found != nullptr);
  const auto& [first, page] = *found;
  const std::uint64_t place = page.view.count() == page.count ? i - first : 0;
  if (page.view.has_items()) return {page.frame, page.view.item(place)};
  const std::string item = page.view.copy_item(place);
  Frame alone = make_single_page(std::as_bytes(std::span(item)));
  const ItemBytes bytes = PageView::parse(alone.bytes())->item(0);
  return {std::move(alone), bytes};
}

// --- making calls ---------------------------------------------------------------------------------

CallPtr Client::make_call(CallState::Kind kind, Port port, const std::string& method) {
  auto call = std::make_shared<CallState>();
  call->kind = kind;
  call->token = take_tokens(2);
  call->port = port;
  call->method = method;
  return call;
}

CallPtr Client::box_call(const std::vector<BoxId>& boxes, const std::string& method, Frame arguments,
                         std::optional<Duration> timeout) {
  Lock lock = enter();
  if (closed_) throw BusError("this process has closed its connection to the bus");
  drain();
  CallPtr call = make_call(CallState::Kind::kDirect, {}, method);
  call->known = boxes.size();
  call->closed = true;
  call->context = arguments;  // keeps what they refer to
  direct_[call->token] = call;
  begin_looks();
  if (SlotPlace::current() != nullptr) note_boxes(*call, boxes);
  if (timeout) {
    call->deadline = monotonic_now() + *timeout;
    deadlines_.insert({*call->deadline, call->token});
    wake_driver();
  }
  for (std::uint64_t i = 0; i < boxes.size(); ++i) {
    const auto link = links_.find(boxes[i].agent);
    if (link == links_.end()) {
      settle_lost(call, i, 1, LostCode::kBoxLost, "its process is gone");
      continue;
    }
    begin_direct(route_to(link->second, boxes[i]),
                 {BoxCall{next_direct_serial_++, boxes[i], method}, {arguments}}, {call, i});
  }
  check_over(call);
  if (std::exchange(sent_on_link_, false)) drain();
  return call;
}

/// A call, or a lane that is asked for: both are in `in_flight`.
void Client::send_on_link(Link& link, Message message) {
  link.waiting.push_back(std::move(message));
  pump(link);
}

void Client::pump(Link& link) {
  while (link.has_room() && !link.waiting.empty()) {
    const Message message = std::move(link.waiting.front());
    link.waiting.pop_front();
    const auto* call = std::get_if<BoxCall>(&message.body);
    const auto flight = link.in_flight.find(call ? call->serial : std::get<OpenLane>(message.body).serial);
    if (flight == link.in_flight.end()) continue;  // cancelled
    std::size_t bytes = 0;
    for (const Frame& frame : message.frames) bytes += frame.size();
    link.count_sent(flight->second, bytes);
    send_over(link, message);
    sent_on_link_ = true;
  }
}

Call Client::opening_of(const CallOptions& options) {
  Call call;
  call.port = options.port;
  call.method = options.method;
  call.retries = options.retries;
  call.idempotent = options.idempotent;
  call.fold = options.fold;
  call.timeout_ns = options.timeout ? options.timeout->ns : 0;
  call.name = options.name;
  call.policy = options.policy;
  call.priority = options.priority;
  call.needs = options.needs;
  call.copies_permille = options.copies_permille;
  call.values = options.values;
  return call;
}

CallPtr Client::open_call(const CallOptions& options, Frame context, EncodedItems items, bool closed) {
  const ContentId content = content_of(context.bytes());
  const std::uint32_t depth = depth_of_calls();
  Lock lock = enter();
  if (session_ == Session::kRefused || session_ == Session::kClosed) {
    throw BusError("this process is not connected to the bus any more: " + lost_reason_);
  }
  CallPtr call = make_call(CallState::Kind::kScheduled, options.port, options.method);
  call->fold = options.fold;
  call->windowed = options.windowed;
  call->serial = next_serial_++;
  call->context = std::move(context);
  call->costed = !items.costs.empty();
  call->opening = opening_of(options);
  call->opening.serial = call->serial;
  call->opening.content = content;
  call->opening.depth = depth;
  calls_[call->serial] = call;
  begin_looks();
  if (session_ == Session::kOpen) send_opening(call);
  lock.unlock();
  feed(call, std::move(items), closed);
  return call;
}

void Client::send_opening(const CallPtr& call) { send({call->opening, {call->context}}); }

// --- items on the way out -------------------------------------------------------------------------

void Client::feed(const CallPtr& call, EncodedItems items, bool closed) {
  Lock lock = enter();
  if (call->over) return;
  call->costed = call->costed || (call->known == 0 && !items.costs.empty());
  BB_CHECK(items.costs.size() == (call->costed ? items.count : 0));
  auto costs = items.costs.begin();
  for (EncodedItems::Page& page : items.pages) {
    CallState::SentPage& kept = call->pages[call->known];
    kept = {std::move(page.frame), page.count, page.count, {}, page.shared};
    call->shared_bytes += page.shared;
    if (call->costed) {
      kept.costs.assign(costs, costs + static_cast<std::ptrdiff_t>(page.count));
      costs += static_cast<std::ptrdiff_t>(page.count);
    }
    call->unsent_bytes += kept.bytes();
    call->known += page.count;
  }
  call->closed = call->closed || closed;
  unsent_.insert(call->serial);
  pump(call);
  check_over(call);
  drain();
}

std::uint64_t Client::feed_room(const CallPtr& call, TimePoint deadline) {
  const auto room = [&]() -> std::uint64_t {
    if (call->over || call->closed || call->unsent_bytes >= kFeedAheadBytes) return 0;
    if (call->shared_bytes >= kSharedItemWindowBytes) return 0;
    if (!call->windowed || call->free_running > 0) return kGeneratorWindowItems;
    const std::uint64_t out = call->known - call->taken;
    return out < kGeneratorWindowItems ? kGeneratorWindowItems - out : 0;
  };
  wait([&] { return call->over || call->closed || room() > 0; }, deadline, {}, {nullptr, false, false});
  Lock lock = enter();
  return room();
}

void Client::free_running(const CallPtr& call, bool on) {
  Lock lock = enter();
  call->free_running += on ? 1 : -1;
  wake_waiters();
}

void Client::pump() {
  if (unsent_.empty() || session_ != Session::kOpen) return;
  const auto serials = unsent_;
  for (const std::uint64_t serial : serials) {
    if (const auto call = calls_.find(serial); call != calls_.end()) {
      const CallPtr held = call->second;
      pump(held);
    } else {
      unsent_.erase(serial);
    }
  }
}

/// Sends what the window admits. Where items below `known` have no page any more they were settled before
/// a scheduler was lost; a description of integers takes their place, which nobody will run.
void Client::pump(const CallPtr& held) {
  CallState& call = *held;
  if (session_ != Session::kOpen) return;
  while (call.sent < call.known || (call.closed && !call.close_sent)) {
    Items items;
    items.serial = call.serial;
    Frames frames;
    std::size_t bytes = 0;
    while (call.sent < call.known && bytes < kItemsMessageBytes && frames.size() < kMaxFrames) {
      const auto page = call.pages.lower_bound(call.sent);
      std::uint64_t next = page == call.pages.end() ? call.known : page->first;
      if (next > call.sent) {
        if (call.costed) {
          next = std::min(next, call.sent + kMaxCostsPerPage);
          items.costs.resize(items.costs.size() + (next - call.sent));
          bytes += (next - call.sent) * sizeof(float);
        }
        items.spans.push_back({call.sent, next - call.sent});
        frames.push_back(make_int_range_page(0, 0, next - call.sent));
        call.sent = next;
        continue;
      }
      const std::size_t size = page->second.bytes();
      if (window_used_ > 0 && window_used_ + size > kItemWindowBytes) break;
      window_used_ += size;
      bytes += size;
      call.unsent_bytes -= size;
      items.spans.push_back({page->first, page->second.count});
      frames.push_back(page->second.frame);
      items.costs.insert(items.costs.end(), page->second.costs.begin(), page->second.costs.end());
      call.sent += page->second.count;
    }
    items.closed = call.closed && call.sent == call.known;
    if (frames.empty() && !items.closed) return;  // no window: results will open it
    call.close_sent = items.closed;
    send({std::move(items), std::move(frames)});
  }
  unsent_.erase(call.serial);
}

void Client::unsend(CallState& call, std::uint64_t from) {
  for (auto page = call.pages.lower_bound(from); page != call.pages.end() && page->first < call.sent;
       ++page) {
    window_used_ -= page->second.bytes();
    call.unsent_bytes += page->second.bytes();
  }
  call.sent = std::min(call.sent, from);
}

// --- outcomes on the way in -----------------------------------------------------------------------

void Client::on_results(Results& results, Frames& frames) {
  for (const Frame& frame : frames) unacknowledged_bytes_ += frame.size() + 64;
  ack_seen_ = results.ack;  // what comes again after a session ended is known by its items
  const auto found = calls_.find(results.serial);
  if (found == calls_.end()) {  // forgotten: what was sent is freed
    for (Frame& frame : frames) take_shared(std::move(frame), 0);
    return;
  }
  const CallPtr call = found->second;
  const auto stream = stream_of_.find(results.serial);
  for (std::size_t i = 0; i < results.spans.size() && i < frames.size(); ++i) {
    const PageSpan span = results.spans[i];
    if (span.first + span.count > call->known) continue;  // nobody asked for these
    frames[i] = take_shared(std::move(frames[i]), span.first);
    if (stream != stream_of_.end()) {
      settle_submissions(*stream->second, span.first, span.count, frames[i]);
      if (stream->second->waiting == stream->second->gathered.count()) flush(*stream->second);
    } else {
      settle(call, span.first, span.count, std::move(frames[i]));
    }
  }
  check_over(call);
  if (!unsent_.empty()) pump();
}

void Client::settle(const CallPtr& call, std::uint64_t first, std::uint64_t count, Frame page) {
  if (call->over || count == 0) return;
  const Range range{first, first + count};
  auto view = PageView::parse(page.bytes());
  if (!view || !view->holds_outcomes_of(count) || (call->fold && !view->has_items())) {
    return settle_lost(call, first, count, LostCode::kBadRequest, "its result arrived unreadable");
  }
  const std::vector<Range> fresh = call->settled.missing(range);
  if (fresh.empty()) return;  // each had an outcome: exactly once
  if (fresh.front().size() != count) {
    if (view->kind() == PageKind::kFold) return;  // of all of them together
    for (const Range& r : fresh) {
      settle(call, r.begin, r.size(),
             view->count() == 1 ? page : slice_page(page, *view, r.begin - first, r.end - first));
    }
    return;
  }
  call->settled.insert(range);
  settle_sent(*call, range);
  call->results.emplace(first, CallState::ResultPage{std::move(page), *view, count, 0});
  call->landed.push_back(range);
  if (call->wants_landing) tell_landing(*call);
}

void Client::tell_landing(CallState& call) {
  call.wants_landing = false;
  notices_.push_back(call.landing_token());
  wake_driver();
}

void Client::settle_lost(const CallPtr& call, std::uint64_t first, std::uint64_t count, LostCode code,
                         std::string_view why) {
  const std::string item = make_lost_item(code, first, {}, why);
  settle(call, first, count, make_single_page(std::as_bytes(std::span(item))));
}

/// Frees what is kept for sending again, and opens the window.
void Client::settle_sent(CallState& call, Range range) {
  if (call.pages.empty()) return;
  auto page = call.pages.upper_bound(range.begin);
  if (page != call.pages.begin()) --page;
  while (page != call.pages.end() && page->first < range.end) {
    const Range covered{std::max(range.begin, page->first),
                        std::min(range.end, page->first + page->second.count)};
    if (covered.empty()) {
      ++page;
      continue;
    }
    page->second.unsettled -= std::min(page->second.unsettled, covered.size());
    if (page->second.unsettled > 0) {
      ++page;
      continue;
    }
    (page->first < call.sent ? window_used_ : call.unsent_bytes) -= page->second.bytes();
    call.shared_bytes -= page->second.shared;
    if (page->second.shared > 0) wake_waiters();  // the feeder may go on
    page = call.pages.erase(page);
  }
}

void Client::check_over(const CallPtr& call) {
  if (!call->over && call->closed && call->settled.size() == call->known) finish(call);
}

void Client::finish(const CallPtr& call) {
  call->over = true;
  if (call->kind == CallState::Kind::kDirect) {
    direct_.erase(call->token);
    call->context = Frame();
    if (call->deadline) deadlines_.erase({*call->deadline, call->token});
  }
  if (call->wants_landing) tell_landing(*call);
  if (call->wants_notify) {
    notices_.push_back(call->token);
    wake_driver();
  }
}

void Client::lose_unsettled(const CallPtr& call, LostCode code, std::string_view why) {
  if (call->over) return;
  for (const Range& range : call->settled.missing({0, call->known})) {
    settle_lost(call, range.begin, range.size(), code, why);
  }
  call->closed = true;
  check_over(call);
}

void Client::check_deadlines(TimePoint now) {
  check_reached(now);
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    const CallPtr call = direct_.at(deadlines_.begin()->second);
    deadlines_.erase(deadlines_.begin());
    drop_direct(call);
    lose_unsettled(call, LostCode::kTimeout, "");
  }
}

// --- ending calls ---------------------------------------------------------------------------------

bool Client::cancel(const CallPtr& call) {
  Lock lock = enter();
  drain();
  if (call->over) return false;
  call->cancelled = true;
  if (!call->closed) ++call->known;  // stands for all that has not been fed
  switch (call->kind) {
    case CallState::Kind::kDirect: drop_direct(call); break;
    case CallState::Kind::kScheduled: forget(call); break;
  }
  lose_unsettled(call, LostCode::kCancelled, "");
  wake_waiters();
  drain();
  return true;
}

void Client::forget(const CallPtr& call) {
  unsend(*call, 0);
  call->pages.clear();
  call->shared_bytes = 0;
  call->context = Frame();
  unsent_.erase(call->serial);
  if (calls_.erase(call->serial) > 0 && session_ == Session::kOpen) send({Forget{call->serial}, {}});
}

void Client::release(const CallPtr& call, bool keep) {
  if (forked()) return;
  if (!keep) cancel(call);
}

void Client::notify(const CallPtr& call) {
  Lock lock = enter();
  if (!call->over) {
    call->wants_notify = true;
    return;
  }
  notices_.push_back(call->token);
  wake_driver();
}

void Client::notify_landing(const CallPtr& call, std::uint64_t arrivals) {
  Lock lock = enter();
  call->wants_landing = true;
  if (call->over || call->landed.size() > arrivals) tell_landing(*call);
}

}  // namespace betterbox
