// The worker core alone: what one item costs when every part has a single one, so that nothing is amortised. The
// driver here plays slots that finish in turn, and a scheduler that always has one more lease.
#include <benchmark/benchmark.h>

#include <deque>
#include <utility>
#include <vector>

#include "runtime/page.h"
#include "worker/core.h"

namespace betterbox {
namespace {

class Bench {
 public:
  Bench(std::uint32_t seats, const char* policy) : seats_(seats), core_({{7}, seats, false}) {
    feed(SessionBegan{{1}, {}});
    Context context;
    context.call = call_;
    context.policy = policy;
    feed(ContextArrived{std::move(context), Frame(std::string("context"))});
    while (open_ < seats_ * 2) grant();
    feed(TurnEnded{});
  }

  /// One seat finishes its item: an outcome, the end of its part, and a turn.
  void finish_one() {
    const Installed part = running_.front();
    running_.pop_front();
    now_ = now_ + microseconds(10);
    feed(SeatProgressed{part.seat, 1, part.station, part.generation, 0, part.count, part.count * 1'000'000,
                        part.count * 1e12, 1'000'000, part.count == 1 ? single_ : pages(part.count)});
    feed(SubLeaseDone{part.seat, 1, part.station, part.generation});
    open_ -= part.count;
    items_ += part.count;
    while (open_ < seats_ * 2) grant();
    feed(TurnEnded{});
  }
  std::uint64_t items() const { return items_; }

 private:
  struct Installed {
    SeatId seat;
    std::uint32_t station, generation, count;
  };

  void grant() {
    const Range range{next_, next_ + seats_};
    next_ = range.end;
    open_ += seats_;
    feed(LeaseGranted{{{++leases_}, call_, range, 1, {{range.begin, seats_}}, {}, 0, 0},
                      {make_int_range_page(0, 1, seats_)}});
  }
  Frame pages(std::uint32_t count) {
    PageBuilder page;
    const std::byte none{};
    for (std::uint32_t i = 0; i < count; ++i) page.add({&none, 1});
    return page.finish();
  }
  void feed(Event&& event) {
    Effects effects;
    core_.handle(now_, std::move(event), effects);
    for (Effect& effect : effects.send) {
      if (const auto* install = std::get_if<InstallLease>(&effect)) {
        running_.push_back({install->seat, install->station, install->generation, install->count});
      } else if (const auto* cut = std::get_if<CutLease>(&effect)) {
        feed(CutDone{cut->seat, cut->station, {1, 1}, {1, 1}, 0});
      } else if (auto* sent = std::get_if<SendToScheduler>(&effect)) {
        const auto* outcomes = std::get_if<Outcomes>(&sent->message.body);
        if (outcomes != nullptr) acked_ = outcomes->ack;
      }
    }
    if (acked_ > told_ + 64) {
      told_ = acked_;
      feed(AcknowledgeArrived{acked_});
    }
  }

  const CallId call_{{9}, 1};
  const Frame single_ = make_single_page(std::as_bytes(std::span("\0", 1)));
  std::uint64_t seats_;
  WorkerCore core_;
  TimePoint now_{1'000'000'000};
  std::deque<Installed> running_;
  std::uint64_t next_ = 0, open_ = 0, leases_ = 0, items_ = 0, acked_ = 0, told_ = 0;
};

void single_items(benchmark::State& state, const char* policy) {
  Bench bench(static_cast<std::uint32_t>(state.range(0)), policy);
  for (auto _ : state) bench.finish_one();
  state.counters["ns_per_item"] = benchmark::Counter(
      static_cast<double>(bench.items()) * 1e-9, benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}
BENCHMARK_CAPTURE(single_items, self_scheduling, "ss")->Arg(2)->Arg(128)->Arg(4096);
BENCHMARK_CAPTURE(single_items, auto, "auto") -> Arg(2) -> Arg(128) -> Arg(4096);

}  // namespace
}  // namespace betterbox
