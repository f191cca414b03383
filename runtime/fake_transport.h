// A Transport inside one process, for tests: connections by name, no sockets, same guarantees as the real
// ones.
//
//   FakeNetwork net;
//   auto server = net.make_transport(), client = net.make_transport();
//   server->listen("here");
//   const ConnectionId to_server = client->connect("here");
//
// Thread safety: transports of one network may be used by different threads. The network outlives them or
// not, as
// they like.
#pragma once

#include <memory>
#include <string>

#include "runtime/transport.h"

namespace betterbox {

class FakeNetwork {
 public:
  FakeNetwork();
  ~FakeNetwork();

  std::unique_ptr<Transport> make_transport();

  /// Cuts a connection as if the wire broke: what was not received yet is lost, both sides see kClosed.
  /// `at` is the transport that knows the connection by `connection`.
  void cut(Transport& at, ConnectionId connection);

  /// The other side of the connection gets what is no message: `at` sees it end, malformed.
  void garble(Transport& at, ConnectionId connection);

 private:
  friend class FakeTransport;
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace betterbox
