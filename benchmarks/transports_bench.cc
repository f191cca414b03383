// The carrier: a call and its answer through ZmqTransport over ipc, as between a client and an agent, each on its own
// thread, which polls between messages as their owners do. `ping_pong zmq` is the same without our layers.
#include <benchmark/benchmark.h>
#include <poll.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "runtime/zmq_transport.h"

namespace betterbox {
namespace {

constexpr int kLookAroundMs = 100;

/// The next message, waited for; nothing once `over` is set.
std::optional<TransportEvent> next_message(Transport& transport, const std::atomic<bool>& over) {
  while (!over.load(std::memory_order_relaxed)) {
    if (auto event = transport.receive()) {
      if (event->kind == TransportEvent::kMessage) return event;
      continue;
    }
    std::vector<pollfd> waited;
    for (const int fd : transport.wait_fds()) waited.push_back({fd, POLLIN, 0});
    ::poll(waited.data(), waited.size(), kLookAroundMs);
  }
  return std::nullopt;
}

/// A folder for a socket, gone at the end.
class Folder {
 public:
  Folder() {
    if (::mkdtemp(path_.data()) == nullptr) std::abort();
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  std::string endpoint() const { return "ipc://" + path_ + "/socket"; }

 private:
  std::string path_ = "/tmp/transports-XXXXXX";
};

/// A call with `range(0)` bytes of arguments and an answer of as many.
void call_over_ipc(benchmark::State& state) {
  const Folder folder;
  std::atomic<bool> over{false};
  ZmqTransport agent;
  agent.listen(folder.endpoint());
  std::thread answering([&] {
    while (auto event = next_message(agent, over)) {
      const auto serial = std::get<BoxCall>(event->message.body).serial;
      agent.send(event->connection, Message{BoxReply{serial}, std::move(event->message.frames)});
    }
  });
  {
    ZmqTransport client;
    const ConnectionId connection = client.connect(folder.endpoint());
    const std::string arguments(static_cast<std::size_t>(state.range(0)), 'a');
    std::uint64_t serial = 0;
    for (auto _ : state) {
      client.send(connection, Message{BoxCall{++serial, BoxId{}, "noop"}, {Frame(arguments)}});
      benchmark::DoNotOptimize(next_message(client, over));
    }
  }
  over.store(true);
  answering.join();
  state.SetItemsProcessed(state.iterations());
  state.SetBytesProcessed(state.iterations() * state.range(0) * 2);
}
BENCHMARK(call_over_ipc)->Arg(24)->Arg(4096)->Arg(1 << 20)->UseRealTime();

/// Messages one way, as fast as they are read: `range(0)` bytes each, answered by one message in 64.
void stream_over_ipc(benchmark::State& state) {
  constexpr std::uint64_t kWindow = 64;
  const Folder folder;
  std::atomic<bool> over{false};
  ZmqTransport agent;
  agent.listen(folder.endpoint());
  std::thread reading([&] {
    while (auto event = next_message(agent, over)) {
      const auto serial = std::get<BoxCall>(event->message.body).serial;
      if (serial % kWindow == 0) agent.send(event->connection, Message{BoxCancel{serial}, {}});
    }
  });
  {
    ZmqTransport client;
    const ConnectionId connection = client.connect(folder.endpoint());
    const std::string payload(static_cast<std::size_t>(state.range(0)), 'a');
    std::uint64_t serial = 0;
    for (auto _ : state) {
      for (std::uint64_t i = 0; i < kWindow; ++i)
        client.send(connection, Message{BoxCall{++serial, BoxId{}, "noop"}, {Frame(payload)}});
      benchmark::DoNotOptimize(next_message(client, over));
    }
  }
  over.store(true);
  reading.join();
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(kWindow));
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(kWindow) * state.range(0));
}
BENCHMARK(stream_over_ipc)->Arg(24)->Arg(4096)->UseRealTime();

}  // namespace
}  // namespace betterbox
