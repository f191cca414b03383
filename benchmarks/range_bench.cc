// Ranges: claiming items from a range word, cutting it meanwhile, and settling sets of ranges.
#include <benchmark/benchmark.h>

#include <atomic>
#include <cstdint>
#include <thread>

#include "runtime/range.h"
#include "runtime/range_word.h"

namespace betterbox {
namespace {

constexpr std::uint32_t kLeaseItems = 1U << 20;

/// What a slot pays for each item it takes.
void claim_item(benchmark::State& state) {
  RangeWord word;
  word.install(kLeaseItems);
  for (auto _ : state) {
    auto item = word.claim();
    if (!item) {
      word.install(kLeaseItems);
      item = 0;
    }
    benchmark::DoNotOptimize(item);
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(claim_item);

/// The same while another thread keeps cutting the tail.
void claim_item_while_cut(benchmark::State& state) {
  RangeWord word;
  word.install(kLeaseItems);
  std::atomic<bool> over{false};
  std::atomic<bool> renew{false};
  std::thread worker([&] {
    while (!over.load(std::memory_order_relaxed)) {
      benchmark::DoNotOptimize(word.cut(1));
      if (!renew.load()) continue;
      word.install(kLeaseItems);
      renew.store(false);
    }
  });
  for (auto _ : state) {
    if (word.claim()) continue;
    renew.store(true);  // the cutting thread installs, as a worker does, while nobody claims
    while (renew.load()) {}
  }
  over.store(true);
  worker.join();
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(claim_item_while_cut)->UseRealTime();

/// Ranges of a call that settle in an order that leaves holes: `range(0)` of them at a time.
void settle_out_of_order(benchmark::State& state) {
  const auto holes = static_cast<std::uint64_t>(state.range(0));
  for (auto _ : state) {
    RangeSet settled;
    for (std::uint64_t i = 0; i < holes; ++i) settled.insert({i * 20, i * 20 + 10});
    for (std::uint64_t i = 0; i < holes; ++i) settled.insert({i * 20 + 10, i * 20 + 20});
    benchmark::DoNotOptimize(settled.size());
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(holes) * 2);
}
BENCHMARK(settle_out_of_order)->Arg(16)->Arg(1024)->Arg(65536);

}  // namespace
}  // namespace betterbox
