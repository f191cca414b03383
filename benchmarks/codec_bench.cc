// Messages and pages to bytes and back: what a scheduler and an agent pay per message.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "runtime/codec.h"
#include "runtime/limits.h"
#include "runtime/page.h"

namespace betterbox {
namespace {

/// Outcomes with `range(0)` spans, each with a page: the most frequent message of a spread call.
Message outcomes(std::int64_t spans) {
  Outcomes body;
  body.ack = 7;
  body.lease = LeaseId{11};
  Frames pages;
  for (std::int64_t i = 0; i < spans; ++i) {
    const auto first = static_cast<std::uint64_t>(i) * 8;
    body.spans.push_back({first, 8, 1'000'000});
    pages.push_back(make_int_range_page(0, 1, 8));
  }
  return Message{std::move(body), std::move(pages)};
}

void encode_outcomes(benchmark::State& state) {
  const Message message = outcomes(state.range(0));
  for (auto _ : state) benchmark::DoNotOptimize(encode(message));
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(encode_outcomes)->Arg(1)->Arg(16)->Arg(256);

void decode_outcomes(benchmark::State& state) {
  const Message message = outcomes(state.range(0));
  const std::string bytes = encode(message);
  for (auto _ : state) benchmark::DoNotOptimize(decode(std::as_bytes(std::span(bytes)), message.frames));
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(decode_outcomes)->Arg(1)->Arg(16)->Arg(256);

/// A no-op call on its way to a box and its answer on the way back: what each side encodes and decodes.
void call_there_and_back(benchmark::State& state) {
  const Message call{BoxCall{7, BoxId{}, "noop"}, {Frame(std::string(24, 'a'))}};
  const Message reply{BoxReply{7}, {Frame(std::string(24, 'a'))}};
  for (auto _ : state) {
    for (const Message* message : {&call, &reply}) {
      const std::string bytes = encode(*message);
      benchmark::DoNotOptimize(decode(std::as_bytes(std::span(bytes)), message->frames));
    }
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(call_there_and_back);

/// A page of small items built, checked and sliced in two, as when a lease is cut.
void build_and_slice_page(benchmark::State& state) {
  const std::string item(static_cast<std::size_t>(state.range(0)), 'x');
  for (auto _ : state) {
    PageBuilder builder;
    while (builder.bytes() + item.size() < kPageBytes) builder.add(std::as_bytes(std::span(item)));
    const std::uint64_t count = builder.count();
    const Frame page = builder.finish();
    const auto view = PageView::parse(page.bytes());
    benchmark::DoNotOptimize(slice_page(page, *view, count / 2, count));
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(kPageBytes));
}
BENCHMARK(build_and_slice_page)->Arg(9)->Arg(200)->Arg(8192);

}  // namespace
}  // namespace betterbox
