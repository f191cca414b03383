// Client, third part: single submissions, gathered into growing calls.
#include <utility>

#include "runtime/client.h"
#include "runtime/codec.h"

namespace betterbox {
namespace {

/// Streams of single submissions kept open; the idlest go first.
constexpr std::size_t kMaxStreams = 64;

/// Two submissions may share a call if their calls would be opened by the same bytes.
std::string stream_key(const Call& opening, const Frame& context) {
  std::string key = encode({opening, {context}});
  key.append(context.view());
  return key;
}

}  // namespace

CallPtr Client::submit(const CallOptions& options, Frame context, ItemBytes item) {
  Lock lock(mutex_);
  if (session_ == Session::kRefused || session_ == Session::kClosed) {
    throw BusError("this process is not connected to the bus any more: " + lost_reason_);
  }
  Call opening = opening_of(options);
  std::string key = stream_key(opening, context);
  auto found = streams_.find(key);
  // A stream with a timeout would end with its first item's: such a submission has a call of its own.
  if (found == streams_.end() || options.timeout) {
    retire_idle_streams();
    if (options.timeout) key += std::to_string(next_serial_);
    found = streams_.try_emplace(std::move(key)).first;
    CallPtr call = make_call(CallState::Kind::kScheduled, options.port, options.method);
    call->serial = next_serial_++;
    call->context = std::move(context);
    opening.serial = call->serial;
    call->opening = std::move(opening);
    calls_[call->serial] = call;
    found->second.call = call;
    stream_of_[call->serial] = &found->second;
    if (session_ == Session::kOpen) send_opening(call);
  }
  Stream& stream = found->second;
  CallPtr submission = make_call(CallState::Kind::kSubmission, options.port, options.method);
  submission->serial = stream.call->serial;
  submission->index = stream.call->known + stream.gathered.count();
  submission->known = 1;
  submission->closed = true;
  stream.waiting[submission->index] = submission;
  stream.gathered.add(item);
  stream.last_use = next_serial_++;

  // Alone it leaves at once. Behind others that are under way it waits for more, or for the driver.
  if (stream.waiting.size() == 1 || stream.gathered.bytes() >= kPageBytes) {
    flush(stream);
    drain();
  } else if (!gathered_any_) {
    gathered_any_ = true;
    wake_driver();
  }
  return submission;
}

void Client::flush(Stream& stream) {
  if (stream.gathered.empty()) return;
  CallState& call = *stream.call;
  const std::uint64_t count = stream.gathered.count();
  Frame page = stream.gathered.finish();
  call.unsent_bytes += page.size();
  call.pages[call.known] = {std::move(page), count, count, {}};
  call.known += count;
  unsent_.insert(call.serial);
  pump(stream.call);
}

void Client::flush_streams() {
  if (!gathered_any_) return;
  gathered_any_ = false;
  for (auto& [key, stream] : streams_) flush(stream);
}

void Client::retire_idle_streams() {
  while (streams_.size() >= kMaxStreams) {
    auto idlest = streams_.end();
    for (auto stream = streams_.begin(); stream != streams_.end(); ++stream) {
      const bool idle = stream->second.waiting.empty() && stream->second.gathered.empty();
      if (idle && (idlest == streams_.end() || stream->second.last_use < idlest->second.last_use))
        idlest = stream;
    }
    if (idlest == streams_.end()) return;
    const std::uint64_t serial = idlest->second.call->serial;
    stream_of_.erase(serial);
    calls_.erase(serial);
    unsent_.erase(serial);
    streams_.erase(idlest);
    send({Forget{serial}, {}});
  }
}

void Client::settle_submissions(Stream& stream, std::uint64_t first, std::uint64_t count, const Frame& page) {
  const auto view = PageView::parse(page.bytes());
  if (stream.call->settled.insert({first, first + count}) != count) return;
  settle_sent(*stream.call, {first, first + count});
  for (std::uint64_t i = 0; i < count; ++i) {
    const auto found = stream.waiting.find(first + i);
    if (found == stream.waiting.end()) continue;  // cancelled
    const CallPtr submission = std::move(found->second);
    stream.waiting.erase(found);
    if (view && view->kind() != PageKind::kIntRange && (view->count() == count || view->count() == 1)) {
      settle(submission, 0, 1,
             slice_page(page, *view, view->count() == count ? i : 0, (view->count() == count ? i : 0) + 1));
    } else {
      settle_lost(submission, 0, 1, LostCode::kBadRequest, "its result arrived unreadable");
    }
    check_over(submission);
  }
}

}  // namespace betterbox
