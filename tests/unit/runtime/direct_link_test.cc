// Direct links: messages arrive whole and in order however their bytes come, and nonsense ends one link only.
#include "runtime/direct_link.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <thread>

#include "runtime/codec.h"
#include "runtime/limits.h"
#include "runtime/zmq_transport.h"

namespace betterbox {
namespace {

using Reading = DirectLink::Reading;

Frame frame_of(std::size_t size, char seed) {
  std::string text(size, seed);
  for (std::size_t i = 0; i < size; i += 97) text[i] = static_cast<char>(i);
  return Frame(std::move(text));
}

/// A link and, for its other end, a bare socket.
struct LinkAndSocket {
  LinkAndSocket() {
    int ends[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    link = std::make_unique<DirectLink>(ends[0]);
    socket = ends[1];
  }
  ~LinkAndSocket() { ::close(socket); }
  void write(std::string_view bytes) {
    EXPECT_EQ(::write(socket, bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
    link->wake();
  }
  std::unique_ptr<DirectLink> link;
  int socket = -1;
};

std::string sizes(std::uint32_t count, const std::vector<std::uint64_t>& each) {
  std::string bytes(8 + 8 * each.size(), '\0');
  std::memcpy(bytes.data(), &count, sizeof count);
  std::memcpy(bytes.data() + 8, each.data(), 8 * each.size());
  return bytes;
}

TEST(DirectLinks, PutMessagesTogetherFromSingleBytes) {
  LinkAndSocket ends;
  Frames frames;
  for (int message = 0; message < 3; ++message) {
    const std::string bytes = sizes(3, {4, 0, 2}) + "headxy";
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      ASSERT_EQ(ends.link->read(frames), Reading::kDry);
      ends.write(bytes.substr(i, 1));
    }
    ASSERT_EQ(ends.link->read(frames), Reading::kMessage);
    ASSERT_EQ(frames.size(), 3U);
    EXPECT_EQ(frames[0].view(), "head");
    EXPECT_EQ(frames[1].view(), "");
    EXPECT_EQ(frames[2].view(), "xy");
  }
}

TEST(DirectLinks, CarryFramesOfEverySizeThroughASmallSocket) {
  LinkAndSocket ends;
  DirectLink other(::dup(ends.socket));
  std::thread writer([&] {
    for (int message = 0; message < 40; ++message) {
      std::vector<Frame> payload;
      for (const std::size_t size : {0, 1, 4095, 16383, 16384, 16385, 70'000, 300'000})
        payload.push_back(frame_of(size, static_cast<char>('a' + message)));
      other.queue("number " + std::to_string(message), payload);
    }
    other.flush_until(monotonic_now() + seconds(60));
  });
  Frames frames;
  for (int message = 0; message < 40; ++message) {
    auto reading = ends.link->read(frames);
    while (reading == Reading::kDry) {
      pollfd entry{ends.link->fd(), POLLIN, 0};
      ASSERT_EQ(::poll(&entry, 1, 20'000), 1);
      ends.link->wake();
      reading = ends.link->read(frames);
    }
    ASSERT_EQ(reading, Reading::kMessage);
    ASSERT_EQ(frames.size(), 9U);
    EXPECT_EQ(frames[0].view(), "number " + std::to_string(message));
    EXPECT_EQ(frames[8], frame_of(300'000, static_cast<char>('a' + message)));
    EXPECT_EQ(frames[4], frame_of(16'383, static_cast<char>('a' + message)));
  }
  writer.join();
}

TEST(DirectLinks, RefuseWhatIsOverTheLimits) {
  const std::uint64_t most = kHeaderBytes + kMaxBodyBytes;
  for (const std::string& bytes :
       {sizes(0, {}), sizes(kMaxFrames + 2, {}), sizes(~0U, {}), sizes(1, {most + 1}),
        sizes(2, {16, kMaxFrameBytes + 1}), sizes(2, {16, ~std::uint64_t{0}})}) {
    LinkAndSocket ends;
    Frames frames;
    ends.write(bytes);
    EXPECT_EQ(ends.link->read(frames), Reading::kTooLarge) << bytes.size();
  }
}

TEST(DirectLinks, AreOverBehindWhatHadArrived) {
  LinkAndSocket ends;
  Frames frames;
  ends.write(sizes(1, {2}) + "ab" + sizes(1, {9}) + "half");
  ::shutdown(ends.socket, SHUT_RDWR);
  EXPECT_EQ(ends.link->read(frames), Reading::kMessage);
  EXPECT_EQ(frames.at(0).view(), "ab");
  ends.link->wake();
  EXPECT_EQ(ends.link->read(frames), Reading::kOver);
}

/// Two transports, each driven by a thread as its owner would.
class Linked : public ::testing::Test {
 protected:
  Linked() {
    char path[] = "/tmp/bb-link-XXXXXX";
    folder_ = ::mkdtemp(path);
  }
  ~Linked() override { std::filesystem::remove_all(folder_); }
  std::string path() const { return folder_ + "/s"; }
  static std::optional<TransportEvent> next_event(Transport& transport) {
    const TimePoint deadline = monotonic_now() + seconds(20);
    while (monotonic_now() < deadline) {
      if (auto event = transport.receive()) return event;
      std::vector<pollfd> waited;
      for (const int fd : transport.wait_fds()) waited.push_back({fd, POLLIN, 0});
      ::poll(waited.data(), waited.size(), 1000);
    }
    return std::nullopt;
  }
  std::string folder_;
};

TEST_F(Linked, BothSendMoreThanSocketsHoldAtOnce) {
  ZmqTransport server, client;
  server.listen("ipc://" + path());
  const ConnectionId to_server = client.connect("ipc://" + path());
  constexpr std::uint64_t kMessages = 100;
  const Frame large = frame_of(200'000, 'x');
  const auto exchange = [&](Transport& transport, ConnectionId to, std::uint64_t got) {
    for (std::uint64_t i = 0; i < kMessages; ++i) EXPECT_TRUE(transport.send(to, {BoxReply{i}, {large}}));
    for (; got < kMessages; ++got) {
      const auto event = next_event(transport);
      ASSERT_TRUE(event && event->kind == TransportEvent::kMessage);
      EXPECT_EQ(std::get<BoxReply>(event->message.body).serial, got);
      EXPECT_EQ(event->message.frames[0], large);
    }
  };
  std::atomic<bool> over{false};
  std::thread other([&] {
    exchange(client, to_server, 0);
    client.send(to_server, {BoxCancel{1}, {}});
    while (!over) {  // as an owner does: what is left of its own leaves meanwhile
      EXPECT_FALSE(client.receive());
      std::vector<pollfd> waited;
      for (const int fd : client.wait_fds()) waited.push_back({fd, POLLIN, 0});
      ::poll(waited.data(), waited.size(), 10);
    }
  });
  const auto first = next_event(server);
  ASSERT_TRUE(first);
  exchange(server, first->connection, 1);
  EXPECT_TRUE(next_event(server));
  over = true;
  other.join();
}

TEST_F(Linked, StrangersAtTheLinksDoorDisturbNobody) {
  ZmqTransport server, client;
  server.listen("ipc://" + path());
  std::vector<int> strangers;
  for (int i = 0; i < 20; ++i) {
    LinkToken token{};
    token[0] = static_cast<char>(i / 2);  // each twice
    strangers.push_back(connect_link(path(), token));
    ASSERT_GE(strangers.back(), 0);
    const std::string noise(1000 * i, 'n');
    EXPECT_EQ(::send(strangers.back(), noise.data(), noise.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(noise.size()));
    if (i % 3 == 0) ::close(std::exchange(strangers.back(), -1));
  }
  const ConnectionId to_server = client.connect("ipc://" + path());
  EXPECT_TRUE(client.send(to_server, {BoxCancel{7}, {}}));
  const auto event = next_event(server);
  ASSERT_TRUE(event && event->kind == TransportEvent::kMessage);
  EXPECT_EQ(std::get<BoxCancel>(event->message.body).serial, 7U);
  for (const int fd : strangers)
    if (fd >= 0) ::close(fd);
}

}  // namespace
}  // namespace betterbox
