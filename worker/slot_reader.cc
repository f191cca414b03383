// What a slot says (worker/slot_reader.h).
#include "worker/slot_reader.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "runtime/check.h"

namespace betterbox {
namespace {

/// Longer than anything runs: sums of times that an agent adds up stay far from their limit.
constexpr std::int64_t kLongestTime = std::int64_t{1} << 58;

template <class T> bool take(std::string_view& rest, T& value) {
  if (rest.size() < sizeof value) return false;
  std::memcpy(&value, rest.data(), sizeof value);
  rest.remove_prefix(sizeof value);
  return true;
}

std::span<const std::byte> span_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

/// A record's payload behind its first `skip` bytes, without copying it.
Frame frame_behind(std::string&& payload, std::size_t skip) {
  const std::size_t size = payload.size() - skip;
  return Frame(std::move(payload)).slice(skip, size);
}

double square(std::int64_t ns) { return static_cast<double>(ns) * static_cast<double>(ns); }

bool is_time(std::int64_t ns) { return ns >= 0 && ns <= kLongestTime; }
bool is_square(double squares) { return squares <= square(kLongestTime); }

}  // namespace

void SlotReader::expect(std::uint32_t station, std::uint32_t generation, bool fold) {
  Gather& gather = gathers_[station];
  BB_CHECK(gather.count == 0);
  gather.generation = generation;
  gather.fold = fold;
}

void SlotReader::expect_reply(std::uint64_t token, bool is_owed) {
  last_token_ = std::max(last_token_, token);
  if (is_owed) owed_.push_back(token);
}

std::uint32_t SlotReader::drain(std::vector<Event>& events, std::uint32_t limit) {
  outcomes_ = 0;
  drain_strip(events);
  for (std::uint32_t i = 0; sane_ && i < limit && outbox_.next(record_); ++i)
    sane_ = take_record(record_, events);
  for (std::uint32_t s = 0; s < kStations; ++s) finish_page(s, events);
  return outcomes_;
}

/// Result: false if it is none that a slot that works would write now.
bool SlotReader::take_record(Record& record, std::vector<Event>& events) {
  const std::string_view rest = record.payload;
  switch (static_cast<FromSlot>(record.kind)) {
    case FromSlot::kOutcome: return take_outcome(rest, events);
    case FromSlot::kLeaseDone: return take_lease_done(rest, events);
    case FromSlot::kReply:
    case FromSlot::kLaneReply: return take_reply(rest, record, events);
    case FromSlot::kReady: return !std::exchange(ready_, true) && take_ready(rest, events);
    case FromSlot::kFailed:
      if (ready_ || std::exchange(ended_, true)) return false;
      events.emplace_back(SeatFailed{seat_, life_, Frame(std::move(record.payload))});
      return true;
    case FromSlot::kStopped:
      if (!stop_asked_ || std::exchange(ended_, true)) return false;
      events.emplace_back(SeatStopped{seat_, life_, Frame(std::move(record.payload))});
      return true;
  }
  return false;
}

bool SlotReader::take_reply(std::string_view rest, Record& record, std::vector<Event>& events) {
  if (static_cast<FromSlot>(record.kind) == FromSlot::kLaneReply) {
    SlotLaneReply head;
    if (!take(rest, head) || head.token > last_token_) return false;
    events.emplace_back(LaneReplied{seat_, life_, head.token, head.serial,
                                    frame_behind(std::move(record.payload), sizeof head)});
    return true;
  }
  std::uint64_t token = 0;
  if (!take(rest, token) || token > last_token_) return false;
  std::erase(owed_, token);
  events.emplace_back(
      SeatReplied{seat_, life_, token, frame_behind(std::move(record.payload), sizeof token)});
  return true;
}

bool SlotReader::take_ready(std::string_view rest, std::vector<Event>& events) {
  SlotReady head;
  if (!take(rest, head) || rest.size() < head.class_name_size) return false;
  SeatReady ready{seat_, life_, std::string(rest.substr(0, head.class_name_size)), head.sandbox != 0, {}};
  rest.remove_prefix(head.class_name_size);
  for (std::uint32_t i = 0; i < head.methods; ++i) {
    if (rest.size() < 2) return false;
    const auto flags = static_cast<std::uint8_t>(rest[0]);
    const auto size = static_cast<std::uint8_t>(rest[1]);
    if (rest.size() < std::size_t{2} + size) return false;
    ready.methods.push_back({std::string(rest.substr(2, size)), flags});
    rest.remove_prefix(std::size_t{2} + size);
  }
  events.emplace_back(std::move(ready));
  return true;
}

bool SlotReader::take_lease_done(std::string_view rest, std::vector<Event>& events) {
  SlotLeaseDone done;
  if (!take(rest, done) || done.station >= kStations) return false;
  drain_strip(events);  // all its outcomes are there
  finish_page(done.station, events);
  if (!sane_ || !words_.finish(done.station, done.generation)) return false;
  events.emplace_back(SubLeaseDone{seat_, life_, done.station, done.generation});
  return true;
}

bool SlotReader::take_outcome(std::string_view rest, std::vector<Event>& events) {
  ++outcomes_;
  SlotOutcome outcome;
  if (!take(rest, outcome) || rest.empty()) return false;
  if (!words_.covers(outcome.station, outcome.generation, outcome.first, outcome.count)) return false;
  if (!is_time(outcome.busy_ns) || !is_time(outcome.longest_ns)) return false;
  Gather& gather = gathers_[outcome.station];
  if (outcome.count != 1 && !gather.fold) return false;
  words_.count_outcomes(outcome.station, outcome.count);
  const bool alone = gather.fold || rest.size() >= kPageBytes;
  const bool follows = gather.count > 0 && outcome.first == gather.first + gather.count;
  if (gather.count > 0 && (!follows || alone || gather.page.bytes() + rest.size() > kPageBytes)) {
    finish_page(outcome.station, events);
  }
  if (alone) {
    events.emplace_back(
        SeatProgressed{seat_, life_, outcome.station, outcome.generation, outcome.first, outcome.count,
                       outcome.busy_ns, square(outcome.busy_ns) / outcome.count, outcome.longest_ns,
                       make_single_page(span_of(rest), gather.fold ? PageKind::kFold : PageKind::kSingle)});
    return true;
  }
  if (gather.count == 0) gather.begin(outcome.first);
  gather.page.add(span_of(rest));
  gather.count += 1;
  gather.add_time(outcome.busy_ns, square(outcome.busy_ns), outcome.longest_ns);
  return true;
}

void SlotReader::Gather::begin(std::uint32_t at) {
  first = at;
  busy_ns = longest_ns = 0;
  busy_squares = 0;
}

void SlotReader::Gather::add_time(std::int64_t busy, double squares, std::int64_t longest) {
  busy_ns = std::min(busy_ns + busy, kLongestTime);
  busy_squares += squares;
  longest_ns = std::max(longest_ns, longest);
}

/// What is there now: a slot that goes on meanwhile is not run after.
void SlotReader::drain_strip(std::vector<Event>& events) {
  bool last = false;
  while (!last && sane_) {
    const auto part = strip_.next();
    if (!part) break;
    last = part->last;
    outcomes_ += part->count;
    sane_ = words_.covers(part->station, part->generation, part->first, part->count) &&
            !gathers_[part->station].fold && is_time(part->busy_ns) && is_time(part->longest_ns) &&
            is_square(part->busy_squares);
    if (sane_) take_part(*part, events);
    strip_.release();
  }
}

void SlotReader::take_part(const StripPart& part, std::vector<Event>& events) {
  words_.count_outcomes(part.station, part.count);
  Gather& gather = gathers_[part.station];
  const bool alone = part.count >= kShortestColumn;
  if (gather.count > 0 && (alone || part.first != gather.first + gather.count ||
                           gather.page.bytes() + part.count * std::size_t{16} > kPageBytes)) {
    finish_page(part.station, events);
  }
  if (alone) {
    events.emplace_back(SeatProgressed{seat_, life_, part.station, part.generation, part.first, part.count,
                                       part.busy_ns, part.busy_squares, part.longest_ns,
                                       strip_.column_of(part)});
    return;
  }
  if (gather.count == 0) gather.begin(part.first);
  for (std::uint32_t i = 0; i < part.count; ++i) {
    item_.clear();
    strip_.append_item(part, i, item_);
    gather.page.add(span_of(item_));
  }
  gather.count += part.count;
  gather.add_time(part.busy_ns, part.busy_squares, part.longest_ns);
}

void SlotReader::finish_page(std::uint32_t station, std::vector<Event>& events) {
  Gather& gather = gathers_[station];
  if (gather.count == 0) return;
  events.emplace_back(SeatProgressed{seat_, life_, station, gather.generation, gather.first, gather.count,
                                     gather.busy_ns, gather.busy_squares, gather.longest_ns,
                                     gather.page.finish()});
  gather.count = 0;
}

}  // namespace betterbox
