// What the scheduler core costs, without I/O: single submissions, and grants as the number of workers grows.
#include <benchmark/benchmark.h>

#include <memory>

#include "runtime/page.h"
#include "scheduler/core.h"

namespace betterbox::scheduler {
namespace {

/// A core with workers and one client; leases are answered by the benchmark.
class Bus {
 public:
  Bus(std::uint64_t workers, std::uint32_t slots)
      : core(Config{PeerId{1}, "h", "b", 1, "s", {}, {}}, TimePoint{0}) {
    for (std::uint64_t i = 0; i < workers; ++i) {
      greet(ConnectionId{i + 2}, Role::kWorker, PeerId{i + 2});
      say(ConnectionId{i + 2}, Offer{slots, {}, {}});
    }
    greet(client(), Role::kClient, PeerId{10'000'000});
    Call call;
    call.serial = 1;
    say(client(), call, {Frame("context")});
  }

  static ConnectionId client() { return ConnectionId{10'000'000}; }

  void greet(ConnectionId connection, Role role, PeerId peer) {
    Hello hello;
    hello.role = role;
    hello.peer = peer;
    hello.session = 1;
    say(connection, hello);
  }

  void say(ConnectionId from, Body body, Frames frames = {}) {
    effects.send.clear();
    core.handle(TimePoint{++time_}, MessageArrived{from, {std::move(body), std::move(frames)}}, effects);
  }

  SchedulerCore core;
  Effects effects;

 private:
  std::int64_t time_ = 0;
};

struct Granted {
  ConnectionId worker;
  LeaseId lease;
  Range range;
};

/// One item submitted, granted, settled, delivered and acknowledged: three messages in.
void BM_SingleItemCall(benchmark::State& state) {
  Bus bus(static_cast<std::uint64_t>(state.range(0)), 4);
  const Frame page = make_int_range_page(0, 1, 1);
  std::uint64_t item = 0;
  std::map<ConnectionId, std::uint64_t> acks;
  for (auto _ : state) {
    bus.say(Bus::client(), Items{1, {{item, 1}}, false}, {page});
    Granted granted;
    for (const Effect& effect : bus.effects.send) {
      const auto* send = std::get_if<SendMessage>(&effect);
      if (const auto* lease = send ? std::get_if<Lease>(&send->message.body) : nullptr)
        granted = {send->connection, lease->lease, lease->range};
    }
    Outcomes outcomes;
    outcomes.ack = ++acks[granted.worker];
    outcomes.lease = granted.lease;
    outcomes.spans = {{item, 1, 1000}};
    bus.say(granted.worker, std::move(outcomes), {page});
    bus.say(Bus::client(), Acknowledge{++item});
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(BM_SingleItemCall)->RangeMultiplier(10)->Range(10, 100'000);

/// One outcome of a worker that then is granted its next lease, with all workers busy on one large call.
void BM_OutcomeAndGrant(benchmark::State& state) {
  const auto workers = static_cast<std::uint64_t>(state.range(0));
  Bus bus(workers, 4);
  std::deque<Granted> leases;
  const auto collect = [&] {
    for (const Effect& effect : bus.effects.send) {
      const auto* send = std::get_if<SendMessage>(&effect);
      if (const auto* lease = send ? std::get_if<Lease>(&send->message.body) : nullptr)
        leases.push_back({send->connection, lease->lease, lease->range});
    }
  };
  // Items of one second, one page each 4 items: every grant is an item per slot.
  std::uint64_t items = 0;
  const auto feed = [&] {
    Items message{1, {}, false};
    Frames frames;
    for (int i = 0; i < 1000; ++i) {
      message.spans.push_back({items, 4});
      frames.push_back(make_int_range_page(0, 1, 4));
      items += 4;
    }
    bus.say(Bus::client(), std::move(message), std::move(frames));
    collect();
  };
  std::map<ConnectionId, std::uint64_t> acks;
  std::uint64_t results = 0;
  while (leases.size() < workers) feed();
  for (auto _ : state) {
    if (leases.empty()) {
      state.PauseTiming();
      feed();
      state.ResumeTiming();
    }
    const Granted granted = leases.front();
    leases.pop_front();
    Outcomes outcomes;
    outcomes.ack = ++acks[granted.worker];
    outcomes.lease = granted.lease;
    const auto busy = static_cast<std::int64_t>(granted.range.size()) * 1'000'000'000;
    outcomes.spans = {{granted.range.begin, granted.range.size(), busy}};
    bus.say(granted.worker, std::move(outcomes), {make_int_range_page(0, 1, granted.range.size())});
    collect();
    bus.say(Bus::client(), Acknowledge{++results});
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(BM_OutcomeAndGrant)->RangeMultiplier(10)->Range(10, 10'000);

/// A report of 128 outcomes by a worker of 128 slots, no two of them neighbours.
void BM_WideReport(benchmark::State& state) {
  constexpr std::uint64_t kSlots = 128;
  const auto workers = static_cast<std::uint64_t>(state.range(0));
  Bus bus(workers, kSlots);
  struct Running {
    Granted lease;
    std::uint64_t next = 0;  // report: even items of a window of 256, then the odd ones
  };
  std::deque<Running> running;
  const auto collect = [&] {
    for (const Effect& effect : bus.effects.send) {
      const auto* send = std::get_if<SendMessage>(&effect);
      if (const auto* lease = send ? std::get_if<Lease>(&send->message.body) : nullptr)
        running.push_back({{send->connection, lease->lease, lease->range}});
    }
  };
  constexpr std::uint64_t kItems = 1ULL << 40;
  bus.say(Bus::client(), Items{1, {{0, kItems}}, false}, {make_int_range_page(0, 1, kItems)});
  collect();
  std::map<ConnectionId, std::uint64_t> acks;
  const Frame page = make_int_range_page(0, 1, 1);
  std::uint64_t results = 0, items = 0;
  for (auto _ : state) {
    Running now = running.front();
    running.pop_front();
    Outcomes outcomes;
    outcomes.ack = ++acks[now.lease.worker];
    outcomes.lease = now.lease.lease;
    const Range range = now.lease.range;
    const std::uint64_t window = range.begin + now.next / 2 * (2 * kSlots) + now.next % 2;
    for (std::uint64_t i = 0; i < kSlots; ++i) {
      const std::uint64_t item = window + 2 * i;
      if (item < range.end) outcomes.spans.push_back({item, 1, 1'000'000'000});
      outcomes.seats.push_back(
          {SeatId{static_cast<std::uint32_t>(i)}, 1, 1'000'000'000, 1e18, 1'000'000'000});
    }
    items += outcomes.spans.size();
    ++now.next;
    const bool over = range.begin + now.next / 2 * (2 * kSlots) + now.next % 2 >= range.end;
    Frames frames(outcomes.spans.size(), page);
    bus.say(now.lease.worker, std::move(outcomes), std::move(frames));
    collect();
    if (!over) running.push_back(now);
    bus.say(Bus::client(), Acknowledge{++results});
  }
  state.SetItemsProcessed(static_cast<std::int64_t>(items));
}
BENCHMARK(BM_WideReport)->Arg(10)->Arg(1'000)->Arg(10'000);

/// An idle worker asks for half of another's lease, among many that are busy.
void BM_Steal(benchmark::State& state) {
  const auto workers = static_cast<std::uint64_t>(state.range(0));
  for (auto _ : state) {
    state.PauseTiming();
    auto bus = std::make_unique<Bus>(workers, 1);
    bus->say(Bus::client(), Items{1, {{0, workers * 1000}}, true},
             {make_int_range_page(0, 1, workers * 1000)});
    bus->say(Bus::client(), Cancel{1, {workers * 900, workers * 1000}});
    state.ResumeTiming();
    bus->greet(ConnectionId{2'000'000}, Role::kWorker, PeerId{2'000'000});
    bus->say(ConnectionId{2'000'000}, Offer{1, {}, {}});
    benchmark::DoNotOptimize(bus->effects.send.size());
    state.PauseTiming();
    bus.reset();
    state.ResumeTiming();
  }
}
BENCHMARK(BM_Steal)->RangeMultiplier(10)->Range(10, 1'000)->Iterations(50);

}  // namespace
}  // namespace betterbox::scheduler
