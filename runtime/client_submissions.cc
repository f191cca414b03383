// Client, third part: single submissions, gathered into growing calls.
#include <unistd.h>

#include <utility>

#include "runtime/client.h"
#include "runtime/codec.h"
#include "runtime/digest.h"
#include "runtime/shared_items.h"

namespace betterbox {
namespace {

/// Streams of single submissions kept open; the idlest go first.
constexpr std::size_t kMaxStreams = 64;
/// This many leave together although others are under way.
constexpr std::uint64_t kMostGathered = 1024;

/// Two submissions may share a call if their calls would be opened by the same bytes.
std::string stream_key(const Call& opening, const Frame& context) {
  std::string key = encode({opening, {context}});
  key.append(context.view());
  return key;
}

Outcome lost_outcome(LostCode code, std::uint64_t index, std::string_view why) {
  const std::string lost = make_lost_item(code, index, {}, why);
  Frame page = make_single_page(std::as_bytes(std::span(lost)));
  const ItemBytes item = PageView::parse(page.bytes())->item(0);
  return {std::move(page), item};
}

bool is_cancelled(const Outcome& outcome) {
  const auto lost = outcome.failed() ? parse_lost_item(outcome.item) : std::nullopt;
  return lost && lost->code == LostCode::kCancelled;
}

/// In place of an outcome that nobody wants.
Outcome nothing() {
  static const std::byte none{static_cast<std::uint8_t>(ItemTag::kNone)};
  static const Frame page = make_single_page({&none, 1});
  return {page, PageView::parse(page.bytes())->item(0)};
}

}  // namespace

Client::Template::Template(const CallOptions& given, Frame frame)
    : options(given), context(std::move(frame)), key(stream_key(opening_of(given), context)) {}

Submission Client::submit(const Template& common, ItemBytes item, std::shared_ptr<const void> hold) {
  Lock lock = enter();
  if (session_ == Session::kRefused || session_ == Session::kClosed) {
    throw BusError("this process is not connected to the bus any more: " + lost_reason_);
  }
  return submit_locked(common, item, std::move(hold));
}

std::optional<Submission> Client::try_submit(const Template& common, ItemBytes item) {
  const Lock lock = try_enter();
  if (!lock.owns_lock() || session_ != Session::kOpen) return std::nullopt;
  return submit_locked(common, item, nullptr);
}

Submission Client::submit_locked(const Template& common, ItemBytes item, std::shared_ptr<const void> hold) {
  Stream& stream = stream_for(common);
  const bool alone = hold != nullptr;  // a page of its own: what it holds is freed with it
  if (alone) flush(stream);
  stream.hold = std::move(hold);
  Submission submission = add_submission(stream, item);
  // Alone it leaves at once. Behind others that are under way it waits for more, or for one of these to land.
  const std::uint64_t gathered = stream.gathered.count();
  if (alone || stream.waiting == gathered || gathered >= kMostGathered ||
      stream.gathered.bytes() >= kPageBytes) {
    flush(stream);
    begin_looks();
    drain();
  } else if (!gathered_any_) {
    gathered_any_ = true;
    wake_driver();
  }
  return submission;
}

Client::Stream& Client::stream_for(const Template& common) {
  // A stream with a timeout would end with its first item's: such a submission has a call of its own.
  const std::uint32_t depth = depth_of_calls();
  std::string nested;
  if (depth > 0) nested = common.key + "@" + std::to_string(depth);
  const std::string& usual = depth > 0 ? nested : common.key;
  if (!common.options.timeout) {
    if (const auto found = streams_.find(usual); found != streams_.end()) return found->second;
  }
  retire_idle_streams();
  std::string key = usual;
  if (common.options.timeout) key += std::to_string(next_serial_);
  Stream& stream = streams_[std::move(key)];
  CallPtr call = make_call(CallState::Kind::kScheduled, common.options.port, common.options.method);
  call->serial = next_serial_++;
  call->context = common.context;
  call->opening = opening_of(common.options);
  call->opening.serial = call->serial;
  call->opening.content = content_of(call->context.bytes());
  call->opening.depth = depth;
  calls_[call->serial] = call;
  stream.call = call;
  stream_of_[call->serial] = &stream;
  if (session_ == Session::kOpen) send_opening(call);
  return stream;
}

Submission Client::add_submission(Stream& stream, ItemBytes item) {
  constexpr std::uint64_t kPlaces = SubmissionBlock::kPlaces;
  const std::uint64_t index = stream.call->known + stream.gathered.count();
  if (stream.first_block + stream.blocks.size() == index / kPlaces) {
    auto block = std::make_shared<SubmissionBlock>();
    block->stream = stream.call;
    block->first = index;
    block->first_token = take_tokens(kPlaces);
    stream.blocks.push_back(std::move(block));
  }
  stream.gathered.add(item);
  ++stream.waiting;
  stream.last_use = next_serial_++;
  return {stream.blocks[index / kPlaces - stream.first_block], static_cast<std::uint32_t>(index % kPlaces)};
}

void Client::flush(Stream& stream) {
  if (stream.gathered.empty()) return;
  CallState& call = *stream.call;
  const std::uint64_t count = stream.gathered.count();
  Frame page = stream.gathered.finish();
  if (stream.hold) page = with_hold(page, std::exchange(stream.hold, nullptr));
  call.unsent_bytes += page.size();
  call.pages[call.known] = {std::move(page), count, count, {}, 0};
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
      const bool idle = stream->second.waiting == 0 && stream->second.gathered.empty();
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

// --- outcomes -------------------------------------------------------------------------------------

void Client::settle_submissions(Stream& stream, std::uint64_t first, std::uint64_t count, Frame page) {
  auto view = PageView::parse(page.bytes());
  const Range range{first, first + count};
  for (const Range& fresh : stream.call->settled.missing(range)) settle_sent(*stream.call, fresh);
  if (stream.call->settled.insert(range) == 0) return;
  const bool fits = view && view->holds_outcomes_of(count);
  if (fits && !view->has_items()) {
    page = with_items(*view);
    view = PageView::parse(page.bytes());
  }
  Outcome lost;
  if (!fits) lost = lost_outcome(LostCode::kBadRequest, first, "its result arrived unreadable");
  for (std::uint64_t i = 0; i < count; ++i) {
    settle_submission(stream, first + i,
                      fits ? Outcome{page, view->item(view->count() == count ? i : 0)} : lost);
  }
  while (!stream.blocks.empty() && stream.blocks.front()->settled == SubmissionBlock::kPlaces) {
    stream.blocks.pop_front();
    ++stream.first_block;
  }
}

/// The first outcome counts: a cancelled submission has one.
void Client::settle_submission(Stream& stream, std::uint64_t index, Outcome outcome) {
  const std::uint64_t number = index / SubmissionBlock::kPlaces;
  if (number < stream.first_block) return;
  SubmissionBlock& block = *stream.blocks[number - stream.first_block];
  const auto place = static_cast<std::uint32_t>(index % SubmissionBlock::kPlaces);
  if (!block.outcomes[place].page.empty()) return;
  if (block.withdrawn[place] && is_cancelled(outcome)) block.cancelled.set(place);
  block.outcomes[place] = block.released[place] ? nothing() : std::move(outcome);
  ++block.settled;
  --stream.waiting;
  if (block.notified[place]) {
    notices_.push_back(block.first_token + place);
    wake_driver();
  }
}

void Client::lose_submissions(Stream& stream, LostCode code, const std::string& reason) {
  const std::uint64_t end = stream.call->known + stream.gathered.count();
  for (std::uint64_t i = stream.first_block * SubmissionBlock::kPlaces; i < end; ++i) {
    settle_submission(stream, i, lost_outcome(code, 0, reason));
  }
}

std::optional<Outcome> Client::outcome(const Submission& submission) {
  const Lock lock = enter();
  drain();
  const Outcome& outcome = submission.block->outcomes[submission.place];
  return outcome.page.empty() ? std::nullopt : std::optional(outcome);
}

std::optional<Outcome> Client::try_outcome(const Submission& submission) {
  const Lock lock = try_enter();
  if (!lock.owns_lock()) return std::nullopt;
  const Outcome& outcome = submission.block->outcomes[submission.place];
  return outcome.page.empty() ? std::nullopt : std::optional(outcome);
}

void Client::release(const Submission& submission) {
  if (static_cast<std::uint32_t>(::getpid()) != options_.pid)
    return;         // a forked child: it has its parent's mutex
  Outcome dropped;  // after the mutex: it may unmap much
  const Lock lock(mutex_);
  SubmissionBlock& block = *submission.block;
  block.released.set(submission.place);
  Outcome& outcome = block.outcomes[submission.place];
  if (!outcome.page.empty()) dropped = std::exchange(outcome, nothing());
}

bool Client::cancelled(const Submission& submission) {
  const Lock lock = enter();
  return submission.block->cancelled[submission.place];
}

bool Client::cancel(const Submission& submission) {
  const Lock lock = enter();
  drain();
  SubmissionBlock& block = *submission.block;
  if (!block.outcomes[submission.place].page.empty()) return false;
  flush_streams();
  block.cancelled[submission.place] = true;
  const std::uint64_t index = block.first + submission.place;
  const std::uint64_t serial = block.stream->serial;
  if (const auto stream = stream_of_.find(serial); stream != stream_of_.end()) {
    settle_submission(*stream->second, index, lost_outcome(LostCode::kCancelled, 0, ""));
  } else {
    block.outcomes[submission.place] = lost_outcome(LostCode::kCancelled, 0, "");
  }
  if (session_ == Session::kOpen) send({Cancel{serial, {index, index + 1}}, {}});
  wake_waiters();
  drain();
  return true;
}

void Client::notify(const Submission& submission) {
  const Lock lock = enter();
  notify_locked(submission);
}

bool Client::try_notify(const Submission& submission) {
  const Lock lock = try_enter();
  if (lock.owns_lock()) notify_locked(submission);
  return lock.owns_lock();
}

void Client::notify_locked(const Submission& submission) {
  if (submission.block->outcomes[submission.place].page.empty()) {
    submission.block->notified[submission.place] = true;
    return;
  }
  notices_.push_back(submission.token());
  wake_driver();
}

Client::Condition Client::settled(const Submission& submission) {
  return [submission] { return !submission.block->outcomes[submission.place].page.empty(); };
}

}  // namespace betterbox
