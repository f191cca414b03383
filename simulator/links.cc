#include "simulator/links.h"

#include <algorithm>

#include "simulator/units.h"

namespace betterbox::sim {

void FaultCounts::add(const FaultCounts& other) {
  loss += other.loss;
  messages_lost += other.messages_lost;
  delay += other.delay;
  reorder += other.reorder;
  late += other.late;
  duplication += other.duplication;
  partition += other.partition;
  leave += other.leave;
  crash_slot += other.crash_slot;
  crash_worker += other.crash_worker;
  crash_client += other.crash_client;
  crash_scheduler += other.crash_scheduler;
  crash_before_commit += other.crash_before_commit;
  crash_after_commit += other.crash_after_commit;
  restart_worker += other.restart_worker;
  restart_client += other.restart_client;
  restart_scheduler += other.restart_scheduler;
}

std::int64_t Links::travel_time() {
  if (!faulty) return 100 * kUs;
  if (random_.chance(0.02)) {
    ++counts_.delay;
    return 5 * kMs + static_cast<std::int64_t>(random_.below(800 * kMs));
  }
  return 50 * kUs + static_cast<std::int64_t>(random_.exponential() * 150 * kUs);
}

/// docs/protocol.md, section "Duplicates": kinds whose second copy has no effect.
bool Links::may_come_twice(const Body& body) const {
  return std::holds_alternative<Outcomes>(body) || std::holds_alternative<Results>(body) ||
         std::holds_alternative<Acknowledge>(body) || std::holds_alternative<Abandon>(body) ||
         std::holds_alternative<Released>(body) || std::holds_alternative<Forget>(body) ||
         std::holds_alternative<Settled>(body) || std::holds_alternative<Accepted>(body) ||
         std::holds_alternative<Cancel>(body) || std::holds_alternative<DropCall>(body) ||
         std::holds_alternative<Context>(body) || std::holds_alternative<Lease>(body) ||
         std::holds_alternative<Revoke>(body) || std::holds_alternative<Offer>(body) ||
         std::holds_alternative<Load>(body) || std::holds_alternative<Explain>(body) ||
         std::holds_alternative<Inquire>(body) || std::holds_alternative<Begun>(body);
}

void Links::put(std::uint64_t link, std::int64_t at, Message&& message, bool up) {
  Link& l = links_[link];
  std::int64_t& last = up ? l.up_last : l.down_last;
  at = std::max({at, last, l.held_until});
  last = at;
  (up ? l.up : l.down).push_back({at, ++sent_, std::move(message)});
  agenda_.add(at, up ? Doing::kToScheduler : Doing::kToPeer, link);
}

void Links::send(std::int64_t now, std::uint64_t link, Message&& message, bool up) {
  Link& l = links_[link];
  if (l.broken || !(up ? l.peer_open : l.scheduler_open)) {
    ++counts_.messages_lost;
    return;
  }
  const std::int64_t at = now + travel_time();
  const bool twice = faulty && may_come_twice(message.body) && random_.chance(0.03);
  if (twice) {
    ++counts_.duplication;
    put(link, at, Message(message), up);
  }
  put(link, at, std::move(message), up);
}

bool Links::arrive(std::int64_t now, std::uint64_t link, bool up, Message& message) {
  auto& queue = up ? links_[link].up : links_[link].down;
  if (queue.empty()) return false;
  if (queue.front().at > now) {  // the connection was held up meanwhile: another event comes for it
    return false;
  }
  message = std::move(queue.front().message);
  if (up) {
    if (queue.front().order < newest_up_) ++counts_.reorder;
    newest_up_ = std::max(newest_up_, queue.front().order);
  }
  queue.pop_front();
  return true;
}

void Links::break_link(std::int64_t now, std::uint64_t link, std::int64_t notice) {
  Link& l = links_[link];
  if (l.broken) return;
  l.broken = true;
  ++counts_.loss;
  for (auto* queue : {&l.up, &l.down}) {
    if (queue->empty()) continue;
    const std::uint64_t kept = random_.below(queue->size() + 1);
    counts_.messages_lost += queue->size() - kept;
    queue->resize(kept);
  }
  const std::int64_t last_up = l.up.empty() ? now : l.up.back().at;
  const std::int64_t last_down = l.down.empty() ? now : l.down.back().at;
  auto later = [&](std::int64_t at) {
    return at + 1 + static_cast<std::int64_t>(random_.below(static_cast<std::uint64_t>(notice) + 1));
  };
  agenda_.add(later(std::max(now, last_up)), Doing::kSchedulerSeesEnd, link);
  agenda_.add(later(std::max(now, last_down)), Doing::kPeerSeesEnd, link);
}

void Links::hold(std::uint64_t link, std::int64_t until) {
  Link& l = links_[link];
  l.held_until = std::max(l.held_until, until);
  for (const bool up : {true, false}) {
    auto& queue = up ? l.up : l.down;
    std::int64_t& last = up ? l.up_last : l.down_last;
    for (auto& under_way : queue) {
      under_way.at = std::max(under_way.at, l.held_until);
      last = std::max(last, under_way.at);
      agenda_.add(under_way.at, up ? Doing::kToScheduler : Doing::kToPeer, link);
    }
  }
}

}  // namespace betterbox::sim
