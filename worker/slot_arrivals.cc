#include "worker/slot_arrivals.h"

#include <algorithm>
#include <utility>

#include "runtime/page.h"
#include "worker/record_bytes.h"

namespace betterbox {

Record SlotArrivals::first() {
  while (!inbox_.wait(TimePoint::never())) {}
  Record record;
  inbox_.read(record);
  return record;
}

bool SlotArrivals::any() const {
  return inbox_.has_bytes() || std::any_of(lanes_.begin(), lanes_.end(),
                                           [](const LanePtr& lane) { return lane->end->has_requests(); });
}

std::optional<Arrival> SlotArrivals::next() {
  take_all();
  if (waiting_.empty()) return std::nullopt;
  Arrival arrival = std::move(waiting_.front());
  waiting_.pop_front();
  chatty_ = arrival.lane != nullptr;
  if (chatty_) --arrival.lane->waiting;
  return arrival;
}

/// A record of the agent is read here, without the GIL, however large it is.
void SlotArrivals::wait(TimePoint deadline) {
  const auto ready = [this] { return any(); };
  // After a call through a lane the next one often comes soon.
  if (!std::exchange(chatty_, false) || !spinner_.spin(ready)) inbox_.wait(deadline, ready);
  if (!inbox_.has_bytes()) return;
  inbox_.read(begun_.emplace());
}

void SlotArrivals::take_all() {
  if (begun_) arrive(*std::exchange(begun_, std::nullopt));
  while (inbox_.has_bytes()) {
    Record record;
    inbox_.read(record);
    arrive(std::move(record));
  }
  for (std::size_t i = lanes_.size(); i-- > 0;) take_requests(lanes_[i]);
}

void SlotArrivals::arrive(Record record) {
  if (record.kind == static_cast<std::uint32_t>(ToSlot::kOpenLane)) return open_lane(record);
  if (record.kind != static_cast<std::uint32_t>(ToSlot::kCancelCall)) {
    waiting_.push_back({std::move(record), nullptr});
    return;
  }
  std::span<const std::byte> rest = bytes_of(record.payload);
  const auto token = take<std::uint64_t>(rest);
  if (close_lane(token)) return;
  std::erase_if(waiting_, [token](const Arrival& arrival) {
    std::span<const std::byte> call = bytes_of(arrival.record.payload);
    return arrival.lane == nullptr && arrival.record.kind == static_cast<std::uint32_t>(ToSlot::kCall) &&
           take<SlotCall>(call).token == token;
  });
}

/// One by one, so that a call can be cancelled before it has begun; no more than a client may have under way.
void SlotArrivals::take_requests(const LanePtr& held) {
  const LanePtr lane = held;
  Record record;
  while (lane->waiting < kMaxDirectCallsInFlight && lane->end->receive(record)) {
    std::span<const std::byte> rest = bytes_of(record.payload);
    const bool call = record.kind == static_cast<std::uint32_t>(LaneRecord::kCall);
    if (rest.size() < (call ? sizeof(LaneCall) : sizeof(std::uint64_t))) continue;
    if (call) {
      waiting_.push_back({std::exchange(record, {}), lane});
      ++lane->waiting;
    } else if (record.kind == static_cast<std::uint32_t>(LaneRecord::kCancel)) {
      skip(lane, take<std::uint64_t>(rest));
    }
  }
  if (lane->end->broken()) {
    close_lane(lane->token);
    const std::string lost = make_lost_item(LostCode::kBadRequest, 0, {}, "its lane was written over");
    outlet_.write(FromSlot::kReply, bytes_of_struct(lane->token), bytes_of(lost));
  }
}

void SlotArrivals::skip(const LanePtr& lane, std::uint64_t serial) {
  const std::size_t skipped = std::erase_if(waiting_, [&](const Arrival& arrival) {
    if (arrival.lane != lane) return false;
    std::span<const std::byte> rest = bytes_of(arrival.record.payload);
    return take<LaneCall>(rest).serial == serial;
  });
  lane->waiting -= skipped;
  if (skipped == 0 || lane->end->reply(LaneRecord::kSkipped, {bytes_of_struct(serial)})) return;
  reply(*lane, serial, bytes_of(make_lost_item(LostCode::kCancelled, 0, {}, "")));
}

void SlotArrivals::open_lane(const Record& record) {
  std::span<const std::byte> rest = bytes_of(record.payload);
  const auto asked = take<SlotLaneAsked>(rest);
  auto end = SlotLane::open(asked.pid, asked.fd, asked.nonce, arena_);
  if (end) lanes_.push_back(std::make_shared<ServedLane>(ServedLane{asked.token, std::move(end)}));
}

/// What a client that took its leave has sent is still run. Result: false if there is no such lane.
bool SlotArrivals::close_lane(std::uint64_t token) {
  const auto at =
      std::find_if(lanes_.begin(), lanes_.end(), [&](const LanePtr& l) { return l->token == token; });
  if (at == lanes_.end()) return false;
  const LanePtr lane = *at;
  if (lane->end->client_left()) {
    if (!lane->end->broken()) take_requests(lane);
  } else {
    std::erase_if(waiting_, [&](const Arrival& arrival) { return arrival.lane == lane; });
  }
  std::erase(lanes_, lane);
  return true;
}

void SlotArrivals::reply(ServedLane& lane, std::uint64_t serial, std::span<const std::byte> item) {
  if (LaneRing::may_fit(item.size()) && lane.end->reply(LaneRecord::kReply, {bytes_of_struct(serial), item}))
    return;
  lane.end->replied_through_agent();
  outlet_.write(FromSlot::kLaneReply, bytes_of_struct(SlotLaneReply{lane.token, serial}), item);
}

}  // namespace betterbox
