// What tests of the client share: a scheduler and agents that threads play on an in-memory network.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/client.h"
#include "runtime/fake_transport.h"
#include "runtime/page.h"

namespace betterbox {

inline const TimePoint kSoon = monotonic_now() + seconds(60);

inline std::string int_item(std::int64_t value) {
  std::string item(1, static_cast<char>(ItemTag::kInt));
  item.append(reinterpret_cast<const char*>(&value), sizeof value);
  return item;
}

inline ItemBytes bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

inline EncodedItems int_items(std::int64_t begin, std::int64_t end) {
  EncodedItems items;
  PageBuilder page;
  for (std::int64_t i = begin; i < end; ++i) page.add(bytes(int_item(i)));
  items.count = static_cast<std::uint64_t>(end - begin);
  if (!page.empty()) items.pages.push_back({page.finish(), items.count});
  return items;
}

/// Plays a peer at a name of the network: answers messages on a thread of its own until destroyed.
class PlayedPeer {
 public:
  using Answer = std::function<void(PlayedPeer&, ConnectionId, Message&)>;

  PlayedPeer(FakeNetwork& network, const std::string& name, Answer answer)
      : transport_(network.make_transport()), answer_(std::move(answer)) {
    transport_->listen(name);
    thread_ = std::thread([this] { run(); });
  }
  ~PlayedPeer() {
    ending_ = true;
    thread_.join();
  }
  void send(ConnectionId to, Message message) { transport_->send(to, message); }
  void close(ConnectionId connection) { transport_->close(connection); }

 private:
  void run() {
    while (!ending_) {
      while (auto event = transport_->receive()) {
        if (event->kind == TransportEvent::kMessage) answer_(*this, event->connection, event->message);
      }
      std::vector<pollfd> fds;
      for (const int fd : transport_->wait_fds()) fds.push_back({fd, POLLIN, 0});
      ::poll(fds.data(), fds.size(), 10);
    }
  }

  std::unique_ptr<Transport> transport_;
  Answer answer_;
  std::atomic<bool> ending_{false};
  std::thread thread_;
};

/// A scheduler that runs every item itself: the outcome of an item is the item.
class EchoScheduler {
 public:
  void operator()(PlayedPeer& peer, ConnectionId from, Message& message) {
    if (auto* hello = std::get_if<Hello>(&message.body)) {
      connection_ = from;
      peer.send(from, {Welcome{id, hello->session, "here", 1, {}, {}, {}}, {}});
    } else if (auto* items = std::get_if<Items>(&message.body)) {
      if (!items->spans.empty()) {
        peer.send(from, {Results{++ack_, items->serial, items->spans}, message.frames});
      }
      if (items->closed) peer.send(from, {Settled{items->serial, {}}, {}});
    } else if (std::get_if<Watch>(&message.body)) {
      peer.send(from, {boxes_, {}});
    } else if (std::get_if<Forget>(&message.body)) {
      ++forgotten;
    } else if (std::get_if<Status>(&message.body)) {
      peer.send(from, {StatusReport{}, {}});
    }
  }
  void add_box(PeerId agent, const std::string& endpoint, std::uint64_t joined) {
    BoxEntry entry;
    entry.info = {{agent, SeatId{0}, 1}, Port{80}, "ABox", false, {{"name", 0}}};
    entry.endpoint = endpoint;
    entry.joined = joined;
    boxes_.port = Port{80};
    boxes_.snapshot = true;
    boxes_.joined.push_back(entry);
  }
  std::atomic<int> forgotten{0};
  PeerId id{1};

 private:
  ConnectionId connection_;
  std::uint64_t ack_ = 0;
  Boxes boxes_;
};

inline PlayedPeer::Answer agent_named(PeerId id, std::int64_t answer) {
  return [id, answer](PlayedPeer& peer, ConnectionId from, Message& message) {
    if (auto* hello = std::get_if<Hello>(&message.body)) {
      peer.send(from, {Welcome{id, hello->session, "here", 1, {}, {}, {}}, {}});
    } else if (auto* call = std::get_if<BoxCall>(&message.body)) {
      if (call->method == "die") return peer.close(from);
      if (call->method == "sleep") return;
      peer.send(from, {BoxReply{call->serial}, {Frame(int_item(answer))}});
    }
  };
}

class ClientTest : public ::testing::Test {
 protected:
  std::unique_ptr<Client> connect() {
    Client::Options options;
    options.endpoint = "scheduler";
    options.peer = PeerId{77};
    return std::make_unique<Client>(network_.make_transport(), options);
  }
  std::int64_t int_outcome(Client& client, const CallPtr& call, std::uint64_t i) {
    return int_of(client.outcome(call, i, false));
  }
  static std::int64_t int_of(const std::optional<Outcome>& outcome) {
    std::int64_t value = -1;
    if (outcome && outcome->item.size() == 9) std::memcpy(&value, outcome->item.data() + 1, 8);
    return value;
  }
  LostCode lost_code(Client& client, const CallPtr& call, std::uint64_t i) {
    const auto outcome = client.outcome(call, i, false);
    const auto lost = outcome ? parse_lost_item(outcome->item) : std::nullopt;
    return lost ? lost->code : LostCode{};
  }

  FakeNetwork network_;
  EchoScheduler echo_;
};

}  // namespace betterbox
