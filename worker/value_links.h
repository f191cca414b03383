// ValueLinks: an agent's direct connections to the agents that give it values (docs/protocol.md, section "Values between
// stores"). Where one cannot be made within kDirectLinkWait, the scheduler passes the messages on. One thread.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "runtime/limits.h"
#include "runtime/messages.h"
#include "runtime/time.h"
#include "runtime/transport.h"

namespace betterbox {

/// A source of values that cannot be reached directly within this time is reached through the scheduler.
inline constexpr Duration kDirectLinkWait = seconds(1);
/// A direct connection to a source stays for so long after its last use.
inline constexpr Duration kIdleLinkLife = seconds(5);

class ValueLinks {
 public:
  struct Users {
    std::function<Hello()> hello;                            ///< to begin a connection with
    std::function<void(Message&&)> relay;                    ///< to the scheduler
    std::function<void(const Chunk&, const Frames&)> chunk;  ///< that came
    std::function<void(PeerId)> lost;                        ///< a source, with what was under way
  };
  ValueLinks(Transport& transport, Users users) : transport_(transport), users_(std::move(users)) {}

  /// To `fetch.peer`, which listens at `endpoint`; empty: it does not.
  void send(TimePoint now, const std::string& endpoint, const Fetch& fetch);
  /// Result: false if the connection is not one of these.
  bool take(TimePoint now, TransportEvent& event);
  TimePoint next_deadline() const;
  /// Links that nobody answers are given up, those that nobody needs are closed.
  void on_deadline(TimePoint now);

 private:
  struct Link {
    ConnectionId connection;
    PeerId peer;
    bool ready = false;
    bool relayed = false;  ///< it could not be made
    TimePoint deadline;
    std::vector<Fetch> waiting;
  };
  using LinkAt = std::map<std::string, Link>::iterator;
  void give_up(TimePoint now, LinkAt at);

  Transport& transport_;
  const Users users_;
  std::map<std::string, Link> links_;
  std::map<ConnectionId, std::string> endpoints_;
};

}  // namespace betterbox
