#include "simulator/performance.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <ctime>
#include <memory>
#include <stdexcept>

#include "runtime/page.h"
#include "scheduler/core.h"
#include "simulator/agent.h"
#include "simulator/memory.h"
#include "simulator/pages.h"
#include "simulator/reference.h"
#include "simulator/ring_queue.h"
#include "simulator/wake_queue.h"

namespace betterbox::sim {
namespace {

constexpr std::uint32_t kToScheduler = ~std::uint32_t{0};
constexpr std::uint32_t kToClient = kToScheduler - 1;
constexpr PeerId kSchedulerPeer{1}, kClientPeer{2};
constexpr std::uint64_t kFirstAgentPeer = 1000;
constexpr std::uint64_t kSerial = 1;
/// The bus is up before the submission: everybody has greeted and been answered by then.
constexpr std::int64_t kSetUp = -10'000'000'000;
/// As the real client does it: what has arrived is acknowledged when nothing more comes for so long.
constexpr std::int64_t kClientAckDelay = 100'000'000;
/// Costs of so many items fit a message's body.
constexpr std::uint64_t kHintsPerMessage = 100'000;
constexpr int kTenths = 10;
/// Buckets of scheduler time; the makespan is not known in advance.
constexpr double kBucketsPerIdeal = 400;

double cpu_seconds() {
  timespec t{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

std::int64_t wall_ns() { return std::chrono::steady_clock::now().time_since_epoch().count(); }

/// The name of the message with this place in Body.
template <std::size_t at = 0> std::string name_of_kind(std::size_t kind) {
  if constexpr (at < std::variant_size_v<AnyBody>) {
    return kind == at ? kind_name(Body(std::in_place_index<at>)) : name_of_kind<at + 1>(kind);
  } else {
    return "?";
  }
}

struct Delivery {
  std::int64_t at = 0;
  std::uint32_t to = 0;
  ConnectionId connection;
  Message message;
};

/// The scheduler core, what it costs, and what it owns.
class SchedulerHost {
 public:
  explicit SchedulerHost(double bucket_ns) : bucket_ns_(bucket_ns) {
    SchedulerMemory::bytes = SchedulerMemory::peak = 0;
    const Allocating scheduler(true);
    scheduler::Config config;
    config.peer = kSchedulerPeer;
    config.host = "head";
    core_ = std::make_unique<scheduler::SchedulerCore>(std::move(config), core_time(kSetUp));
  }
  ~SchedulerHost() {
    const Allocating scheduler(true);
    core_.reset();
  }
  SchedulerHost(const SchedulerHost&) = delete;
  SchedulerHost& operator=(const SchedulerHost&) = delete;

  /// `send(connection, message)` for each message that leaves.
  template <class Send> void handle(std::int64_t now, scheduler::Event&& event, Send send) {
    scheduler::Effects effects;
    const std::int64_t begin = wall_ns();
    {
      const Allocating scheduler(true);
      core_->handle(core_time(now), std::move(event), effects);
    }
    note(now, static_cast<double>(wall_ns() - begin));
    for (scheduler::Effect& effect : effects.send) {
      // A copy: what is under way is not the scheduler's any more.
      if (auto* out = std::get_if<scheduler::SendMessage>(&effect))
        send(out->connection, Message(out->message));
    }
  }
  std::int64_t next_deadline() const { return sim_time(core_->next_deadline()); }
  const scheduler::State& state() const { return core_->state(); }
  double spent_ns() const { return spent_ns_; }
  /// Share of one core in each tenth of [0, makespan).
  std::vector<double> load_by_tenths(double makespan_ns, double correction) const {
    std::vector<double> spent(kTenths, 0.0);
    for (std::size_t b = 0; b < buckets_.size(); ++b) {
      const double at = (static_cast<double>(b) + 0.5) * bucket_ns_ / makespan_ns;
      if (at < 1) spent[static_cast<std::size_t>(at * kTenths)] += buckets_[b];
    }
    for (double& s : spent) s *= correction * kTenths / makespan_ns;
    return spent;
  }

 private:
  void note(std::int64_t now, double ns) {
    if (now < 0) return;
    spent_ns_ += ns;
    const auto bucket = static_cast<std::size_t>(static_cast<double>(now) / bucket_ns_);
    if (bucket >= (1U << 24)) return;
    if (bucket >= buckets_.size()) buckets_.resize(bucket + 1, 0.0);
    buckets_[bucket] += ns;
  }

  std::unique_ptr<scheduler::SchedulerCore> core_;
  double bucket_ns_;
  double spent_ns_ = 0;
  std::vector<double> buckets_;
};

class PerformanceRun final : public AgentWorld {
 public:
  PerformanceRun(const Case& all, const RunOptions& options, double ideal, std::vector<Execution>* executions)
      : case_(all),
        options_(options),
        latency_(std::llround(options.latency_us * 1000)),
        wake_(std::llround(options.wake_us * 1000)),
        scheduler_(std::max(1.0, ideal / kBucketsPerIdeal)),
        executions_(executions),
        ideal_(ideal) {
    runs_.resize(all.work.items());
    delivered_.resize(all.work.items());
    if (executions_ == nullptr && options.copies_permille > 0) executions_ = &own_executions_;
    if (executions_ != nullptr) executions_->assign(all.work.items(), {});
    first_start_.assign(all.machines.size() * all.slots, kNever);
    last_end_.assign(first_start_.size(), -1);
  }

  void run() {
    agents_.resize(case_.machines.size());
    for (std::uint32_t i = 0; i < agents_.size(); ++i) {
      wakes_.add();
      const Machine& machine = case_.machines[i];
      if (machine.joins_ns <= 0) {
        arrive(kSetUp, i);
      } else {
        script_.push_back({machine.joins_ns, i, true});
      }
      if (machine.leaves_ns != kNever) script_.push_back({machine.leaves_ns, i, false});
    }
    std::stable_sort(script_.begin(), script_.end(),
                     [](const Scripted& a, const Scripted& b) { return a.at < b.at; });
    Hello hello;
    hello.peer = kClientPeer;
    hello.session = 1;
    hello.host = "login";
    hello.pid = 1;
    say(kSetUp, client_connection(), {std::move(hello), {}});
    run_until(0);
    kinds_ = {};
    SchedulerMemory::peak = SchedulerMemory::bytes;
    submit();
    run_until(kNever);
    check_end();
  }

  Measured measured(double correction) const;

  // AgentWorld
  void from_agent(SimAgent& agent, Message&& message) override {
    say(now_, connection_of(agent.number()), std::move(message));
  }
  const std::int64_t* sums_of(CallId) override { return case_.work.sums.data(); }
  void context_given(CallId, const Frame&) override {}
  Frame outcomes(const Executed& executed) override {
    const std::uint32_t slot = executed.agent * case_.slots + executed.slot;
    std::int64_t start = executed.start;
    first_start_[slot] = std::min(first_start_[slot], start);
    for (std::uint32_t k = 0; k < executed.count; ++k) {
      const std::uint64_t item = executed.first + k;
      const bool again = runs_[item]++ > 0;
      if (again) ++run_twice_;
      if (executions_ != nullptr)
        note_execution((*executions_)[item], {start, executed.ends[k], slot}, again);
      start = executed.ends[k];
    }
    last_end_[slot] = std::max(last_end_[slot], start);
    makespan_ = std::max(makespan_, start);
    return pages_.of(executed.count);
  }
  void agent_stopped(SimAgent& agent) override { stopped_.push_back(agent.number()); }

 private:
  /// Of copies the first one counts; else the later one, because a worker that left took the first outcome with it.
  void note_execution(Execution& noted, const Execution& now, bool again) const {
    if (!again || options_.copies_permille == 0 || now.end < noted.end) noted = now;
  }

  struct Scripted {
    std::int64_t at;
    std::uint32_t agent;
    bool comes;
  };

  static ConnectionId client_connection() { return {1}; }
  static ConnectionId connection_of(std::uint32_t agent) { return {agent + 2ULL}; }

  void say(std::int64_t at, ConnectionId connection, Message&& message) {
    ++kinds_[message.body.index()];
    network_.push({at + latency_, kToScheduler, connection, std::move(message)});
  }

  void tell(ConnectionId connection, Message&& message) {
    ++kinds_[message.body.index()];
    const bool client = connection == client_connection();
    network_.push({now_ + latency_, client ? kToClient : static_cast<std::uint32_t>(connection.value - 2),
                   connection, std::move(message)});
  }

  void arrive(std::int64_t at, std::uint32_t number) {
    const Machine& machine = case_.machines[number];
    agents_[number] = std::make_unique<SimAgent>(
        *this, SimAgent::Options{number, {kFirstAgentPeer + number}, case_.slots, wake_}, machine.speed);
    ++arrived_;
    say(at, connection_of(number), {agents_[number]->hello(1), {}});
  }

  void leave(std::uint32_t number) {
    if (agents_[number] == nullptr) return;
    SimAgent& agent = *agents_[number];
    agent.turn(now_);
    agent.feed(now_, StopAsked{});
    agent.turn(now_);
    bury();
  }

  /// Agents that have ended.
  void bury() {
    for (const std::uint32_t number : stopped_) {
      note_gone(*agents_[number]);
      agents_[number].reset();
      wakes_.set(number, kNever);
    }
    stopped_.clear();
  }
  void note_gone(const SimAgent& agent) {
    steals_ += agent.core().steals();
    wasted_ += static_cast<double>(agent.wasted_ns());
    const std::vector<std::int64_t>& busy = agent.slot_busy_ns();
    for (std::size_t s = 0; s < busy.size(); ++s)
      slot_busy_.push_back({agent.number() * case_.slots + static_cast<std::uint32_t>(s), busy[s]});
  }

  void submit() {
    now_ = 0;
    Call call;
    call.serial = kSerial;
    call.method = "simulated";
    call.retries = 2;
    call.policy = options_.policy;
    call.idempotent = options_.copies_permille > 0;
    call.copies_permille = options_.copies_permille;
    call.needs.cpus_milli = 1000;
    say(0, client_connection(), {std::move(call), {Frame(std::string("context"))}});
    const std::uint64_t count = case_.work.items();
    const std::uint64_t most = options_.hints ? kHintsPerMessage : count;
    for (std::uint64_t first = 0; first < count; first += most) {
      Items items;
      items.serial = kSerial;
      items.spans.push_back({first, std::min(most, count - first)});
      items.closed = first + most >= count;
      for (std::uint64_t i = first; options_.hints && i < first + items.spans[0].count; ++i)
        items.costs.push_back(static_cast<float>(case_.work.us(i)));
      Frame page = make_int_range_page(static_cast<std::int64_t>(first), 1, items.spans[0].count);
      say(0, client_connection(), {std::move(items), {std::move(page)}});
    }
  }

  void run_until(std::int64_t end) {
    while (!settled_) {
      const std::int64_t delivery = network_.empty() ? kNever : network_.front().at;
      const std::int64_t deadline = scheduler_.next_deadline();
      const std::int64_t scripted = script_at_ < script_.size() ? script_[script_at_].at : kNever;
      const std::int64_t next = std::min({delivery, wakes_.next_at(), deadline, client_ack_at_, scripted});
      if (next >= end) {
        now_ = end == kNever ? now_ : end;
        if (end == kNever) throw std::runtime_error("nothing happens any more, but the call is not settled");
        return;
      }
      note_progress(next);
      now_ = next;
      if (scripted == next) {
        const Scripted& event = script_[script_at_++];
        event.comes ? arrive(now_, event.agent) : leave(event.agent);
      } else if (delivery == next) {
        deliver();
      } else if (deadline == next) {
        scheduler_handle(scheduler::DeadlineReached{});
      } else if (wakes_.next_at() == next) {
        turn(wakes_.next());
      } else {
        acknowledge();
      }
    }
  }

  void note_progress(std::int64_t next) {
    if (next != now_) {
      at_once_ = 0;
    } else if (++at_once_ > 100'000'000) {
      throw std::runtime_error("the clock stands still at " + std::to_string(now_) + " ns");
    }
    if (static_cast<double>(next) > 1e13 + 1000 * ideal_) throw std::runtime_error("the call never ends");
  }

  void turn(std::uint32_t agent) { wakes_.set(agent, agents_[agent]->turn(now_)); }

  void scheduler_handle(scheduler::Event&& event) {
    scheduler_.handle(now_, std::move(event),
                      [this](ConnectionId to, Message&& message) { tell(to, std::move(message)); });
  }

  void deliver() {
    Delivery delivery = network_.pop();
    if (delivery.to == kToScheduler) {
      scheduler_handle(scheduler::MessageArrived{delivery.connection, std::move(delivery.message)});
    } else if (delivery.to == kToClient) {
      client_receives(std::move(delivery.message));
    } else if (agents_[delivery.to] != nullptr) {
      SimAgent& agent = *agents_[delivery.to];
      agent.receive(now_, std::move(delivery.message));
      while (!network_.empty() && network_.front().at == now_ && network_.front().to == delivery.to)
        agent.receive(now_, network_.pop().message);
      turn(delivery.to);
    }
  }

  void client_receives(Message&& message) {
    if (auto* results = std::get_if<Results>(&message.body)) {
      for (const PageSpan& span : results->spans) {
        for (std::uint64_t i = span.first; i < span.first + span.count; ++i) {
          if (i >= delivered_.size() || delivered_[i]++ > 0)
            throw std::runtime_error("item " + std::to_string(i) + " was delivered twice");
        }
      }
      for (const Frame& frame : message.frames) unacked_bytes_ += frame.size() + 64;
      ack_ = results->ack;
      if (unacked_bytes_ >= kAckEveryBytes) {
        acknowledge();
      } else {
        client_ack_at_ = now_ + kClientAckDelay;
      }
    } else if (auto* refused = std::get_if<Refused>(&message.body)) {
      throw std::runtime_error("the scheduler refused the client: " + refused->text);
    } else if (std::holds_alternative<Settled>(message.body)) {
      settled_ = true;
      acknowledge();
      say(now_, client_connection(), {Forget{kSerial}, {}});
    }
  }

  void acknowledge() {
    client_ack_at_ = kNever;
    if (unacked_bytes_ == 0) return;
    unacked_bytes_ = 0;
    say(now_, client_connection(), {Acknowledge{ack_}, {}});
  }

  void check_end() {
    if (options_.copies_permille > 0) {
      makespan_ = 0;
      for (const Execution& execution : *executions_) makespan_ = std::max(makespan_, execution.end);
    }
    for (std::uint64_t i = 0; i < delivered_.size(); ++i) {
      if (delivered_[i] != 1) throw std::runtime_error("item " + std::to_string(i) + " has no outcome");
    }
    for (auto& agent : agents_) {
      if (agent != nullptr) note_gone(*agent);
    }
  }

  const Case& case_;
  const RunOptions options_;
  const std::int64_t latency_, wake_;
  SchedulerHost scheduler_;
  std::vector<Execution> own_executions_;
  std::vector<Execution>* executions_;
  const double ideal_;

  std::int64_t now_ = kSetUp;
  std::uint64_t at_once_ = 0;
  RingQueue<Delivery> network_;
  WakeQueue wakes_;
  std::vector<std::unique_ptr<SimAgent>> agents_;
  std::vector<std::uint32_t> stopped_;
  std::vector<Scripted> script_;
  std::size_t script_at_ = 0;
  OutcomePages pages_;

  // The client.
  bool settled_ = false;
  std::uint64_t ack_ = 0;
  std::size_t unacked_bytes_ = 0;
  std::int64_t client_ack_at_ = kNever;
  std::vector<std::uint8_t> delivered_;

  // What is measured.
  std::array<std::uint64_t, std::variant_size_v<AnyBody>> kinds_{};
  std::uint64_t arrived_ = 0, run_twice_ = 0, steals_ = 0;
  std::int64_t makespan_ = 0;
  double wasted_ = 0;
  std::vector<std::uint8_t> runs_;
  std::vector<std::int64_t> first_start_, last_end_;
  std::vector<std::pair<std::uint32_t, std::int64_t>> slot_busy_;
};

Measured PerformanceRun::measured(double correction) const {
  Measured m;
  m.seed = case_.seed;
  m.items = case_.work.items();
  m.workers = arrived_;
  m.makespan_ns = static_cast<double>(makespan_);
  m.ideal_ns = ideal_;
  double busiest = 0, busy = 0, slots_time = 0;
  for (const auto& [slot, ns] : slot_busy_) {
    const Machine& machine = case_.machines[slot / case_.slots];
    const double from = static_cast<double>(std::max<std::int64_t>(0, machine.joins_ns));
    const double to = static_cast<double>(std::min(makespan_, machine.leaves_ns));
    busiest = std::max(busiest, static_cast<double>(ns));
    busy += static_cast<double>(ns);
    slots_time += std::max(0.0, to - from);
    if (last_end_[slot] < 0) {
      m.start_idle_ns += std::max(0.0, to - from);
      continue;
    }
    const auto first = static_cast<double>(first_start_[slot]), last = static_cast<double>(last_end_[slot]);
    m.start_idle_ns += first - from;
    m.end_idle_ns += std::max(0.0, to - last);
    m.middle_idle_ns += last - first - static_cast<double>(ns);
  }
  m.percent_imbalance = busy > 0 ? (busiest / (busy / static_cast<double>(slot_busy_.size())) - 1) * 100 : 0;
  m.utilisation = slots_time > 0 ? busy / slots_time : 0;
  const scheduler::Counters& counters = scheduler_.state().counters;
  for (std::size_t kind = 0; kind < kinds_.size(); ++kind) {
    if (kinds_[kind] == 0) continue;
    m.messages += kinds_[kind];
    m.messages_by_kind.emplace_back(name_of_kind(kind), kinds_[kind]);
  }
  m.leases = counters.leases_granted;
  m.splits = counters.leases_cut;
  m.revokes = counters.revokes_sent;
  m.stale_outcomes = counters.stale_outcomes;
  m.steals = steals_;
  m.run_twice = run_twice_;
  m.wasted_ns = wasted_;
  m.scheduler_ns = scheduler_.spent_ns() * correction;
  m.scheduler_load = scheduler_.load_by_tenths(m.makespan_ns, correction);
  m.scheduler_load_peak = *std::max_element(m.scheduler_load.begin(), m.scheduler_load.end());
  m.bytes_peak = SchedulerMemory::peak;
  return m;
}

}  // namespace

Measured run_performance(const Case& all, const RunOptions& options, std::vector<Execution>* executions) {
  const double ideal = ideal_ns(all.work, all);
  const std::int64_t wall_before = wall_ns();
  const double cpu_before = cpu_seconds();
  PerformanceRun run(all, options, ideal, executions);
  run.run();
  const double wall = 1e-9 * static_cast<double>(wall_ns() - wall_before);
  // Measured by the wall clock, which is cheap to read: less what other processes took of this core meanwhile.
  const double correction = std::min(1.0, (cpu_seconds() - cpu_before) / std::max(wall, 1e-9));
  Measured measured = run.measured(correction);
  measured.wall_s = wall;
  measured.greedy_ns = greedy_ns(all);
  return measured;
}

}  // namespace betterbox::sim
