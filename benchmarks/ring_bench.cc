// Rings: records from a slot to its agent, as outcomes travel, within one thread and between two.
#include <benchmark/benchmark.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <span>
#include <string>
#include <thread>

#include "runtime/shm.h"

namespace betterbox {
namespace {

constexpr std::uint32_t kKind = 3;

/// Cost of a record written and read by the same thread: no waiting, no cache misses between cores.
void record_through_outbox(benchmark::State& state) {
  SlotArena arena = SlotArena::create_private();
  const int bell = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  SlotOutbox outbox(arena.header(), arena.header().outbox, arena.outbox_data(), bell);
  RingReader reader(arena.header().outbox, arena.outbox_data());
  const std::string payload(static_cast<std::size_t>(state.range(0)), 'x');
  Record record;
  for (auto _ : state) {
    outbox.write(kKind, {std::as_bytes(std::span(payload))});
    benchmark::DoNotOptimize(reader.next(record));
  }
  state.SetItemsProcessed(state.iterations());
  state.SetBytesProcessed(state.iterations() * state.range(0));
  ::close(bell);
}
BENCHMARK(record_through_outbox)->Arg(48)->Arg(1024)->Arg(65536);

/// A slot thread that writes as fast as the agent thread reads.
void stream_between_threads(benchmark::State& state) {
  SlotArena arena = SlotArena::create_private();
  const int bell = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  SlotOutbox outbox(arena.header(), arena.header().outbox, arena.outbox_data(), bell);
  RingReader reader(arena.header().outbox, arena.outbox_data());
  const std::string payload(static_cast<std::size_t>(state.range(0)), 'x');
  std::atomic<bool> over{false};
  std::thread agent([&] {
    Record record;
    while (!over.load(std::memory_order_relaxed)) benchmark::DoNotOptimize(reader.next(record));
    while (reader.next(record)) benchmark::DoNotOptimize(record);
  });
  for (auto _ : state) outbox.write(kKind, {std::as_bytes(std::span(payload))});
  over.store(true);
  agent.join();
  state.SetItemsProcessed(state.iterations());
  state.SetBytesProcessed(state.iterations() * state.range(0));
  ::close(bell);
}
BENCHMARK(stream_between_threads)->Arg(48)->Arg(1024)->Arg(65536)->UseRealTime();

}  // namespace
}  // namespace betterbox
