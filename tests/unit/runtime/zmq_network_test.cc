// The ZeroMQ carrier over the network (loopback): encrypted, and closed to whoever has not the bus's keys.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zmq.h>

#include <cstdlib>
#include <functional>
#include <string>

#include "runtime/zmq_transport.h"
#include "tests/unit/runtime/transport_events.h"

namespace betterbox {
namespace {

constexpr const char* kLoopback = "tcp://127.0.0.1:0";

std::uint64_t serial_of(const TransportEvent& event) {
  return std::get<BoxCancel>(event.message.body).serial;
}
Message numbered(std::uint64_t serial) { return {BoxCancel{serial}, {}}; }

/// Keys that never change.
KeySource these(const BusKeys& keys) {
  return [keys] { return keys; };
}

int port_of(const std::string& endpoint) {
  return std::atoi(endpoint.substr(endpoint.rfind(':') + 1).c_str());
}

/// Nobody got in: the server hears nothing of it while it is waited for the client's end.
void expect_refused(ZmqTransport& server, ZmqTransport& client, ConnectionId connection) {
  client.send(connection, numbered(1));
  const auto end = next_event(client);
  ASSERT_TRUE(end);
  EXPECT_EQ(end->kind, TransportEvent::kClosed);
  EXPECT_FALSE(end->reason.empty());
  EXPECT_FALSE(server.receive());
}

TEST(BusKeysTest, NewKeysBelongTogetherAndToTheirSchedulerAndAreNeverTheSame) {
  const BusKeys one = make_bus_keys(), other = make_bus_keys();
  EXPECT_NE(one, other);
  BusInfo bus;
  bus.keys = one;
  bus.incarnation = incarnation_of(one);
  EXPECT_NO_THROW(check_bus_keys(bus, "f"));
  for (const BusKeys& wrong : {BusKeys{one.public_key, other.secret_key}, BusKeys{"", ""},
                               BusKeys{one.public_key.substr(1), one.secret_key}, other}) {
    bus.keys = wrong;
    EXPECT_THROW(check_bus_keys(bus, "f"), std::runtime_error);
  }
}

TEST(ZmqNetworkTest, CarriesMessagesBothWaysUnderTheSameKeys) {
  const BusKeys keys = make_bus_keys();
  ZmqTransport server(these(keys)), client(these(keys));
  const std::string endpoint = server.listen(kLoopback);
  EXPECT_NE(port_of(endpoint), 0);
  const ConnectionId to_server = client.connect(endpoint);
  client.send(to_server, {BoxReply{7}, {Frame::copy_of(std::as_bytes(std::span("abc", 3)))}});
  const auto arrived = next_event(server);
  ASSERT_TRUE(arrived && arrived->kind == TransportEvent::kMessage);
  EXPECT_EQ(std::get<BoxReply>(arrived->message.body).serial, 7u);
  ASSERT_EQ(arrived->message.frames.size(), 1u);
  EXPECT_EQ(arrived->message.frames[0].size(), 3u);
  server.send(arrived->connection, numbered(8));
  const auto answer = next_event(client);
  ASSERT_TRUE(answer && answer->kind == TransportEvent::kMessage);
  EXPECT_EQ(serial_of(*answer), 8u);
}

TEST(ZmqNetworkTest, ServesThisHostAndTheNetworkAtOnce) {
  char path[] = "/tmp/bb-zmq-XXXXXX";
  const std::string folder = ::mkdtemp(path);
  const BusKeys keys = make_bus_keys();
  {
    ZmqTransport server(these(keys)), near, far(these(keys));
    const std::string local = server.listen("ipc://" + folder + "/s");
    const std::string network = server.listen(kLoopback);
    near.send(near.connect(local), numbered(1));
    const auto first = next_event(server);
    ASSERT_TRUE(first && first->kind == TransportEvent::kMessage);
    const ConnectionId to_server = far.connect(network);
    far.send(to_server, numbered(2));
    const auto second = next_event(server);
    ASSERT_TRUE(second && second->kind == TransportEvent::kMessage);
    server.send(first->connection, numbered(3));
    server.send(second->connection, numbered(4));
    const auto to_near = next_event(near), to_far = next_event(far);
    ASSERT_TRUE(to_near && to_far);
    EXPECT_EQ(serial_of(*to_near), 3u);
    EXPECT_EQ(serial_of(*to_far), 4u);
    far.close(to_server);
    const auto end = next_event(server);
    ASSERT_TRUE(end && end->kind == TransportEvent::kClosed);
    EXPECT_EQ(end->connection, second->connection);
    near.send(ConnectionId{1}, numbered(5));
    const auto last = next_event(server);
    ASSERT_TRUE(last && last->kind == TransportEvent::kMessage);
    EXPECT_EQ(last->connection, first->connection);
  }
  ::rmdir(folder.c_str());
}

TEST(ZmqNetworkTest, ListensOnIPv6) {
  const BusKeys keys = make_bus_keys();
  ZmqTransport server(these(keys)), client(these(keys));
  std::string endpoint;
  try {
    endpoint = server.listen("tcp://[::1]:0");
  } catch (const std::runtime_error& problem) {
    GTEST_SKIP() << "this machine has no IPv6: " << problem.what();
  }
  client.send(client.connect(endpoint), numbered(1));
  const auto arrived = next_event(server);
  ASSERT_TRUE(arrived && arrived->kind == TransportEvent::kMessage);
}

/// A child process, killed at the end. `act` does not return.
class Child {
 public:
  explicit Child(const std::function<void()>& act) : pid_(::fork()) {
    if (pid_ != 0) return;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    act();
    ::_exit(0);
  }
  ~Child() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  void stop() const { ::kill(pid_, SIGSTOP); }

 private:
  pid_t pid_;
};

TEST(ZmqNetworkTest, WhoFallsSilentIsGoneForThoseWhoListenAndForThoseWhoConnected) {
  const BusKeys keys = make_bus_keys();
  int pipe[2];
  ASSERT_EQ(::pipe(pipe), 0);
  const Child listener([&] {
    ZmqTransport transport(these(keys));
    std::string endpoint = transport.listen(kLoopback);
    if (::write(pipe[1], endpoint.data(), endpoint.size()) < 0) return;
    while (auto event = next_event(transport)) transport.send(event->connection, numbered(1));
  });
  char text[100] = {};
  ASSERT_GT(::read(pipe[0], text, sizeof text - 1), 0);
  const std::string endpoint = text;

  int back[2];
  ASSERT_EQ(::pipe(back), 0);
  const Child connecting([&] {
    ssize_t size = ::read(back[0], text, sizeof text);
    if (size <= 0) return;
    ZmqTransport transport(these(keys));
    transport.send(transport.connect(std::string(text, static_cast<std::size_t>(size))), numbered(2));
    while (next_event(transport)) {}
  });
  ZmqTransport server(these(keys)), client(these(keys));
  const std::string own = server.listen(kLoopback);
  ASSERT_GT(::write(back[1], own.data(), own.size()), 0);
  client.send(client.connect(endpoint), numbered(1));
  const auto answered = next_event(client), greeted = next_event(server);
  ASSERT_TRUE(answered && greeted);
  ASSERT_EQ(greeted->kind, TransportEvent::kMessage);

  listener.stop();
  connecting.stop();
  const auto client_end = next_event(client), server_end = next_event(server);
  ASSERT_TRUE(client_end && server_end);
  EXPECT_EQ(client_end->kind, TransportEvent::kClosed);
  EXPECT_EQ(server_end->kind, TransportEvent::kClosed);
  for (const int fd : {pipe[0], pipe[1], back[0], back[1]}) ::close(fd);
}

TEST(ZmqNetworkTest, AnotherBussKeysGetNothing) {
  ZmqTransport server(these(make_bus_keys())), client(these(make_bus_keys()));
  expect_refused(server, client, client.connect(server.listen(kLoopback)));
}

TEST(ZmqNetworkTest, WhoKnowsThePublicKeyButHasAnotherSecretIsRefused) {
  const BusKeys keys = make_bus_keys(), own = make_bus_keys();
  ZmqTransport server(these(keys));
  const std::string endpoint = server.listen(kLoopback);
  void* context = zmq_ctx_new();
  void* socket = zmq_socket(context, ZMQ_DEALER);
  zmq_setsockopt(socket, ZMQ_CURVE_SERVERKEY, keys.public_key.c_str(), 41);
  zmq_setsockopt(socket, ZMQ_CURVE_PUBLICKEY, own.public_key.c_str(), 41);
  zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, own.secret_key.c_str(), 41);
  zmq_socket_monitor(socket, "inproc://news",
                     ZMQ_EVENT_HANDSHAKE_FAILED_AUTH | ZMQ_EVENT_HANDSHAKE_SUCCEEDED);
  void* news = zmq_socket(context, ZMQ_PAIR);
  zmq_connect(news, "inproc://news");
  zmq_connect(socket, endpoint.c_str());
  char event[6] = {};
  ASSERT_EQ(zmq_recv(news, event, sizeof event, 0), 6);
  EXPECT_EQ(static_cast<unsigned char>(event[1]) << 8 | static_cast<unsigned char>(event[0]),
            ZMQ_EVENT_HANDSHAKE_FAILED_AUTH);
  EXPECT_FALSE(server.receive());
  zmq_close(news);
  zmq_close(socket);
  zmq_ctx_term(context);
}

TEST(ZmqNetworkTest, NewKeysShutOutWhoHasTheOldOnes) {
  BusKeys now = make_bus_keys();
  const BusKeys old = now;
  ZmqTransport server([&now] { return now; }), client([&now] { return now; }), late(these(old));
  client.send(client.connect(server.listen(kLoopback)), numbered(1));
  const auto arrived = next_event(server);
  ASSERT_TRUE(arrived && arrived->kind == TransportEvent::kMessage);

  now = make_bus_keys();
  const std::string endpoint = server.listen(kLoopback);
  const auto ended = next_event(server), ended_there = next_event(client);
  ASSERT_TRUE(ended && ended->kind == TransportEvent::kClosed);
  ASSERT_TRUE(ended_there && ended_there->kind == TransportEvent::kClosed);
  expect_refused(server, late, late.connect(endpoint));
  client.send(client.connect(endpoint), numbered(2));
  const auto again = next_event(server);
  ASSERT_TRUE(again && again->kind == TransportEvent::kMessage);
  EXPECT_EQ(serial_of(*again), 2u);
}

TEST(ZmqNetworkTest, PlainConnectionsGetNothing) {
  ZmqTransport server(these(make_bus_keys()));
  const std::string endpoint = server.listen(kLoopback);
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port_of(endpoint)));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  const char greeting[] =
      "GET / HTTP/1.1\r\n\r\n and then enough bytes to look like a greeting of 64 bytes....";
  ASSERT_GT(::write(fd, greeting, sizeof greeting), 0);
  char byte = 0;
  pollfd waited{fd, POLLIN, 0};
  while (::poll(&waited, 1, 20'000) == 1 && ::read(fd, &byte, 1) == 1) {}  // zmq's own greeting, then the end
  EXPECT_FALSE(server.receive());
  ::close(fd);
}

TEST(ZmqNetworkTest, WithoutKeysThereIsNoNetwork) {
  ZmqTransport bare;
  EXPECT_THROW(bare.listen(kLoopback), std::runtime_error);
  bare.connect("tcp://127.0.0.1:1");
  const auto end = next_event(bare);
  ASSERT_TRUE(end && end->kind == TransportEvent::kClosed);
  EXPECT_NE(end->reason.find("keys"), std::string::npos);
}

TEST(ZmqNetworkTest, ConnectingWhereNobodyListensIsClosed) {
  ZmqTransport client(these(make_bus_keys()));
  client.connect("tcp://127.0.0.1:1");
  const auto end = next_event(client);
  ASSERT_TRUE(end && end->kind == TransportEvent::kClosed);
}

TEST(ZmqNetworkTest, ANameThatDoesNotResolveIsClosedWithTheReason) {
  ZmqTransport client(these(make_bus_keys()));
  client.connect("tcp://no-such-host.invalid:1");
  const auto end = next_event(client);
  ASSERT_TRUE(end && end->kind == TransportEvent::kClosed);
}

}  // namespace
}  // namespace betterbox
