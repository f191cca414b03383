// Segments: a large value written into shared memory that is warm, mapped by a reader, and given back; beside it the
// copy that nothing can avoid.
#include <benchmark/benchmark.h>

#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/check.h"
#include "runtime/digest.h"
#include "runtime/segment_pool.h"

namespace betterbox {
namespace {

/// The same file each time: nobody else uses the pool.
void write_warm_segment(benchmark::State& state) {
  const std::string value(static_cast<std::size_t>(state.range(0)), 'x');
  const std::span<const std::byte> part = std::as_bytes(std::span(value));
  const auto pool = segment_pool();
  for (auto _ : state) {
    const auto lease = pool->write(std::span(&part, 1));
    BB_CHECK(lease.has_value());
    benchmark::DoNotOptimize(lease->parts.data());
  }
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(write_warm_segment)->Arg(64 << 10)->Arg(1 << 20)->Arg(64 << 20);

/// A reader of one process more: it locks, checks, maps and reads a byte of each page.
void map_segment(benchmark::State& state) {
  constexpr std::size_t kPage = 4096;
  const std::string value(static_cast<std::size_t>(state.range(0)), 'x');
  const std::span<const std::byte> part = std::as_bytes(std::span(value));
  const auto lease = segment_pool()->write(std::span(&part, 1));
  BB_CHECK(lease.has_value());
  for (auto _ : state) {
    const auto mapped = MappedSegment::open(kSegmentFolder, lease->parts.front());
    BB_CHECK(mapped != nullptr);
    unsigned sum = 0;
    for (std::size_t at = 0; at < mapped->bytes().size(); at += kPage)
      sum += static_cast<unsigned>(mapped->bytes()[at]);
    benchmark::DoNotOptimize(sum);
  }
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(map_segment)->Arg(64 << 10)->Arg(1 << 20)->Arg(64 << 20);

/// The limit: one copy between warm memory of this process.
void copy_memory(benchmark::State& state) {
  const std::string value(static_cast<std::size_t>(state.range(0)), 'x');
  std::string copy(value.size(), 'y');
  for (auto _ : state) {
    std::memcpy(copy.data(), value.data(), value.size());
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(copy_memory)->Arg(64 << 10)->Arg(1 << 20)->Arg(64 << 20);

/// The name of a context by its content: must stay far below the cost of sending it.
void digest_bytes(benchmark::State& state) {
  const std::string value(static_cast<std::size_t>(state.range(0)), 'x');
  for (auto _ : state) benchmark::DoNotOptimize(digest_of(std::as_bytes(std::span(value))));
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(digest_bytes)->Arg(4 << 10)->Arg(1 << 20);

}  // namespace
}  // namespace betterbox
