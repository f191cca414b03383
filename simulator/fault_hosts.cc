// Processes of workers and clients in fault runs: their sessions, as worker/agent_loop.cc and runtime/client.cc keep them,
// and the faults that befall them.
#include <algorithm>
#include <utility>

#include "simulator/fault_notes.h"
#include "simulator/fault_world.h"
#include "simulator/units.h"

namespace betterbox::sim {
namespace {

constexpr std::int64_t kRetry = 200 * kMs;

}  // namespace

// --- processes ------------------------------------------------------------------------------------------------

void FaultWorld::start(Host& host) {
  ++host.life;
  host.alive = true;
  host.peer = {100 + ++peer_ids_};
  host.session = 0;
  host.welcomed = host.stopped = false;
  host.link.reset();
  host.lost_since = now_;
  if (host.is_client) {
    host.client = std::make_unique<FaultClient>(
        host.peer, host.number, FaultClient::Shape{calls_per_client_, items_per_call_}, random_);
    if (healing_) host.client->settle_down([](Message&&) {});
    agenda_.add(now_ + static_cast<std::int64_t>(random_.below(300 * kMs)), Doing::kClientStep, host.number,
                host.life);
  } else {
    host.agent = std::make_unique<SimAgent>(
        *this, SimAgent::Options{host.number, host.peer, host.slots, 20'000}, host.speed);
  }
  note(host.is_client ? "client " : "worker ", host.number, " starts as peer ", host.peer.value);
  connect(host);
}

void FaultWorld::die(Host& host) {
  note(host.is_client ? "client " : "worker ", host.number, " dies");
  host.alive = false;
  host.wake = kNever;
  if (host.link) {
    const std::uint64_t losses = result_.faults.loss;
    links_.at(*host.link).peer_open = false;
    links_.break_link(now_, *host.link, 50 * kMs);
    result_.faults.loss = losses;
  }
  host.link.reset();
  host.welcomed = false;
  if (host.is_client) {
    result_.items_delivered += host.client->items_delivered();
    result_.items_copied += host.client->items_copied();
    result_.stale_results_dropped += host.client->repeated_results();
    host.client.reset();
  } else {
    host.agent.reset();
    // The scheduler watches processes of its own host.
    if (host.number == 0)
      agenda_.add(now_ + static_cast<std::int64_t>(random_.below(100 * kMs)), Doing::kProcessEnded,
                  host.peer.value);
  }
  agenda_.add(now_ + 50 * kMs + static_cast<std::int64_t>(random_.below(3 * kSecond)), Doing::kRestartPeer,
              host.number, host.life);
}

// --- sessions -------------------------------------------------------------------------------------------------

void FaultWorld::connect(Host& host) {
  const std::uint64_t at = links_.open(host.number, host.life, host.peer, scheduler_life_);
  host.link = at;
  host.welcomed = false;
  ++host.session;
  Link& link = links_.at(at);
  if (core_ == nullptr) {  // nobody listens
    link.broken = true;
    agenda_.add(now_ + 50 * kMs, Doing::kPeerSeesEnd, at);
    return;
  }
  if (host.cut_off_until > now_) link.broken = true;
  agenda_.add(now_ + kLivenessBound.ns, Doing::kGreetingTimeout, at);
  links_.send_up(now_, at,
                 {host.is_client ? host.client->hello(host.session) : host.agent->hello(host.session), {}});
}

void FaultWorld::peer_sees_end(std::uint64_t at) {
  Link& link = links_.at(at);
  link.peer_open = false;
  Host& host = hosts_[link.peer];
  if (!host.alive || host.life != link.peer_life || host.link != at) return;
  note(host.is_client ? "client " : "worker ", host.number, ": its connection ended");
  host.link.reset();
  if (std::exchange(host.welcomed, false)) {
    host.lost_since = now_;
    if (host.is_client) {
      host.client->disconnected();
    } else {
      host.agent->feed(now_, SessionEnded{});
      turn(host);
    }
  }
  agenda_.add(now_ + kRetry, Doing::kReconnect, host.number, host.life);
}

void FaultWorld::greeting_timeout(std::uint64_t at) {
  Link& link = links_.at(at);
  const Host& host = hosts_[link.peer];
  if (!host.alive || host.life != link.peer_life || host.link != at || host.welcomed) return;
  if (!link.broken) agenda_.add(std::max(now_, link.up_last) + kMs, Doing::kSchedulerSeesEnd, at);
  peer_sees_end(at);
}

void FaultWorld::reconnect(std::uint32_t number, std::uint64_t life) {
  Host& host = hosts_[number];
  if (!host.alive || host.life != life || host.link) return;
  // A worker without a scheduler ends; somebody starts another one. (A client of this model never gives up.)
  if (!host.is_client && now_ - host.lost_since > 2 * kReconnectGrace.ns) return die(host);
  connect(host);
}

void FaultWorld::to_peer(std::uint64_t at) {
  Message message;
  if (!links_.arrive(now_, at, false, message)) return;
  const Link& link = links_.at(at);
  Host& host = hosts_[link.peer];
  if (!link.peer_open || !host.alive || host.life != link.peer_life || host.link != at) return;
  if (const auto* refused = std::get_if<Refused>(&message.body))
    throw Violation("no-refusal", std::string(host.is_client ? "client " : "worker ") +
                                      std::to_string(host.number) + " was refused: " + refused->text);
  if (const auto* welcome = std::get_if<Welcome>(&message.body)) {
    if (host.welcomed || welcome->session != host.session) return;
    host.welcomed = true;
    if (host.is_client) return host.client->welcomed(*welcome, say_of(host));
  } else if (!host.welcomed) {
    return;
  }
  if (host.is_client) return host.client->receive(std::move(message), say_of(host));
  host.agent->receive(now_, std::move(message));
  turn(host);
}

void FaultWorld::turn(Host& host) {
  host.wake = host.agent->turn(now_);
  if (++handled_ % 16 == 0) host.agent->core().sanity_check();
}

void FaultWorld::client_step(std::uint32_t number, std::uint64_t life) {
  Host& host = hosts_[number];
  if (!host.alive || host.life != life) return;
  host.client->step(say_of(host));
  agenda_.add(now_ + 20 * kMs + static_cast<std::int64_t>(random_.below(300 * kMs)), Doing::kClientStep,
              number, life);
}

FaultClient::Say FaultWorld::say_of(Host& host) {
  return [this, &host](Message&& message) {
    if (!host.welcomed || !host.link) return;
    note("client ", host.number, " says ", kind_name(message.body));
    links_.send_up(now_, *host.link, std::move(message));
  };
}

/// Its process ends when its last messages are out.
void FaultWorld::agent_stopped(SimAgent& agent) { hosts_[agent.number()].stopped = true; }

void FaultWorld::from_agent(SimAgent& agent, Message&& message) {
  const Host& host = hosts_[agent.number()];
  if (host.welcomed && host.link) links_.send_up(now_, *host.link, std::move(message));
}

// --- items ----------------------------------------------------------------------------------------------------

/// One in twenty is a long one.
void FaultWorld::context_given(CallId call, const Frame& context) {
  if (context.view() != context_of(call).view())
    throw Violation("contexts", "a slot gets another context than its call's");
}

const std::int64_t* FaultWorld::sums_of(CallId call) {
  const auto [at, fresh] = sums_.try_emplace(call);
  if (fresh) {
    Random random(call.client.value * 1000 + call.serial);
    std::int64_t sum = 0;
    at->second.push_back(sum);
    for (std::uint64_t i = 0; i < items_per_call_ + 1; ++i) {
      const double ms = (random.chance(0.05) ? 10 : 1) * mean_ms_ * random.exponential();
      sum += 1 + static_cast<std::int64_t>(ms * 1e6);
      at->second.push_back(sum);
    }
  }
  return at->second.data();
}

Frame FaultWorld::outcomes(const Executed& executed) {
  std::uint64_t first = 0;
  std::int64_t start = executed.start;
  for (std::uint32_t k = 0; k < executed.count; ++k) {
    const std::uint64_t number =
        ledger_.executed(executed.call, executed.first + k, hosts_[executed.agent].peer, executed.slot, start,
                         executed.ends[k]);
    if (k == 0) first = number;
    start = executed.ends[k];
  }
  return Ledger::page(first, executed.count);
}

// --- faults ---------------------------------------------------------------------------------------------------

void FaultWorld::fault() {
  const std::uint64_t what = random_.below(100);
  FaultCounts& counts = result_.faults;
  if (what < 25) {
    const Host& host = hosts_[random_.below(hosts_.size())];
    if (!host.link) return;
    note("the connection of ", host.is_client ? "client " : "worker ", host.number, " breaks");
    links_.break_link(now_, *host.link, random_.chance(0.5) ? 10 * kMs : 5 * kSecond);
  } else if (what < 40) {
    partition();
  } else if (what < 60) {
    Host& host = any_worker();
    if (!host.alive) return;
    const auto slot = static_cast<std::uint32_t>(random_.below(host.slots));
    if (!host.agent->crash_slot(now_, slot, 11)) return;
    note("slot ", slot, " of worker ", host.number, " dies");
    ++counts.crash_slot;
    turn(host);
  } else if (what < 73) {
    Host& host = any_worker();
    if (!host.alive) return;
    ++counts.crash_worker;
    die(host);
  } else if (what < 78) {
    Host& host = any_worker();
    if (!host.alive) return;
    ++counts.leave;
    note("worker ", host.number, " is asked to end");
    host.agent->feed(now_, StopAsked{});
    turn(host);
    if (host.stopped) die(host);
  } else if (what < 85) {
    Host& host = any_client();
    if (!host.alive) return;
    ++counts.crash_client;
    die(host);
  } else if (core_ != nullptr) {
    const std::uint64_t how = random_.below(3);
    if (how == 0) return crash_scheduler();
    crash_ = how == 1 ? Crash::kBeforeCommit : Crash::kAfterCommit;
    crash_latest_ = now_ + kSecond;
  }
}

/// Some peers cannot reach the scheduler for a while. A short one is a pause; a longer one ends connections when
/// heartbeats have been missing for the liveness bound.
void FaultWorld::partition() {
  ++result_.faults.partition;
  const auto length = static_cast<std::int64_t>(random_.below(14 * kSecond));
  for (Host& host : hosts_) {
    if (!random_.chance(0.4)) continue;
    note(host.is_client ? "client " : "worker ", host.number, " is cut off for ", length / kMs, " ms");
    host.cut_off_until = std::max(host.cut_off_until, now_ + length);
    if (!host.link) continue;
    if (length < kLivenessBound.ns) {
      links_.hold(*host.link, now_ + length);
      continue;
    }
    const std::uint64_t losses = result_.faults.loss;
    links_.break_link(now_, *host.link, kLivenessBound.ns);
    result_.faults.loss = losses;
  }
}

}  // namespace betterbox::sim
