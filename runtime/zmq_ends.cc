// ZmqTransport: how connections end.
//
// How the ROUTER learns that a connection is over. libzmq tells ends through the socket's monitor, by
// descriptor
// number; messages name their connection by routing id. The first message of a routing id says its
// descriptor (ZMQ_SRCFD), which ties the two together. Two traps:
//  - A disconnect may be told before the last messages were read. So everything that has arrived is read
//    before an end is acted upon, and kClosed comes behind it.
//  - Descriptor numbers are used again. So the connections of each number are counted (`Descriptor`), and
//    the news are read when a routing id is first seen: its acceptance is among them then. If meanwhile an
//    earlier connection of the same number ended without our having seen its routing id, the message may be
//    that one's: such a connection is in doubt, and is probed (a mark that receivers ignore) each time the
//    socket runs dry; ROUTER_MANDATORY refuses a mark to who is gone.
#include <sys/types.h>
#include <zmq.h>

#include <cstring>
#include <utility>

#include "runtime/check.h"
#include "runtime/zmq_frames.h"
#include "runtime/zmq_sockets.h"

namespace betterbox {
namespace {

const char* describe(int event) {
  switch (event) {
    case ZMQ_EVENT_DISCONNECTED: return "the peer is gone";
    case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL:
    case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:
      return "the peer did not answer the greeting; over the network that is what other keys get: this bus "
             "file may "
             "be a copy from before its scheduler was started";
    case ZMQ_EVENT_HANDSHAKE_FAILED_AUTH: return "the peer does not accept this bus's key";
    default: return "nobody listens there";
  }
}

}  // namespace

/// Queues kClosed behind what has arrived.
void ZmqTransport::end(Connection& connection, const std::string& reason, bool malformed) {
  if (connection.over) return;
  if (!malformed) read_rest(connection);
  drop_link(connection);
  if (std::exchange(connection.over, true)) return;
  if (malformed) ++malformed_;
  TransportEvent event;
  event.kind = TransportEvent::kClosed;
  event.connection = connection.id;
  event.reason = reason;
  event.malformed = malformed;
  events_.push_back(std::move(event));
}

/// The ROUTER serves this routing id no longer.
void ZmqTransport::let_go(Connection& connection) {
  end(connection, describe(ZMQ_EVENT_DISCONNECTED), false);
  drop_link(connection);
  connection.probes_left = 0;
  connection.router->by_routing_id.erase(connection.routing_id);
}

/// Result: true if there were news.
bool ZmqTransport::read_news(Socket& socket) {
  bool any = false;
  ZmqMessage part;
  while (receive_part(socket.monitor, &part.raw)) {
    any = true;
    const auto bytes = part.bytes();
    std::uint16_t event = 0;
    std::int32_t value = 0;
    BB_CHECK(bytes.size() == sizeof event + sizeof value);
    std::memcpy(&event, bytes.data(), sizeof event);
    std::memcpy(&value, bytes.data() + sizeof event, sizeof value);
    while (zmq_msg_more(&part.raw) != 0 && receive_part(socket.monitor, &part.raw)) {}
    if (socket.router != nullptr) {
      Descriptor& descriptor = socket.router->descriptors[value];
      if (event == ZMQ_EVENT_ACCEPTED) {
        descriptor.ended = descriptor.accepted++;
        silent_.push_back({socket.router, value, inode_of(value), descriptor.accepted, monotonic_now()});
        start_clock();
      } else if (event == ZMQ_EVENT_DISCONNECTED) {
        descriptor.ended = descriptor.accepted;
      } else {
        continue;
      }
    }
    socket.news.push_back({event, value});
  }
  socket.has_news = false;
  return any;
}

/// The socket is dry: acts on what its monitor told.
void ZmqTransport::settle(Socket& socket) {
  if (socket.has_news) read_news(socket);
  if (socket.router != nullptr) {
    if (!socket.news.empty()) settle_router(*socket.router);
    if (!settle_doubts(*socket.router)) mark_ready(socket);
  } else if (!socket.news.empty()) {
    settle_dealer(socket);
  }
}

void ZmqTransport::settle_dealer(Socket& socket) {
  const ConnectionPtr connection = connections_.at(socket.connection->id.value);
  const News news = socket.news.front();
  const Reading reading = read_all(socket);
  if (reading == Reading::kMessage) mark_ready(socket);
  if (reading != Reading::kDry) return;
  end(*connection, describe(news.event), false);
  shut_socket(std::move(connection->dealer), 0);
}

void ZmqTransport::settle_router(Router& router) {
  Socket& socket = *router.socket;
  do {
    if (read_all(socket) == Reading::kMessage) return mark_ready(socket);
  } while (read_news(socket));
  for (const News& news : std::exchange(socket.news, {})) {
    Descriptor& descriptor = router.descriptors[news.value];
    descriptor.settled = descriptor.ended;
    const auto [begin, end] = router.by_descriptor.equal_range(news.value);
    for (auto at = begin; at != end;) {
      if (at->second->generation > descriptor.settled) {
        ++at;
        continue;
      }
      const ConnectionPtr connection = at->second;
      at = router.by_descriptor.erase(at);
      let_go(*connection);
    }
  }
}

/// Result: false if there was more to read before.
bool ZmqTransport::settle_doubts(Router& router) {
  if (router.doubts.empty()) return true;
  if (read_all(*router.socket) == Reading::kMessage) return false;
  for (const ConnectionPtr& connection : std::exchange(router.doubts, {})) {
    if (connection->probes_left == 0) continue;
    --connection->probes_left;
    if (send_mark(*connection, kProbeMark)) {
      router.doubts.push_back(connection);
      continue;
    }
    std::erase_if(router.by_descriptor, [&](const auto& entry) { return entry.second == connection; });
    let_go(*connection);
  }
  return true;
}

}  // namespace betterbox
