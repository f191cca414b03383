#include "simulator/fault_world.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "simulator/fault_notes.h"
#include "simulator/units.h"

namespace betterbox::sim {
namespace {

constexpr std::uint64_t kMostEvents = 3'000'000;
/// From the end of all faults until every call must be settled: two graces and more, and all the work several times over.
constexpr std::int64_t kConvergence = 60 * kSecond;
constexpr double kWorkOver = 5;
/// Then calls of clients that died are dropped, too: they are waited for until their connection is seen to be over.
constexpr std::int64_t kQuiet = 20 * kSecond;
/// How often the cores compare all their tables.
constexpr std::uint64_t kSanityEvery = 16;
/// A journal is compacted now and then.
constexpr double kCompact = 0.01;

}  // namespace

FaultWorld::FaultWorld(std::uint64_t seed, const FaultOptions& options, FaultResult& result)
    : options_(options),
      result_(result),
      random_(seed ^ 0xFA0175ULL),
      links_(agenda_, random_, result.faults) {}

void FaultWorld::draw_hosts() {
  workers_ = options_.workers > 0 ? options_.workers : 3 + random_.below(3);
  const std::uint64_t clients = 2 + random_.below(2);
  calls_per_client_ = 1 + random_.below(3);
  const std::uint64_t items = options_.items > 0 ? options_.items : 100 + random_.below(300);
  items_per_call_ = std::max<std::uint64_t>(1, items / (clients * calls_per_client_) * 2);
  constexpr double kMeansMs[] = {1, 20, 100, 300};
  mean_ms_ = kMeansMs[random_.below(4)];
  hosts_.resize(workers_ + clients);
  for (std::uint32_t i = 0; i < hosts_.size(); ++i) {
    Host& host = hosts_[i];
    host.is_client = i >= workers_;
    host.number = i;
    host.slots = options_.slots > 0 ? options_.slots : static_cast<std::uint32_t>(1 + random_.below(3));
    host.speed = Speed(1 + 2.5 * random_.unit());
  }
}

void FaultWorld::plan_faults() {
  faults_end_ = 3 * kSecond + static_cast<std::int64_t>(random_.below(9 * kSecond));
  const std::uint64_t count = 4 + random_.below(20);
  for (std::uint64_t i = 0; i < count; ++i)
    agenda_.add(static_cast<std::int64_t>(random_.below(static_cast<std::uint64_t>(faults_end_))),
                Doing::kFault);
}

void FaultWorld::run() {
  draw_hosts();
  restart_scheduler();
  for (Host& host : hosts_) start(host);
  plan_faults();
  std::uint64_t events = 0;
  auto run_until = [&](std::int64_t end) {
    for (;;) {
      std::int64_t next = agenda_.empty() ? kNever : agenda_.next().at;
      for (const Host& host : hosts_) next = std::min(next, host.wake);
      if (core_ != nullptr) next = std::min(next, sim_time(core_->next_deadline()));
      if (next >= end) break;
      now_ = std::max(now_, next);
      if (++events > kMostEvents) throw Violation("convergence", "the events do not end");
      step();
      if (healing_ && events % 64 == 0 &&
          std::all_of(hosts_.begin(), hosts_.end(), [](auto& h) { return !h.is_client || h.client->done(); }))
        return;
    }
    now_ = end;
  };
  run_until(faults_end_);
  heal();
  run_until(now_ + convergence_time());
  wait_for_convergence();
  healing_ = false;
  for (Host& host : hosts_) {
    if (host.is_client) host.client->forget_all(say_of(host));
  }
  run_until(now_ + kQuiet);
  check_quiet();
}

/// The earliest thing that is due.
void FaultWorld::step() {
  if (!agenda_.empty() && agenda_.next().at <= now_) {
    const Happening event = agenda_.next();
    agenda_.pop();
    return happen(event);
  }
  if (core_ != nullptr && sim_time(core_->next_deadline()) <= now_)
    return handle(scheduler::DeadlineReached{});
  for (Host& host : hosts_) {
    if (host.wake <= now_) return turn(host);
  }
}

void FaultWorld::happen(const Happening& event) {
  switch (event.doing) {
    case Doing::kToScheduler: return to_scheduler(event.a);
    case Doing::kToPeer: return to_peer(event.a);
    case Doing::kSchedulerSeesEnd: {
      Link& link = links_.at(event.a);
      if (core_ == nullptr || link.scheduler_life != scheduler_life_ ||
          !std::exchange(link.scheduler_open, false))
        return;
      note("scheduler: connection ", event.a, " ended");
      return handle(scheduler::ConnectionEnded{{event.a + 1}, "broken", false});
    }
    case Doing::kPeerSeesEnd: return peer_sees_end(event.a);
    case Doing::kGreetingTimeout: return greeting_timeout(event.a);
    case Doing::kReconnect: return reconnect(static_cast<std::uint32_t>(event.a), event.b);
    case Doing::kRestartPeer: {
      Host& host = hosts_[event.a];
      if (host.alive || host.life != event.b) return;
      ++(host.is_client ? result_.faults.restart_client : result_.faults.restart_worker);
      return start(host);
    }
    case Doing::kRestartScheduler:
      if (core_ == nullptr) {
        ++result_.faults.restart_scheduler;
        restart_scheduler();
      }
      return;
    case Doing::kProcessEnded:
      if (core_ != nullptr) handle(scheduler::ProcessEnded{{event.a}});
      return;
    case Doing::kClientStep: return client_step(static_cast<std::uint32_t>(event.a), event.b);
    case Doing::kFault:
      if (!healing_) fault();
      return;
  }
}

void FaultWorld::heal() {
  note("all faults end");
  healing_ = true;
  links_.faulty = false;
  crash_ = Crash::kNone;
  if (core_ == nullptr) {
    ++result_.faults.restart_scheduler;
    restart_scheduler();
  }
  for (Host& host : hosts_) {
    host.cut_off_until = 0;
    if (!host.alive) {
      ++(host.is_client ? result_.faults.restart_client : result_.faults.restart_worker);
      start(host);
    }
    if (host.is_client) host.client->settle_down(say_of(host));
  }
}

std::int64_t FaultWorld::convergence_time() const {
  double slots = 0, work_ns = 0;
  for (const Host& host : hosts_) {
    if (host.is_client) {
      work_ns += static_cast<double>(calls_per_client_ * items_per_call_) * mean_ms_ * 1.5e6;
    } else {
      slots += host.slots;
    }
  }
  return kConvergence + static_cast<std::int64_t>(kWorkOver * work_ns / slots);
}

void FaultWorld::wait_for_convergence() {
  std::string open;
  for (const Host& host : hosts_) {
    if (host.is_client) open += host.client->done() ? "" : host.client->unsettled();
  }
  if (!open.empty()) throw Violation("convergence", "long after the last fault are open:" + open);
}

/// Nothing is left of calls that are over.
void FaultWorld::check_quiet() {
  core_->sanity_check();
  if (!core_->state().calls.empty() || !core_->state().leases.empty())
    throw Violation("convergence", "the scheduler holds calls or leases that nobody has any more");
  for (const Host& host : hosts_) {
    if (host.agent == nullptr) continue;
    host.agent->core().sanity_check();
    if (!host.agent->core().idle())
      throw Violation("convergence",
                      "worker " + std::to_string(host.number) + " holds leases of calls that are over");
  }
}

void FaultWorld::add_up() {
  for (const Host& host : hosts_) {
    if (host.client != nullptr) {
      result_.items_delivered += host.client->items_delivered();
      result_.items_lost += host.client->items_lost();
      result_.items_copied += host.client->items_copied();
      result_.stale_results_dropped += host.client->repeated_results();
    }
  }
  if (core_ != nullptr) result_.stale_results_dropped += core_->state().counters.stale_outcomes;
  result_.items_run_twice = ledger_.run_twice();
  result_.executions = ledger_.executions();
  result_.simulated_s = 1e-9 * static_cast<double>(now_);
}

// --- the scheduler ------------------------------------------------------------------------------------------

void FaultWorld::handle(scheduler::Event&& event) {
  scheduler::Effects effects;
  core_->handle(core_time(now_), std::move(event), effects);
  if (++handled_ % kSanityEvery == 0) core_->sanity_check();
  note_gone_agents();
  if (crash_is_due(effects)) {
    const Crash how = std::exchange(crash_, Crash::kNone);
    if (how == Crash::kAfterCommit) {
      ++result_.faults.crash_after_commit;
      commit(std::move(effects.persist));
      transmit(effects.send, random_.below(effects.send.size() + 1));
    } else {
      ++result_.faults.crash_before_commit;
      if (options_.plant_bug) transmit(effects.send, effects.send.size());
    }
    return crash_scheduler();
  }
  commit(std::move(effects.persist));
  transmit(effects.send, effects.send.size());
  if (random_.chance(kCompact)) journal_ = core_->snapshot();
}

/// Where records are made, so that a crash lies between them and what depends on them.
bool FaultWorld::crash_is_due(const scheduler::Effects& effects) const {
  return crash_ != Crash::kNone && (!effects.persist.empty() || now_ >= crash_latest_);
}

void FaultWorld::commit(std::vector<scheduler::Record>&& records) {
  result_.records += records.size();
  for (scheduler::Record& record : records) {
    if (const auto* settled = std::get_if<scheduler::ItemsSettled>(&record))
      ledger_.results_leave(settled->client, settled->results, settled->pages);
    journal_.push_back(std::move(record));
  }
}

void FaultWorld::transmit(std::vector<scheduler::Effect>& effects, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    if (auto* send = std::get_if<scheduler::SendMessage>(&effects[i])) {
      send_to(send->connection, std::move(send->message));
    } else if (const auto* end = std::get_if<scheduler::EndConnection>(&effects[i])) {
      Link& link = links_.at(end->connection.value - 1);
      link.scheduler_open = false;
      agenda_.add(std::max(now_, link.down_last) + 1, Doing::kPeerSeesEnd, end->connection.value - 1);
    }
  }
}

void FaultWorld::send_to(ConnectionId connection, Message&& message) {
  ++result_.messages;
  const std::uint64_t at = connection.value - 1;
  const PeerId peer = links_.at(at).peer_id;
  if (const auto* lease = std::get_if<Lease>(&message.body)) {
    ledger_.lease_sent(peer, *lease);
  } else if (const auto* abandon = std::get_if<Abandon>(&message.body)) {
    ledger_.abandoned(*abandon);
  } else if (const auto* drop = std::get_if<DropCall>(&message.body)) {
    ledger_.call_dropped(drop->call);
  } else if (const auto* results = std::get_if<Results>(&message.body)) {
    ledger_.results_leave(peer, *results, message.frames);
  }
  note("scheduler -> ", hosts_[links_.at(at).peer].is_client ? "client " : "worker ", links_.at(at).peer,
       ": ", kind_name(message.body));
  links_.send_down(now_, at, std::move(message));
}

void FaultWorld::note_gone_agents() {
  const auto& peers = core_->state().peers;
  for (auto at = agents_.begin(); at != agents_.end();) {
    if (peers.find(*at) != peers.end()) {
      ++at;
      continue;
    }
    ledger_.agent_gone(*at);
    at = agents_.erase(at);
  }
}

void FaultWorld::to_scheduler(std::uint64_t at) {
  Message message;
  if (!links_.arrive(now_, at, true, message)) return;
  const Link& link = links_.at(at);
  if (core_ == nullptr || link.scheduler_life != scheduler_life_ || !link.scheduler_open) return;
  ++result_.messages;
  const Host& sender = hosts_[link.peer];
  if (sender.life == link.peer_life && sender.link != at) ++result_.faults.late;
  note(hosts_[link.peer].is_client ? "client " : "worker ", link.peer,
       " -> scheduler: ", kind_name(message.body));
  hear(link, message);
  handle(scheduler::MessageArrived{{at + 1}, std::move(message)});
}

/// For the ledger, before the scheduler acts on it.
void FaultWorld::hear(const Link& link, const Message& message) {
  if (const auto* outcomes = std::get_if<Outcomes>(&message.body)) {
    ledger_.outcomes_arrived(link.peer_id, *outcomes, message.frames);
  } else if (const auto* released = std::get_if<Released>(&message.body)) {
    ledger_.released(link.peer_id, *released);
  } else if (const auto* hello = std::get_if<Hello>(&message.body);
             hello != nullptr && hello->role == Role::kWorker) {
    const auto known = core_->state().peers.find(hello->peer);
    if (known != core_->state().peers.end() && hello->session <= known->second.session) return;
    ledger_.agent_greets(hello->peer, hello->leases);
    agents_.insert(hello->peer);
  }
}

void FaultWorld::crash_scheduler() {
  note("the scheduler dies");
  ++result_.faults.crash_scheduler;
  calls_at_crash_.clear();
  for (const auto& [id, call] : core_->state().calls) calls_at_crash_.insert(id);
  result_.stale_results_dropped += core_->state().counters.stale_outcomes;
  core_.reset();
  const std::uint64_t losses = result_.faults.loss;
  for (std::uint64_t at = 0; at < links_.count(); ++at) {
    if (links_.at(at).scheduler_life == scheduler_life_) links_.break_link(now_, at, 200 * kMs);
  }
  result_.faults.loss = losses;
  agenda_.add(now_ + 100 * kMs + static_cast<std::int64_t>(random_.below(6 * kSecond)),
              Doing::kRestartScheduler);
}

void FaultWorld::restart_scheduler() {
  ++scheduler_life_;
  scheduler::Config config;
  config.peer = {1'000'000ULL + scheduler_life_};
  config.host = "node-0";
  config.boot_id = "boot";
  config.journal = true;
  core_ = std::make_unique<scheduler::SchedulerCore>(std::move(config), core_time(now_), journal_);
  core_->sanity_check();
  ledger_.scheduler_began();
  agents_.clear();
  note("scheduler ", scheduler_life_, " begins with ", journal_.size(), " records");
  check_kept(std::exchange(calls_at_crash_, {}));
}

/// What clients were told is kept is there, unless the scheduler had dropped it for a reason before it died.
void FaultWorld::check_kept(const std::set<CallId>& at_crash) const {
  for (const Host& host : hosts_) {
    if (host.client == nullptr) continue;
    for (const auto& [serial, items] : host.client->accepted()) {
      const CallId id{host.peer, serial};
      if (!at_crash.contains(id)) continue;
      const auto call = core_->state().calls.find(id);
      if (call == core_->state().calls.end() || call->second.items.known_end() < items)
        throw Violation("no-accepted-call-lost", "call " + std::to_string(serial) + " of client " +
                                                     std::to_string(host.peer.value) + " was accepted with " +
                                                     std::to_string(items) + " items; a restart lost it");
    }
  }
}

}  // namespace betterbox::sim
