// Client, sixth part: waits of boxes and items that can never end.
//
// A box runs one call at a time, so a box that waits for itself, directly or through others, waits for ever. The thread of
// a slot that has waited for a call for kDeadlockGrace tells the scheduler who waits and for whom (Waits); if that goes
// round, the scheduler says so (Deadlock), and what is awaited fails with the cycle. Only what must be there before the wait
// ends is told: all outcomes of a call, or the only one that is missing. Methods that run beside others are never in the way.
#include <algorithm>

#include "runtime/client.h"
#include "runtime/slot_place.h"

namespace betterbox {
namespace {

/// More are not told: a cycle through one of so many is found by others of it.
constexpr std::size_t kMostTold = 256;

}  // namespace

void Client::note_boxes(CallState& call, const std::vector<BoxId>& boxes) {
  call.boxes.assign(boxes.size(), BoxId{});
  for (std::size_t i = 0; i < boxes.size(); ++i) {
    const auto link = links_.find(boxes[i].agent);
    if (link == links_.end()) continue;
    if (!route_to(link->second, boxes[i]).express.contains(call.method)) call.boxes[i] = boxes[i];
  }
}

/// Once in each session, as soon as there is something to tell. `number`: 0 before.
void Client::tell_wait(std::uint64_t& number, const Awaited& awaited) {
  const SlotPlace& place = *SlotPlace::current();
  const CallState& call = *awaited.call;
  if (session_ != Session::kOpen || call.over) return;
  if (number != 0 && told_waits_.at(number).session == session_number_) return;
  Waits waits;
  waits.box = place.box();
  waits.call = place.call();
  if (waits.box == BoxId{} && waits.call == CallId{}) return;
  const auto stream = stream_of_.find(call.serial);
  const std::uint64_t missing = stream != stream_of_.end() && stream->second->call == awaited.call
                                    ? stream->second->waiting
                                    : call.known - call.settled.size();
  if (missing == 0 || (missing > 1 && !awaited.whole)) return;
  if (call.kind == CallState::Kind::kScheduled) {
    waits.calls.push_back(call.serial);
  } else {
    for (const Range& range : call.settled.missing({0, call.boxes.size()})) {
      for (std::uint64_t i = range.begin; i < range.end && waits.boxes.size() < kMostTold; ++i) {
        if (call.boxes[i] != BoxId{}) waits.boxes.push_back(call.boxes[i]);
      }
    }
    if (waits.boxes.empty()) return;
  }
  if (number == 0) number = ++last_told_wait_;
  told_waits_[number] = {awaited.call, session_number_};
  waits.number = number;
  send({std::move(waits), {}});
}

void Client::end_wait(std::uint64_t number) {
  told_waits_.erase(number);
  if (session_ != Session::kOpen) return;
  Waits over;
  over.number = number;
  send({std::move(over), {}});
}

/// What is awaited has this outcome, and is given up.
void Client::on_deadlock(const Deadlock& deadlock) {
  const auto told = told_waits_.find(deadlock.number);
  if (told == told_waits_.end() || told->second.call->over) return;
  const CallPtr call = told->second.call;
  if (const auto stream = stream_of_.find(call->serial);
      call->kind == CallState::Kind::kScheduled && stream != stream_of_.end()) {
    if (stream->second->waiting != 1) return;  // others have been made since
    lose_submissions(*stream->second, LostCode::kDeadlock, deadlock.text);
    send({Cancel{call->serial, {0, call->known}}, {}});
  } else {
    if (call->kind == CallState::Kind::kDirect) drop_direct(call);
    lose_unsettled(call, LostCode::kDeadlock, deadlock.text);
    if (call->kind == CallState::Kind::kScheduled) forget(call);
  }
  wake_waiters();
}

}  // namespace betterbox
