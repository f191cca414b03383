// What a listener keeps for peers that do not read, or do not say who they are, has bounds.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <zmq.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "runtime/codec.h"
#include "runtime/limits.h"
#include "runtime/zmq_transport.h"
#include "tests/unit/runtime/transport_events.h"

namespace betterbox {
namespace {

constexpr std::size_t kAnswer = 1U << 20;

Message ask(std::uint64_t serial) { return {BoxCancel{serial}, {}}; }

/// A peer of ZeroMQ alone, which sends and never reads: there is no link beside its connection.
class Deaf {
 public:
  explicit Deaf(const std::string& endpoint) {
    const int zero = 0, one = 1;
    zmq_setsockopt(socket_, ZMQ_LINGER, &zero, sizeof zero);
    zmq_setsockopt(socket_, ZMQ_SNDHWM, &zero, sizeof zero);
    zmq_setsockopt(socket_, ZMQ_RCVHWM, &one, sizeof one);
    EXPECT_EQ(zmq_connect(socket_, endpoint.c_str()), 0);
  }
  ~Deaf() {
    zmq_close(socket_);
    zmq_ctx_term(context_);
  }
  void say(const Message& message) {
    const std::string bytes = encode(message);
    zmq_send(socket_, bytes.data(), bytes.size(), message.frames.empty() ? 0 : ZMQ_SNDMORE);
    if (!message.frames.empty()) zmq_send(socket_, message.frames[0].data(), message.frames[0].size(), 0);
  }

 private:
  void* context_ = zmq_ctx_new();
  void* socket_ = zmq_socket(context_, ZMQ_DEALER);
};

class ZmqBoundsTest : public ::testing::Test {
 protected:
  ZmqBoundsTest() {
    char path[] = "/tmp/bb-bound-XXXXXX";
    folder_ = ::mkdtemp(path);
    server_.listen(endpoint());
  }
  ~ZmqBoundsTest() override { std::filesystem::remove_all(folder_); }
  std::string path() const { return folder_ + "/s"; }
  std::string endpoint() const { return "ipc://" + path(); }

  /// Answers all that comes until somebody has too much unsent. Result: whose that is.
  ConnectionId answer_until_full() {
    for (;;) {
      const auto event = next_event(server_);
      if (!event || event->kind != TransportEvent::kMessage) return {};
      ++answered_;
      server_.send(event->connection, {BoxReply{answered_}, {answer_}});
      if (server_.unsent_bytes(event->connection) > kUnsentBytes) return event->connection;
    }
  }
  void expect_service() {
    ZmqTransport client;
    const ConnectionId to_server = client.connect(endpoint());
    client.send(to_server, ask(77));
    const auto event = next_event(server_);
    ASSERT_TRUE(event && event->kind == TransportEvent::kMessage);
    EXPECT_EQ(std::get<BoxCancel>(event->message.body).serial, 77U);
    server_.send(event->connection, ask(78));
    const auto answer = next_event(client);
    ASSERT_TRUE(answer && answer->kind == TransportEvent::kMessage);
    client.close(to_server);
    const auto end = next_event(server_);
    EXPECT_TRUE(end && end->kind == TransportEvent::kClosed && end->connection == event->connection);
  }

  std::string folder_;
  const Frame answer_{std::string(kAnswer, 'a')};
  std::uint64_t answered_ = 0;
  ZmqTransport server_;
};

TEST_F(ZmqBoundsTest, APeerThatDoesNotReadIsNotReadAndGoesOnWhenItDoes) {
  ZmqTransport client;
  const ConnectionId to_server = client.connect(endpoint());
  constexpr std::uint64_t kAsked = 200;
  for (std::uint64_t i = 1; i <= kAsked; ++i) client.send(to_server, ask(i));
  const ConnectionId full = answer_until_full();
  ASSERT_TRUE(full);
  EXPECT_LT(server_.unsent_bytes(full), kUnsentBytes + 2 * kAnswer);
  EXPECT_LT(answered_, kAsked);
  for (int i = 0; i < 100; ++i) EXPECT_FALSE(server_.receive());
  expect_service();
  EXPECT_EQ(server_.unsent_bytes(ConnectionId{999}), 0U);

  std::uint64_t read = 0, next = answered_;
  while (read < kAsked) {
    while (const auto event = client.receive()) {
      ASSERT_EQ(event->kind, TransportEvent::kMessage);
      EXPECT_EQ(std::get<BoxReply>(event->message.body).serial, ++read);
    }
    while (const auto event = server_.receive()) {
      ASSERT_EQ(event->kind, TransportEvent::kMessage);
      EXPECT_EQ(std::get<BoxCancel>(event->message.body).serial, ++next);
      server_.send(event->connection, {BoxReply{next}, {answer_}});
    }
  }
  EXPECT_EQ(next, kAsked);
}

TEST_F(ZmqBoundsTest, WithoutALinkWhatComesMeanwhileIsBoundedToo) {
  Deaf deaf(endpoint());
  for (int i = 0; i < 100; ++i) deaf.say(ask(1));
  const ConnectionId full = answer_until_full();
  ASSERT_TRUE(full);
  EXPECT_LT(server_.unsent_bytes(full), kUnsentBytes + 2 * kAnswer);
  expect_service();
  const Frame large(std::string(4U << 20, 'x'));
  for (std::size_t sent = 0; sent <= kMaxHeldBytes; sent += large.size()) deaf.say({BoxReply{1}, {large}});
  const auto event = next_event(server_);
  ASSERT_TRUE(event);
  EXPECT_EQ(event->kind, TransportEvent::kClosed);
  EXPECT_EQ(event->connection, full);
  EXPECT_FALSE(event->malformed);
  EXPECT_FALSE(server_.send(full, ask(1)));
  expect_service();
}

TEST_F(ZmqBoundsTest, AHeldPeerThatLeavesIsSeenToLeaveBehindWhatItSent) {
  auto deaf = std::make_unique<Deaf>(endpoint());
  for (int i = 0; i < 40; ++i) deaf->say(ask(1));
  const ConnectionId full = answer_until_full();
  ASSERT_TRUE(full);
  deaf.reset();
  std::uint64_t rest = 0;
  for (;;) {
    const auto event = next_event(server_);
    ASSERT_TRUE(event);
    EXPECT_EQ(event->connection, full);
    if (event->kind == TransportEvent::kClosed) break;
    ++rest;
  }
  EXPECT_EQ(answered_ + rest, 40U);
}

TEST_F(ZmqBoundsTest, WhoSendsForAPeerThatDoesNotReadWaitsForIt) {
  ZmqTransport reader, sender;
  const ConnectionId reads = reader.connect(endpoint()), sends = sender.connect(endpoint());
  reader.send(reads, ask(1));
  const auto first = next_event(server_);
  ASSERT_TRUE(first);
  sender.send(sends, ask(2));
  const auto second = next_event(server_);
  ASSERT_TRUE(second);
  while (server_.unsent_bytes(first->connection) <= kUnsentBytes)
    server_.send(first->connection, {BoxReply{1}, {answer_}});
  server_.hold_until_drained(second->connection, first->connection);
  sender.send(sends, ask(3));
  for (int i = 0; i < 100; ++i) EXPECT_FALSE(server_.receive());
  std::optional<TransportEvent> third;
  while (!third) {
    while (reader.receive()) {}
    third = server_.receive();
  }
  EXPECT_EQ(third->connection, second->connection);
}

TEST_F(ZmqBoundsTest, ALinkThatIsRefusedLeavesItsConnection) {
  // Somebody else listens where links are made, and hangs up.
  const std::string door = link_path_of(path());
  ASSERT_EQ(::unlink(door.c_str()), 0);
  const int listener = listen_for_links(path());
  ASSERT_GE(listener, 0);
  ZmqTransport client;
  const ConnectionId to_server = client.connect(endpoint());
  const Frame large(std::string(100'000, 'x'));
  for (std::uint64_t i = 1; i <= 20; ++i) client.send(to_server, {BoxReply{i}, {large}});
  int link = -1;
  ASSERT_EQ(accept_link(listener, link), Caller::kOurs);
  ::close(link);
  std::thread other([&] {
    const auto answer = next_event(client);
    ASSERT_TRUE(answer && answer->kind == TransportEvent::kMessage);
  });
  for (std::uint64_t i = 1; i <= 20; ++i) {
    const auto event = next_event(server_);
    ASSERT_TRUE(event && event->kind == TransportEvent::kMessage) << event->reason;
    EXPECT_EQ(std::get<BoxReply>(event->message.body).serial, i);
    EXPECT_EQ(event->message.frames[0], large);
    if (i == 20) server_.send(event->connection, ask(1));
  }
  other.join();
  ::close(listener);
}

TEST_F(ZmqBoundsTest, SocketsThatVanishAreMadeAgain) {
  EXPECT_EQ(server_.mend_listeners(), "");
  ZmqTransport old;
  const ConnectionId to_server = old.connect(endpoint());
  old.send(to_server, ask(1));
  ASSERT_TRUE(next_event(server_));
  ASSERT_EQ(::unlink(path().c_str()), 0);
  EXPECT_NE(server_.mend_listeners(), "");
  EXPECT_EQ(server_.mend_listeners(), "");
  expect_service();
  ASSERT_EQ(::unlink(link_path_of(path()).c_str()), 0);
  ASSERT_EQ(::unlink(path().c_str()), 0);
  std::ofstream(path()) << "something else has its name";
  EXPECT_NE(server_.mend_listeners(), "");
  EXPECT_TRUE(std::filesystem::is_socket(path()));
  EXPECT_TRUE(std::filesystem::is_socket(link_path_of(path())));
  expect_service();
  old.send(to_server, ask(2));
  EXPECT_TRUE(next_event(server_));
}

TEST_F(ZmqBoundsTest, APeerOfThisHostIsTheProcessThatTheSystemSaysItIs) {
  ZmqTransport client;
  Deaf deaf(endpoint());
  client.send(client.connect(endpoint()), ask(1));
  deaf.say(ask(1));
  for (int i = 0; i < 2; ++i) {
    const auto event = next_event(server_);
    ASSERT_TRUE(event);
    EXPECT_EQ(server_.process_of(event->connection), static_cast<std::uint32_t>(::getpid()));
  }
  EXPECT_EQ(server_.process_of(ConnectionId{999}), 0U);
}

}  // namespace
}  // namespace betterbox
