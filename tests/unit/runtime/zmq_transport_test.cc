// The ZeroMQ carrier over real ipc sockets, also towards processes that are killed and bytes that are
// nonsense.
#include "runtime/zmq_transport.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zmq.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <thread>

#include "runtime/codec.h"
#include "runtime/limits.h"
#include "runtime/time.h"
#include "tests/unit/runtime/transport_events.h"

namespace betterbox {
namespace {

std::uint64_t serial_of(const TransportEvent& event) {
  return std::get<BoxCancel>(event.message.body).serial;
}
Message numbered(std::uint64_t serial) { return {BoxCancel{serial}, {}}; }

class ZmqTransportTest : public testing::Test {
 protected:
  ZmqTransportTest() {
    char path[] = "/tmp/bb-zmq-XXXXXX";
    folder_ = ::mkdtemp(path);
  }
  ~ZmqTransportTest() override {
    while (!children_.empty()) kill_now(*children_.begin());
    std::filesystem::remove_all(folder_);
  }

  std::string endpoint(const std::string& name = "s") const { return "ipc://" + folder_ + "/" + name; }
  std::string socket_path(const std::string& name = "s") const { return folder_ + "/" + name; }

  /// Expects a message; returns its connection.
  ConnectionId expect_message(Transport& at, std::uint64_t serial) {
    const auto event = next_event(at);
    EXPECT_TRUE(event && event->kind == TransportEvent::kMessage) << (event ? event->reason : "nothing came");
    if (!event || event->kind != TransportEvent::kMessage) return {};
    EXPECT_EQ(serial_of(*event), serial);
    return event->connection;
  }
  TransportEvent expect_closed(Transport& at, ConnectionId connection) {
    auto event = next_event(at);
    EXPECT_TRUE(event && event->kind == TransportEvent::kClosed);
    if (!event) return {};
    EXPECT_EQ(event->connection, connection);
    return *event;
  }
  int raw_connect() {
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, socket_path().c_str());
    EXPECT_EQ(::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    return fd;
  }
  /// A process that connects, sends `count` messages numbered from `first`, and waits to be killed: this
  /// program
  /// again, since a fork of a process with threads is no place for a transport.
  pid_t start_sender(std::uint64_t first, std::uint64_t count) {
    std::vector<std::string> arguments = {"sender", "--gtest_also_run_disabled_tests",
                                          "--gtest_filter=ZmqTransportPeer.DISABLED_Sender"};
    std::vector<std::string> variables = {"BB_TEST_ENDPOINT=" + endpoint(),
                                          "BB_TEST_FIRST=" + std::to_string(first),
                                          "BB_TEST_COUNT=" + std::to_string(count)};
    std::vector<char*> argv, environment;
    for (std::string& text : arguments) argv.push_back(text.data());
    for (std::string& text : variables) environment.push_back(text.data());
    argv.push_back(nullptr);
    environment.push_back(nullptr);
    pid_t child = -1;
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    EXPECT_EQ(::posix_spawn(&child, "/proc/self/exe", &actions, nullptr, argv.data(), environment.data()), 0);
    ::posix_spawn_file_actions_destroy(&actions);
    children_.insert(child);
    return child;
  }
  void kill_now(pid_t child) {
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    children_.erase(child);
  }

  std::string folder_;
  std::set<pid_t> children_;
};

/// Not a test: what start_sender() runs.
TEST(ZmqTransportPeer, DISABLED_Sender) {
  const char* endpoint = std::getenv("BB_TEST_ENDPOINT");
  if (endpoint == nullptr) GTEST_SKIP() << "run by other tests";
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const std::uint64_t first = std::stoull(std::getenv("BB_TEST_FIRST")),
                      count = std::stoull(std::getenv("BB_TEST_COUNT"));
  ZmqTransport transport;
  const ConnectionId server = transport.connect(endpoint);
  for (std::uint64_t i = 0; i < count; ++i) transport.send(server, numbered(first + i));
  for (;;) ::pause();
}

TEST_F(ZmqTransportTest, CarriesMessagesBothWaysInOrder) {
  ZmqTransport server, client;
  server.listen(endpoint());
  const ConnectionId to_server = client.connect(endpoint());
  for (std::uint64_t i = 1; i <= 1000; ++i) ASSERT_TRUE(client.send(to_server, numbered(i)));
  ConnectionId to_client;
  for (std::uint64_t i = 1; i <= 1000; ++i) {
    to_client = expect_message(server, i);
    ASSERT_TRUE(server.send(to_client, numbered(i)));
  }
  for (std::uint64_t i = 1; i <= 1000; ++i) EXPECT_EQ(expect_message(client, i), to_server);
  EXPECT_FALSE(server.receive());
}

TEST_F(ZmqTransportTest, CarriesFramesOfEverySize) {
  ZmqTransport server, client;
  server.listen(endpoint());
  const ConnectionId to_server = client.connect(endpoint());
  Message message{Items{1, {}, false}, {}};
  for (const std::size_t size : {0, 1, 511, 512, 513, 8191, 65536, 5'000'000}) {
    std::get<Items>(message.body).spans.push_back({size, 1});
    message.frames.push_back(Frame(std::string(size, static_cast<char>('a' + size % 26))));
  }
  ASSERT_TRUE(client.send(to_server, message));
  std::thread sender([&] { next_event(client); });  // as its owner does, until there is an answer
  const auto event = next_event(server);
  ASSERT_TRUE(event);
  EXPECT_EQ(event->message.frames, message.frames);
  server.send(event->connection, numbered(1));
  sender.join();
}

TEST_F(ZmqTransportTest, LargeFramesAreSharedAndFreedOnceSent) {
  ZmqTransport server, client;
  server.listen(endpoint());
  const ConnectionId to_server = client.connect(endpoint());
  auto bytes = std::make_shared<std::string>(1 << 20, 'x');
  std::weak_ptr<std::string> watched = bytes;
  {
    Message message{BoxReply{1}, {Frame(bytes, bytes->data(), bytes->size())}};
    bytes.reset();
    ASSERT_TRUE(client.send(to_server, message));
  }
  const auto event = next_event(server);
  ASSERT_TRUE(event);
  EXPECT_EQ(event->message.frames[0].size(), 1U << 20);
  client.close(to_server);
  const TimePoint deadline = monotonic_now() + kPatience;
  while (!watched.expired() && monotonic_now() < deadline) std::this_thread::yield();
  EXPECT_TRUE(watched.expired());
}

TEST_F(ZmqTransportTest, AReceivedFrameOutlivesItsTransport) {
  Frame kept;
  {
    ZmqTransport server, client;
    server.listen(endpoint());
    client.send(client.connect(endpoint()), {BoxReply{1}, {Frame(std::string(100'000, 'q'))}});
    const auto event = next_event(server);
    ASSERT_TRUE(event);
    kept = event->message.frames[0];
  }
  EXPECT_EQ(kept.view(), std::string(100'000, 'q'));
}

TEST_F(ZmqTransportTest, ConnectingWhereNobodyListensIsClosedAtOnce) {
  ZmqTransport client;
  const TimePoint before = monotonic_now();
  const ConnectionId connection = client.connect(endpoint("nobody"));
  client.send(connection, numbered(1));
  expect_closed(client, connection);
  EXPECT_FALSE(client.send(connection, numbered(2)));
  EXPECT_LT((monotonic_now() - before).ns, kLivenessBound.ns);
  EXPECT_TRUE(client.wait_fds().empty());
}

TEST_F(ZmqTransportTest, ConnectingToADeadSocketFileIsClosedAtOnce) {
  {
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, socket_path("dead").c_str());
    ASSERT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    ::close(fd);
  }
  ZmqTransport client;
  const ConnectionId connection = client.connect(endpoint("dead"));
  expect_closed(client, connection);
}

TEST_F(ZmqTransportTest, APathThatIsTooLongIsAnErrorAndNoCrash) {
  const std::string too_long = "ipc:///tmp/" + std::string(120, 'x');
  ZmqTransport transport;
  EXPECT_THROW(transport.listen(too_long), std::runtime_error);
  const ConnectionId connection = transport.connect(too_long);
  EXPECT_THAT(expect_closed(transport, connection).reason, testing::HasSubstr("longer than"));
}

TEST_F(ZmqTransportTest, AClientThatClosesIsSeenAfterItsLastMessage) {
  for (int round = 0; round < 50; ++round) {
    ZmqTransport server;
    server.listen(endpoint());
    {
      ZmqTransport client;
      const ConnectionId to_server = client.connect(endpoint());
      for (std::uint64_t i = 1; i <= 20; ++i) client.send(to_server, numbered(i));
      client.close(to_server);
    }
    ConnectionId connection;
    for (std::uint64_t i = 1; i <= 20; ++i) connection = expect_message(server, i);
    expect_closed(server, connection);
    EXPECT_FALSE(server.send(connection, numbered(1)));
  }
}

TEST_F(ZmqTransportTest, AServerThatClosesIsSeenAfterItsLastMessage) {
  for (int round = 0; round < 50; ++round) {
    ZmqTransport client;
    ConnectionId to_server;
    {
      ZmqTransport server;
      server.listen(endpoint());
      to_server = client.connect(endpoint());
      client.send(to_server, numbered(0));
      const ConnectionId to_client = expect_message(server, 0);
      server.send(to_client, numbered(0));
      expect_message(client, 0);
      EXPECT_FALSE(client.receive());  // dry: the next ones must wake it
      for (std::uint64_t i = 1; i <= 20; ++i) ASSERT_TRUE(server.send(to_client, numbered(i)));
    }
    for (std::uint64_t i = 1; i <= 20; ++i) EXPECT_EQ(expect_message(client, i), to_server);
    expect_closed(client, to_server);
    EXPECT_FALSE(client.send(to_server, numbered(1)));
  }
}

TEST_F(ZmqTransportTest, AListenerClosesOneConnectionAndKeepsTheOthers) {
  ZmqTransport server, refused, welcome;
  server.listen(endpoint());
  const ConnectionId refused_id = refused.connect(endpoint());
  refused.send(refused_id, numbered(1));
  const ConnectionId to_refused = expect_message(server, 1);
  const ConnectionId welcome_id = welcome.connect(endpoint());
  welcome.send(welcome_id, numbered(2));
  const ConnectionId to_welcome = expect_message(server, 2);

  server.send(to_refused, {Refused{RefusalCode::kVersion, "no"}, {}});
  server.close(to_refused);
  EXPECT_FALSE(server.send(to_refused, numbered(3)));
  const auto reason = next_event(refused);
  ASSERT_TRUE(reason);
  EXPECT_TRUE(std::holds_alternative<Refused>(reason->message.body));
  expect_closed(refused, refused_id);

  welcome.send(welcome_id, numbered(4));
  EXPECT_EQ(expect_message(server, 4), to_welcome);
  EXPECT_FALSE(server.receive());
}

TEST_F(ZmqTransportTest, AKilledPeerIsSeenAtOnceBehindAllThatItSent) {
  ZmqTransport server;
  server.listen(endpoint());
  const pid_t child = start_sender(1, 500);
  ConnectionId connection = expect_message(server, 1);
  for (std::uint64_t i = 2; i <= 500; ++i) expect_message(server, i);
  const TimePoint before = monotonic_now();
  kill_now(child);
  EXPECT_EQ(expect_closed(server, connection).reason, "the peer is gone");
  EXPECT_LT((monotonic_now() - before).ns, kHeartbeatInterval.ns);  // not by missing heartbeats
}

TEST_F(ZmqTransportTest, AConnectionToAKilledListenerIsSeenAtOnce) {
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ZmqTransport server;
    server.listen(endpoint());
    static_cast<void>(!::write(ready[1], "x", 1));
    for (;;)
      if (auto event = next_event(server, seconds(1))) server.send(event->connection, event->message);
  }
  children_.insert(child);
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  ZmqTransport client;
  const ConnectionId to_server = client.connect(endpoint());
  client.send(to_server, numbered(7));
  expect_message(client, 7);
  kill_now(child);
  expect_closed(client, to_server);
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST_F(ZmqTransportTest, HundredsOfConnectionsThatComeAndGoAreToldApart) {
  // Descriptor numbers are used again all the time; every session must still end exactly once, after its last
  // message.
  constexpr int kRounds = 6, kPeers = 50;
  ZmqTransport server;
  server.listen(endpoint());
  std::map<ConnectionId, std::vector<std::uint64_t>> got;
  std::set<ConnectionId> closed;
  const auto take = [&](const TransportEvent& event) {
    ASSERT_FALSE(closed.contains(event.connection)) << "an event after the end";
    if (event.kind == TransportEvent::kClosed) {
      closed.insert(event.connection);
    } else {
      got[event.connection].push_back(serial_of(event));
    }
  };
  for (int round = 0; round < kRounds; ++round) {
    ZmqTransport clients;
    std::vector<ConnectionId> connections;
    for (int peer = 0; peer < kPeers; ++peer) {
      connections.push_back(clients.connect(endpoint()));
      for (std::uint64_t i = 0; i < 3; ++i) clients.send(connections.back(), numbered(i));
      ::close(raw_connect());  // a probe
      if (peer % 3 == 0) clients.close(connections[static_cast<std::size_t>(peer / 2)]);
      if (peer % 7 == 0)
        while (auto event = server.receive()) take(*event);
    }
  }
  while (closed.size() < kRounds * kPeers) {
    const auto event = next_event(server);
    ASSERT_TRUE(event) << "only " << closed.size() << " ends of " << got.size() << " connections";
    take(*event);
  }
  EXPECT_EQ(got.size(), static_cast<std::size_t>(kRounds * kPeers));
  for (const auto& [connection, serials] : got) EXPECT_THAT(serials, testing::ElementsAre(0, 1, 2));
}

TEST_F(ZmqTransportTest, KilledProcessesAmongLivingOnesAreToldApart) {
  ZmqTransport server;
  server.listen(endpoint());
  std::map<std::uint64_t, ConnectionId> by_number;
  std::map<std::uint64_t, pid_t> pids;
  std::uint64_t next = 1;
  for (int round = 0; round < 4; ++round) {
    for (int i = 0; i < 12; ++i, ++next) pids[next] = start_sender(next, 1);
    while (by_number.size() < pids.size()) {
      const auto event = next_event(server);
      ASSERT_TRUE(event && event->kind == TransportEvent::kMessage);
      by_number[serial_of(*event)] = event->connection;
    }
    std::set<ConnectionId> expected;
    for (auto at = pids.begin(); at != pids.end();) {
      if (at->first % 2 == 0) {
        ++at;
        continue;
      }
      kill_now(at->second);
      expected.insert(by_number[at->first]);
      by_number.erase(at->first);
      at = pids.erase(at);
    }
    while (!expected.empty()) {
      const auto event = next_event(server);
      ASSERT_TRUE(event && event->kind == TransportEvent::kClosed);
      EXPECT_EQ(expected.erase(event->connection), 1U);
    }
    for (const auto& [number, connection] : by_number) EXPECT_TRUE(server.send(connection, numbered(number)));
  }
  for (const auto& [number, pid] : pids) kill_now(pid);
}

TEST_F(ZmqTransportTest, GarbageBelowTheProtocolDisturbsNobody) {
  ZmqTransport server, client;
  server.listen(endpoint());
  std::vector<int> open;
  for (int i = 0; i < 20; ++i) {
    const int fd = raw_connect();
    const std::string junk = i % 2 == 0 ? std::string(4096, '\xff') : "GET / HTTP/1.1\r\n\r\n";
    static_cast<void>(!::write(fd, junk.data(), junk.size()));
    i % 4 == 0 ? static_cast<void>(::close(fd)) : open.push_back(fd);
  }
  const ConnectionId to_server = client.connect(endpoint());
  client.send(to_server, numbered(1));
  expect_message(server, 1);
  for (const int fd : open) ::close(fd);
  client.send(to_server, numbered(2));
  expect_message(server, 2);
}

/// A peer that speaks ZMTP and nonsense.
class RudePeer {
 public:
  explicit RudePeer(const std::string& endpoint) {
    const int zero = 0;
    zmq_setsockopt(socket_, ZMQ_LINGER, &zero, sizeof zero);
    EXPECT_EQ(zmq_connect(socket_, endpoint.c_str()), 0);
  }
  ~RudePeer() {
    zmq_close(socket_);
    zmq_ctx_term(context_);
  }
  void say(const std::vector<std::string>& parts) {
    for (std::size_t i = 0; i < parts.size(); ++i)
      zmq_send(socket_, parts[i].data(), parts[i].size(), i + 1 < parts.size() ? ZMQ_SNDMORE : 0);
  }
  std::string hear() {
    zmq_msg_t part;
    zmq_msg_init(&part);
    EXPECT_GE(zmq_msg_recv(&part, socket_, 0), 0);
    std::string text(static_cast<const char*>(zmq_msg_data(&part)), zmq_msg_size(&part));
    zmq_msg_close(&part);
    return text;
  }

 private:
  void* context_ = zmq_ctx_new();
  void* socket_ = zmq_socket(context_, ZMQ_DEALER);
};

TEST_F(ZmqTransportTest, APeerThatSendsNoMessageIsClosedCountedAndIgnored) {
  ZmqTransport server, client;
  server.listen(endpoint());
  const std::string good = encode(numbered(1));
  const std::vector<std::vector<std::string>> nonsense = {
      {"hello?"},
      {good.substr(0, good.size() - 1)},
      {good + "x"},
      {good, "a payload that does not belong"},
      {std::string(kHeaderBytes + kMaxBodyBytes + 1, 'x')},
      std::vector<std::string>(kMaxFrames + 2, "x"),
  };
  for (std::size_t i = 0; i < nonsense.size(); ++i) {
    RudePeer peer(endpoint());
    peer.say({good});
    const ConnectionId connection = expect_message(server, 1);
    peer.say(nonsense[i]);
    const TransportEvent event = expect_closed(server, connection);
    EXPECT_TRUE(event.malformed) << i;
    EXPECT_EQ(server.malformed_messages(), i + 1);
    EXPECT_EQ(peer.hear(), "");  // the end mark
    peer.say({good});            // ignored
    EXPECT_FALSE(server.send(connection, numbered(1)));
  }
  const ConnectionId to_server = client.connect(endpoint());
  client.send(to_server, numbered(2));
  expect_message(server, 2);
}

TEST_F(ZmqTransportTest, APeerWhoseFirstMessageIsNonsenseIsCountedToo) {
  ZmqTransport server;
  server.listen(endpoint());
  RudePeer peer(endpoint());
  peer.say({"hello?"});
  const auto event = next_event(server);
  ASSERT_TRUE(event);
  EXPECT_TRUE(event->malformed);
  EXPECT_EQ(server.malformed_messages(), 1U);
}

TEST_F(ZmqTransportTest, ProbesAreIgnored) {
  ZmqTransport server;
  server.listen(endpoint());
  RudePeer peer(endpoint());
  peer.say({std::string(1, '\0')});
  peer.say({encode(numbered(5))});
  expect_message(server, 5);
  EXPECT_EQ(server.malformed_messages(), 0U);
}

TEST_F(ZmqTransportTest, AListenerThatAnswersNonsenseIsLeft) {
  void* context = zmq_ctx_new();
  void* router = zmq_socket(context, ZMQ_ROUTER);
  ASSERT_EQ(zmq_bind(router, endpoint().c_str()), 0);
  {
    ZmqTransport client;
    const ConnectionId to_server = client.connect(endpoint());
    client.send(to_server, numbered(1));
    char id[64];
    const int id_size = zmq_recv(router, id, sizeof id, 0);
    char rest[64];
    zmq_recv(router, rest, sizeof rest, 0);
    zmq_send(router, id, static_cast<std::size_t>(id_size), ZMQ_SNDMORE);
    zmq_send(router, "what?", 5, 0);
    EXPECT_TRUE(expect_closed(client, to_server).malformed);
    EXPECT_TRUE(client.wait_fds().empty());
  }
  zmq_close(router);
  zmq_ctx_term(context);
}

TEST_F(ZmqTransportTest, ATransportListensAndConnectsAtOnce) {
  ZmqTransport a, b;
  a.listen(endpoint("a"));
  b.listen(endpoint("b"));
  const ConnectionId a_to_b = a.connect(endpoint("b"));
  const ConnectionId b_to_a = b.connect(endpoint("a"));
  a.send(a_to_b, numbered(1));
  b.send(b_to_a, numbered(2));
  expect_message(b, 1);
  expect_message(a, 2);
}

TEST_F(ZmqTransportTest, TheSocketFileIsGoneAfterTheListener) {
  {
    ZmqTransport server;
    server.listen(endpoint());
    EXPECT_TRUE(std::filesystem::exists(socket_path()));
  }
  EXPECT_FALSE(std::filesystem::exists(socket_path()));
}

TEST_F(ZmqTransportTest, EndingDoesNotWaitLongForAPeerThatStopsReading) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ZmqTransport server;
    server.listen(endpoint());
    for (;;) ::pause();
  }
  children_.insert(child);
  while (!std::filesystem::exists(socket_path())) std::this_thread::yield();
  auto talker = std::make_unique<ZmqTransport>();
  ConnectionId to_server = talker->connect(endpoint());
  for (int i = 0; i < 200; ++i) talker->send(to_server, {BoxReply{1}, {Frame(std::string(1 << 20, 'x'))}});
  ::kill(child, SIGSTOP);
  const TimePoint before = monotonic_now();
  talker.reset();
  EXPECT_LT((monotonic_now() - before).ns, seconds(10).ns);
  kill_now(child);
}

TEST_F(ZmqTransportTest, InAForkedChildTheDestructorOnlyLetsGo) {
  auto transport = std::make_unique<ZmqTransport>();
  transport->listen(endpoint());
  const pid_t child = ::fork();
  if (child == 0) {
    ::alarm(20);
    transport.reset();
    ::_exit(0);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(std::filesystem::exists(socket_path()));
}

TEST_F(ZmqTransportTest, ItsThreadsTakeNoSignals) {
  ZmqTransport transport;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    if (task.path().filename() == std::to_string(::getpid())) continue;
    const int fd = ::open((task.path() / "status").c_str(), O_RDONLY | O_CLOEXEC);
    std::string text(8192, '\0');
    text.resize(static_cast<std::size_t>(::read(fd, text.data(), text.size())));
    ::close(fd);
    const auto at = text.find("SigBlk:\t");
    ASSERT_NE(at, std::string::npos);
    const std::uint64_t blocked = std::stoull(text.substr(at + 8, 16), nullptr, 16);
    EXPECT_TRUE(blocked >> (SIGINT - 1) & 1) << task.path();
    EXPECT_TRUE(blocked >> (SIGTERM - 1) & 1) << task.path();
  }
}

}  // namespace
}  // namespace betterbox
