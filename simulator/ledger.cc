#include "simulator/ledger.h"

#include <cstring>

namespace betterbox::sim {
namespace {

std::string name_of(CallId call, std::uint64_t item) {
  return "item " + std::to_string(item) + " of call " + std::to_string(call.serial) + " of client " +
         std::to_string(call.client.value);
}

}  // namespace

std::uint64_t Ledger::executed(CallId call, std::uint64_t item, PeerId agent, std::uint32_t slot,
                               std::int64_t start, std::int64_t end) {
  std::int64_t& free_at = slot_free_at_[{agent, slot}];
  if (start < free_at)
    throw Violation("one-item-at-a-time", "slot " + std::to_string(slot) + " of agent " +
                                              std::to_string(agent.value) + " began " + name_of(call, item) +
                                              " before its last one ended");
  free_at = end;
  if (++times_run_[{call, item}] == 2) ++run_twice_;
  runs_.push_back({call, item});
  return runs_.size();
}

Frame Ledger::page(std::uint64_t first, std::uint32_t count) {
  PageBuilder builder;
  for (std::uint64_t number = first; number < first + count; ++number) {
    std::byte item[9] = {static_cast<std::byte>(ItemTag::kInt)};
    std::memcpy(item + 1, &number, sizeof number);
    builder.add(item);
  }
  return builder.finish();
}

Ledger::Run& Ledger::run(std::uint64_t number) {
  if (number == 0 || number > runs_.size())
    throw Violation("exactly-once", "an outcome of no execution: " + std::to_string(number));
  return runs_[number - 1];
}

std::uint64_t Ledger::number_of(const Frame& page, std::uint64_t place, LostCode& lost) {
  const auto view = PageView::parse(page.bytes());
  if (!view || view->kind() == PageKind::kIntRange || view->count() == 0)
    throw Violation("exactly-once", "results that are no page of outcomes");
  if (view->count() > 1 && place >= view->count())
    throw Violation("exactly-once", "results with fewer outcomes than their span says");
  const ItemBytes item = view->item(view->count() == 1 ? 0 : place);
  if (const auto made = parse_lost_item(item)) {
    lost = made->code;
    return 0;
  }
  if (item.size() != 9) throw Violation("exactly-once", "an outcome that nobody produced");
  std::uint64_t number = 0;
  std::memcpy(&number, item.data() + 1, sizeof number);
  return number;
}

void Ledger::scheduler_began() {
  ++incarnation_;
  held_.clear();
}

void Ledger::lease_sent(PeerId agent, const Lease& lease) {
  held_[lease.lease] = {agent, lease.call, RangeSet(lease.range)};
}

void Ledger::agent_greets(PeerId agent, const std::vector<HeldLease>& held) {
  std::map<LeaseId, RangeSet> named;
  for (const HeldLease& lease : held) {
    for (const Range& r : lease.undelivered) named[lease.lease].insert(r);
  }
  for (auto& [id, lease] : held_) {
    if (lease.agent != agent) continue;
    for (const Range& r : lease.items.ranges()) {
      for (const Range& gone : named[id].missing(r)) lease.items.erase(gone);
    }
  }
}

void Ledger::agent_gone(PeerId agent) {
  std::erase_if(held_, [agent](const auto& lease) { return lease.second.agent == agent; });
}

void Ledger::released(PeerId agent, const Released& released) {
  const auto at = held_.find(released.lease);
  if (at == held_.end() || at->second.agent != agent) return;
  for (const Range& r : released.ranges) at->second.items.erase(r);
}

void Ledger::abandoned(const Abandon& abandon) {
  if (const auto at = held_.find(abandon.lease); at != held_.end()) at->second.items.erase(abandon.range);
}

void Ledger::call_dropped(CallId call) {
  std::erase_if(held_, [call](const auto& lease) { return lease.second.call == call; });
}

void Ledger::outcomes_arrived(PeerId agent, const Outcomes& outcomes, const Frames& frames) {
  const auto at = held_.find(outcomes.lease);
  Held* lease = at == held_.end() || at->second.agent != agent ? nullptr : &at->second;
  for (std::size_t i = 0; i < outcomes.spans.size(); ++i) {
    const OutcomeSpan& span = outcomes.spans[i];
    for (std::uint64_t k = 0; k < span.count; ++k) {
      LostCode lost{};
      Run& reported = run(number_of(frames[i], k, lost));
      if (reported.reported_to == incarnation_) continue;  // sent again
      reported.reported_to = incarnation_;
      reported.held = lease != nullptr && lease->call == reported.call && span.first + k == reported.item &&
                      lease->items.contains(reported.item);
    }
  }
  if (lease == nullptr) return;
  for (const LostItem& lost : outcomes.lost) lease->items.erase({lost.index, lost.index + 1});
}

void Ledger::results_leave(PeerId client, const Results& results, const Frames& frames) {
  for (std::size_t i = 0; i < results.spans.size(); ++i) {
    const PageSpan& span = results.spans[i];
    for (std::uint64_t k = 0; k < span.count; ++k) {
      LostCode lost{};
      const std::uint64_t number = number_of(frames[i], k, lost);
      if (number == 0) continue;
      Run& delivered = run(number);
      if (delivered.call != CallId{client, results.serial} || delivered.item != span.first + k)
        throw Violation("exactly-once", "the outcome of " + name_of(delivered.call, delivered.item) +
                                            " went out as " +
                                            name_of({client, results.serial}, span.first + k));
      if (delivered.approved) continue;
      if (delivered.reported_to != incarnation_ || !delivered.held)
        throw Violation("stale-attempts", "the outcome of a lease that had lost " +
                                              name_of(delivered.call, delivered.item) +
                                              " went to the client");
      delivered.approved = true;
    }
  }
}

}  // namespace betterbox::sim
