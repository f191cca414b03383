// Lanes: a direct call and its reply through shared memory, within one thread and between two that may spin.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <span>
#include <string>
#include <thread>

#include "runtime/check.h"
#include "runtime/lane.h"

namespace betterbox {
namespace {

/// Both ends in this process.
struct Ends {
  Ends() {
    BB_CHECK(::pipe2(pipe, O_CLOEXEC | O_NONBLOCK) == 0);
    client = ClientLane::create(pipe[1]);
    BB_CHECK(client != nullptr);
    slot = SlotLane::open(static_cast<std::uint32_t>(::getpid()), static_cast<std::uint32_t>(client->fd()),
                          client->nonce(), arena);
    BB_CHECK(slot != nullptr && client->up());
  }
  ~Ends() {
    slot.reset();
    client.reset();
    ::close(pipe[0]);
    ::close(pipe[1]);
  }

  SlotArena arena = SlotArena::create();
  int pipe[2] = {-1, -1};
  std::unique_ptr<ClientLane> client;
  std::unique_ptr<SlotLane> slot;
};

/// Nobody sleeps, so nobody is rung: what the rings themselves cost.
void call_through_lane(benchmark::State& state) {
  Ends ends;
  const std::string payload(static_cast<std::size_t>(state.range(0)), 'x');
  const auto bytes = std::as_bytes(std::span(payload));
  Record record;
  for (auto _ : state) {
    BB_CHECK(ends.client->send(LaneRecord::kCall, {bytes}) && ends.slot->receive(record));
    BB_CHECK(ends.slot->reply(LaneRecord::kReply, {bytes}) && ends.client->receive(record));
    benchmark::DoNotOptimize(record.payload.data());
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(call_through_lane)->Arg(48)->Arg(1024)->Arg(16384);

/// A slot thread that looks without a pause.
void call_between_threads(benchmark::State& state) {
  Ends ends;
  std::atomic<bool> over{false};
  std::thread slot([&] {
    Record request;
    while (!over.load(std::memory_order_relaxed)) {
      if (ends.slot->has_requests() && ends.slot->receive(request)) {
        ends.slot->reply(LaneRecord::kReply, {std::as_bytes(std::span(request.payload))});
      } else {
        relax_cpu();
      }
    }
  });
  const std::string payload(static_cast<std::size_t>(state.range(0)), 'x');
  Record record;
  for (auto _ : state) {
    ends.client->send(LaneRecord::kCall, {std::as_bytes(std::span(payload))});
    while (!ends.client->has_replies()) relax_cpu();
    ends.client->receive(record);
  }
  over.store(true);
  slot.join();
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(call_between_threads)->Arg(48)->UseRealTime();

}  // namespace
}  // namespace betterbox
