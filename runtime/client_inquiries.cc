// Client: asking which submissions have begun, and withdrawing those that have not (docs/protocol.md, Inquire).
#include <algorithm>
#include <map>
#include <utility>

#include "runtime/client.h"

namespace betterbox {
namespace {

/// Behind the last item that a call can have.
constexpr std::uint64_t kEndOfItems = std::uint64_t{1} << 62;

}  // namespace

void Client::inquire(std::uint64_t serial, const RangeSet& items, bool withdraw,
                     std::vector<std::uint64_t>& numbers) {
  const std::vector<Range> ranges = items.ranges();
  for (std::size_t from = 0; from < ranges.size(); from += kMaxInquiryRanges) {
    const std::size_t end = std::min(ranges.size(), from + kMaxInquiryRanges);
    const std::uint64_t number = next_inquiry_++;
    inquiries_[number];
    numbers.push_back(number);
    send({Inquire{serial,
                  number,
                  {ranges.begin() + static_cast<std::ptrdiff_t>(from),
                   ranges.begin() + static_cast<std::ptrdiff_t>(end)},
                  withdraw},
          {}});
  }
}

void Client::on_begun(const Begun& begun) {
  const auto found = inquiries_.find(begun.number);
  if (found == inquiries_.end()) return;  // nobody waits for it any more
  found->second.emplace();
  for (const Range& r : begun.items) {
    if (r.begin < r.end) found->second->insert(r);
  }
}

std::vector<bool> Client::begun(const std::vector<Submission>& submissions, bool withdraw, TimePoint deadline,
                                const Interrupt& interrupt) {
  std::vector<bool> result(submissions.size());
  std::map<std::uint64_t, RangeSet> asked;                      // by serial
  std::map<std::uint64_t, std::vector<std::uint64_t>> numbers;  // of inquiries, by serial
  {
    const Lock lock = enter();
    flush_streams();
    drain();
    for (const Submission& submission : submissions) {
      SubmissionBlock& block = *submission.block;
      if (!block.outcomes[submission.place].page.empty()) continue;
      if (withdraw) block.withdrawn.set(submission.place);
      const std::uint64_t index = block.first + submission.place;
      asked[block.stream->serial].insert({index, index + 1});
    }
    if (session_ != Session::kOpen) return result;
    for (const auto& [serial, items] : asked) inquire(serial, items, withdraw, numbers[serial]);
  }
  struct Leave {
    Client& client;
    const std::map<std::uint64_t, std::vector<std::uint64_t>>& numbers;
    ~Leave() {
      const Lock lock(client.mutex_);
      for (const auto& [serial, of_call] : numbers)
        for (const std::uint64_t number : of_call) client.inquiries_.erase(number);
    }
  };
  const Leave leave{*this, numbers};
  const auto answered = [&] {
    return session_ != Session::kOpen || std::ranges::all_of(numbers, [&](const auto& of_call) {
             return std::ranges::all_of(of_call.second,
                                        [&](std::uint64_t n) { return inquiries_.at(n).has_value(); });
           });
  };
  wait(answered, deadline, interrupt);
  const Lock lock = enter();
  std::map<std::uint64_t, RangeSet> begun;
  for (const auto& [serial, of_call] : numbers) {
    for (const std::uint64_t number : of_call) {
      if (const auto& answer = inquiries_.at(number)) {
        for (const Range& r : answer->ranges()) begun[serial].insert(r);
      }
    }
  }
  for (std::size_t i = 0; i < submissions.size(); ++i) {
    const SubmissionBlock& block = *submissions[i].block;
    const auto found = begun.find(block.stream->serial);
    result[i] = found != begun.end() && found->second.contains(block.first + submissions[i].place);
  }
  return result;
}

void Client::withdraw(const CallPtr& call) {
  const Lock lock = enter();
  drain();
  if (call->over || session_ != Session::kOpen || call->kind == CallState::Kind::kDirect) return;
  send({Inquire{call->serial, next_inquiry_++, {{0, kEndOfItems}}, true}, {}});
}

}  // namespace betterbox
