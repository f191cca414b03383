// A modelled client for fault runs: what runtime/client.cc and client_calls.cc do about sessions, calls and results, with
// checks of everything that a client may rely on.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <vector>

#include "runtime/messages.h"
#include "runtime/range.h"
#include "simulator/ledger.h"
#include "simulator/random.h"

namespace betterbox::sim {

/// What a call runs: most calls of a client share it, so that agents are not sent it again.
Frame context_of(CallId call);

class FaultClient {
 public:
  using Say = std::function<void(Message&&)>;
  struct Shape {
    std::uint64_t calls = 2;
    std::uint64_t items = 60;  ///< of each call, at most
  };

  FaultClient(PeerId peer, std::uint32_t number, const Shape& shape, Random& random)
      : peer_(peer), number_(number), shape_(shape), random_(random) {}

  PeerId peer() const { return peer_; }
  Hello hello(std::uint64_t session) const;
  /// The session is open: calls are reconciled.
  void welcomed(const Welcome& welcome, const Say& say);
  void disconnected() { open_ = false; }
  void receive(Message&& message, const Say& say);
  /// Something to do now and then: a call opened, extended, closed, cancelled or forgotten.
  void step(const Say& say);
  /// Faults are over: nothing new begins, what is open is closed.
  void settle_down(const Say& say);
  /// Every call has been settled, and each item has its outcome.
  bool done() const;
  /// Forgets everything.
  void forget_all(const Say& say);
  /// Calls that the scheduler said it keeps, and their items.
  std::map<std::uint64_t, std::uint64_t> accepted() const;

  std::uint64_t repeated_results() const { return repeated_; }
  std::uint64_t items_delivered() const { return delivered_; }
  std::uint64_t items_lost() const { return lost_; }
  std::uint64_t items_copied() const { return copied_; }
  std::string unsettled() const;

 private:
  struct Open {
    Call opening;
    std::uint64_t planned = 0;  ///< items that it will have
    std::uint64_t known = 0;    ///< ... has so far
    std::uint64_t sent = 0;
    bool closed = false, close_sent = false;
    bool settled = false;
    bool tells_costs = false;
    RangeSet delivered, cancelled;
    std::vector<std::uint64_t> outcomes;  ///< execution numbers; 0: lost, or none yet
    std::uint64_t accepted_items = 0;
    bool accepted = false;
  };
  void open_call(const Say& say);
  void send_items(std::uint64_t serial, Open& call, const Say& say);
  void on_results(const Results& results, const Frames& frames, const Say& say);
  void on_settled(const Settled& settled);
  void take(Open& call, const PageSpan& span, const Frame& page);

  const PeerId peer_;
  const std::uint32_t number_;
  const Shape shape_;
  Random& random_;
  bool open_ = false, settling_ = false;
  std::map<std::uint64_t, Open> calls_;
  std::uint64_t serials_ = 0;
  std::uint64_t ack_ = 0;
  bool unacknowledged_ = false;
  std::uint64_t repeated_ = 0, delivered_ = 0, lost_ = 0, copied_ = 0;
};

}  // namespace betterbox::sim
