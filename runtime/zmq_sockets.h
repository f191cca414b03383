// The parts of a ZmqTransport, for its own files only.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "runtime/unsent.h"
#include "runtime/zmq_transport.h"

namespace betterbox {

/// Marks: messages of the carrier itself, one frame, shorter than a header.
inline constexpr std::size_t kEndMark = 0;                   ///< the sender has closed this connection
inline constexpr std::size_t kProbeMark = 1;                 ///< ignored
inline constexpr std::size_t kLinkMark = sizeof(LinkToken);  ///< the token of the sender's link
inline constexpr int kLingerMs = 1000;
inline constexpr std::uint64_t kClock = ~std::uint64_t{0};  ///< the tag of the clock among the links

struct News {
  int event = 0;
  int value = 0;
};

struct ZmqTransport::Socket {
  void* zmq = nullptr;
  void* monitor = nullptr;
  Connection* connection = nullptr;  // DEALER only
  Router* router = nullptr;          // ROUTER only
  bool queued = false;               // in ready_
  bool has_news = true;              // its monitor may have some
  std::vector<News> news;            // read, not acted upon
};

/// What came from a connection that is not read from.
struct ZmqTransport::Held {
  std::deque<TransportEvent> events;
  std::size_t bytes = 0;
  ConnectionId behind;      // it waits for this one to drain
  TimePoint moved_at;       // its peer took something
  std::uint64_t taken = 0;  // of its bytes, then
};

struct ZmqTransport::Connection {
  ConnectionId id;
  std::unique_ptr<Socket> dealer;
  Router* router = nullptr;  // null for a DEALER
  std::string routing_id;    // of the ROUTER
  int descriptor = -1;
  std::uint64_t inode = 0;       // of the socket that this descriptor was
  std::uint64_t generation = 0;  // which of its descriptor's connections it is
  int probes_left = 0;
  bool over = false;  // nothing is sent or delivered any more
  std::unique_ptr<DirectLink> link;
  bool unflushed = false;     // in unflushed_
  bool wants_room = false;    // its link is watched for room
  bool expects_link = false;  // in expecting_
  TimePoint since;            // of the ROUTER: when it was first seen, or began to expect its link

  // Of a DEALER: until something has come over its link the listener may still refuse that; then all goes over ZeroMQ.
  bool tentative = false;
  std::vector<Frames> unconfirmed;

  // Of a ROUTER.
  bool spoke = false;              // a message has come
  std::shared_ptr<Unsent> unsent;  // inside libzmq
  std::unique_ptr<Held> held;      // it is not read from
};

/// How often a ROUTER used one descriptor number.
struct ZmqTransport::Descriptor {
  std::uint64_t accepted = 0;  // connections told by the monitor
  std::uint64_t ended = 0;     // ends told
  std::uint64_t settled = 0;   // ends acted upon
};

/// Those who connected to one listening socket.
struct ZmqTransport::Router {
  std::unique_ptr<Socket> socket;
  BusKeys keys;                                                  // of the network's
  std::unordered_map<std::string, ConnectionPtr> by_routing_id;  // those that it still serves
  std::unordered_multimap<int, ConnectionPtr> by_descriptor;     // the same
  std::unordered_map<int, Descriptor> descriptors;
  std::vector<ConnectionPtr> doubts;
};

/// Where links and connections of this host come in.
struct ZmqTransport::Door {
  std::string path;  // of ZeroMQ's socket; the link's lies beside it
  FileId socket, link;
  int links = -1;  // listens for them; -1: there are none
};

/// Which file a name or a descriptor stands for. Result: {0, 0} for none.
ZmqTransport::FileId file_at(const std::string& path);
/// Of an open socket; 0: it is none.
std::uint64_t inode_of(int fd);

}  // namespace betterbox
