// The faulty network between the peers and the scheduler. A connection keeps the transport's promise (runtime/transport.h):
// first in, first out, no gaps; where something is lost, all behind it is lost too, and the connection ends. Different
// connections overtake each other.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <queue>
#include <set>
#include <string>
#include <vector>

#include "runtime/messages.h"
#include "simulator/random.h"

namespace betterbox::sim {

/// Faults by kind, as they happened.
struct FaultCounts {
  std::uint64_t loss = 0;  ///< connections broken; what was under way was cut at a random point
  std::uint64_t messages_lost = 0;
  std::uint64_t delay = 0;    ///< messages held back for much longer than usual
  std::uint64_t reorder = 0;  ///< messages that arrived before one of another connection sent earlier
  std::uint64_t late = 0;     ///< messages of a connection whose peer has opened another one or lost it
  std::uint64_t duplication = 0;
  std::uint64_t partition = 0;
  std::uint64_t leave = 0;  ///< workers that were asked to end
  std::uint64_t crash_slot = 0, crash_worker = 0, crash_client = 0, crash_scheduler = 0;
  std::uint64_t crash_before_commit = 0, crash_after_commit = 0;  ///< of these: in the middle of a turn
  std::uint64_t restart_worker = 0, restart_client = 0, restart_scheduler = 0;
  void add(const FaultCounts& other);
};

/// Where an event goes.
enum class Doing : std::uint8_t {
  kToScheduler,
  kToPeer,
  kSchedulerSeesEnd,
  kPeerSeesEnd,
  kGreetingTimeout,
  kReconnect,
  kRestartPeer,
  kRestartScheduler,
  kProcessEnded,
  kClientStep,
  kFault,
};

struct Happening {
  std::int64_t at = 0;
  std::uint64_t order = 0;
  Doing doing{};
  std::uint64_t a = 0, b = 0;
  bool operator>(const Happening& other) const {
    return at > other.at || (at == other.at && order > other.order);
  }
};

class Agenda {
 public:
  void add(std::int64_t at, Doing doing, std::uint64_t a = 0, std::uint64_t b = 0) {
    queue_.push({at, ++order_, doing, a, b});
  }
  bool empty() const { return queue_.empty(); }
  const Happening& next() const { return queue_.top(); }
  void pop() { queue_.pop(); }

 private:
  std::priority_queue<Happening, std::vector<Happening>, std::greater<>> queue_;
  std::uint64_t order_ = 0;
};

/// One connection of one process of a peer to one incarnation of the scheduler.
struct Link {
  std::uint32_t peer = 0;       ///< its place in the world, not its id
  std::uint32_t peer_life = 0;  ///< of the process
  PeerId peer_id;
  std::uint32_t scheduler_life = 0;
  bool peer_open = true;       ///< the peer's end
  bool scheduler_open = true;  ///< the scheduler's end: false: it asked for the end, or saw it
  bool broken = false;
  std::int64_t held_until = 0;  ///< nothing arrives before
  struct UnderWay {
    std::int64_t at = 0;
    std::uint64_t order = 0;
    Message message;
  };
  std::deque<UnderWay> up, down;
  std::int64_t up_last = 0, down_last = 0;
};

class Links {
 public:
  Links(Agenda& agenda, Random& random, FaultCounts& counts)
      : agenda_(agenda), random_(random), counts_(counts) {}

  /// While false, messages take the usual time and none comes twice.
  bool faulty = true;

  std::uint64_t open(std::uint32_t peer, std::uint32_t peer_life, PeerId id, std::uint32_t scheduler_life) {
    links_.push_back({peer, peer_life, id, scheduler_life});
    return links_.size() - 1;
  }
  Link& at(std::uint64_t link) { return links_[link]; }
  std::uint64_t count() const { return links_.size(); }

  void send_up(std::int64_t now, std::uint64_t link, Message&& message) {
    send(now, link, std::move(message), true);
  }
  void send_down(std::int64_t now, std::uint64_t link, Message&& message) {
    send(now, link, std::move(message), false);
  }
  /// The message due now. Result: false if it was lost meanwhile.
  bool arrive(std::int64_t now, std::uint64_t link, bool up, Message& message);
  /// It breaks: of what is under way, in each direction, some first part still arrives. Both ends see it at
  /// their time, at most `notice` later.
  void break_link(std::int64_t now, std::uint64_t link, std::int64_t notice);
  /// Nothing arrives before `until`, in order then.
  void hold(std::uint64_t link, std::int64_t until);

 private:
  void send(std::int64_t now, std::uint64_t link, Message&& message, bool up);
  void put(std::uint64_t link, std::int64_t at, Message&& message, bool up);
  std::int64_t travel_time();
  bool may_come_twice(const Body& body) const;

  Agenda& agenda_;
  Random& random_;
  FaultCounts& counts_;
  std::deque<Link> links_;
  std::uint64_t sent_ = 0, newest_up_ = 0;
};

}  // namespace betterbox::sim
