// The keys of a bus, and who may come in over the network (docs/protocol.md, section "Keys").
//
// A bus has one key pair, made with it and known to all its peers and nobody else: the bus file carries it. Who listens
// is a CURVE server with that pair; who connects names its public half as the server's and proves to hold the secret
// one. So both ends know that the other one belongs to this bus, and nobody else can read or change what is said.
#pragma once

#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "runtime/bus_file.h"

namespace betterbox {

/// New keys. Throws std::runtime_error if this ZeroMQ has no CURVE.
BusKeys make_bus_keys();
/// Throws std::runtime_error if the keys are no pair, or not those of the scheduler that `bus` names. `path`: its file.
void check_bus_keys(const BusInfo& bus, const std::string& path);

/// The keys of the bus as they are now; nothing: there are none.
using KeySource = std::function<std::optional<BusKeys>()>;
/// Those in a bus file, which throws as check_bus_keys() does. `path` empty: none.
KeySource keys_in(const std::string& path);

/// Makes a socket a CURVE server or client under `keys`. Throws std::runtime_error.
void guard_server(void* socket, const BusKeys& keys);
void guard_client(void* socket, const BusKeys& keys);
/// Before it binds or connects to an endpoint with an IPv6 address. (An IPv4 address would be told in its IPv6 form.)
void allow_ipv6(void* socket, const std::string& endpoint);
/// Binds a socket. Throws std::runtime_error, which says what to do about a port that is taken.
void listen_at(void* socket, const std::string& endpoint);
/// Where a socket listens, with its port.
std::string bound_endpoint(void* socket);

/// Answers the servers of one context whether a peer may come in (ZeroMQ RFC 27): only with the bus's key. A thread
/// of its own, which ends when the context does.
class ZmqGate {
 public:
  /// Throws std::runtime_error if the context has no room for it.
  ZmqGate(void* context, const BusKeys& keys);
  /// REQUIRES: the context is ending or has ended.
  ~ZmqGate();
  ZmqGate(const ZmqGate&) = delete;
  ZmqGate& operator=(const ZmqGate&) = delete;

  /// From now on these keys, and no others.
  void admit(const BusKeys& keys);

 private:
  void* socket_;
  std::mutex mutex_;
  std::string key_;  ///< the 32 bytes of the public key; guarded by mutex_
  std::thread thread_;
  void answer();
};

}  // namespace betterbox
