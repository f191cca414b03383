#include "scheduler/core.h"

#include <algorithm>
#include <type_traits>

#include "scheduler/boxes.h"
#include "scheduler/broadcasts.h"
#include "scheduler/calls.h"
#include "scheduler/copies.h"
#include "scheduler/deployments.h"
#include "scheduler/inquiries.h"
#include "scheduler/leases.h"
#include "scheduler/recovery.h"
#include "scheduler/relay.h"
#include "scheduler/relief.h"
#include "scheduler/resources.h"
#include "scheduler/results.h"
#include "scheduler/schedule.h"
#include "scheduler/sessions.h"
#include "scheduler/status.h"
#include "scheduler/values.h"
#include "scheduler/waits.h"

namespace betterbox::scheduler {
namespace {

Complaint not_allowed(const Peer& peer, const Body& body) {
  const char* who = peer.is_agent() ? "an agent" : "a client";
  return std::string(who) + " may not send " + kind_name(body) + " here";
}

Complaint on_acknowledge(const Turn& turn, Peer& client, std::uint64_t ack) {
  return on_results_acknowledged(turn, client, ack);
}

Complaint on_client_message(const Turn& turn, Peer& client, Message&& message) {
  Body& body = message.body;
  if (auto* items = std::get_if<Items>(&body))
    return on_items(turn, client, std::move(*items), std::move(message.frames));
  if (auto* ack = std::get_if<Acknowledge>(&body)) return on_acknowledge(turn, client, ack->ack);
  if (auto* call = std::get_if<Call>(&body))
    return on_call(turn, client, std::move(*call), std::move(message.frames));
  if (auto* cancel = std::get_if<Cancel>(&body)) return on_cancel(turn, client, *cancel);
  if (const auto* inquire = std::get_if<Inquire>(&body)) return on_inquire(turn, client, *inquire);
  if (const auto* broadcast = std::get_if<Broadcast>(&body)) return on_broadcast(turn, client, *broadcast);
  if (auto* deploy = std::get_if<Deploy>(&body))
    return on_deploy(turn, client, std::move(*deploy), std::move(message.frames));
  if (auto* undeploy = std::get_if<Undeploy>(&body)) return on_undeploy(turn, client, *undeploy);
  if (auto* waits = std::get_if<Waits>(&body)) return on_waits(turn, client, std::move(*waits));
  if (auto* forget = std::get_if<Forget>(&body)) {
    on_forget(turn, client, forget->serial);
  } else if (auto* explain = std::get_if<Explain>(&body)) {
    on_explain(turn, client, explain->serial);
  } else if (auto* watch = std::get_if<Watch>(&body)) {
    on_watch(turn, client, watch->port);
  } else if (auto* unwatch = std::get_if<Unwatch>(&body)) {
    on_unwatch(turn, client, unwatch->port);
  } else {
    return not_allowed(client, body);
  }
  return std::nullopt;
}

Complaint on_agent_message(const Turn& turn, Peer& agent, Message&& message) {
  Body& body = message.body;
  if (auto* outcomes = std::get_if<Outcomes>(&body))
    return on_outcomes(turn, agent, std::move(*outcomes), std::move(message.frames));
  if (auto* released = std::get_if<Released>(&body)) return on_released(turn, agent, *released);
  if (auto* offer = std::get_if<Offer>(&body)) return on_offer(turn, agent, std::move(*offer));
  if (auto* load = std::get_if<Load>(&body)) {
    on_load(turn, agent, *load);
    return std::nullopt;
  }
  if (auto* kept = std::get_if<Kept>(&body)) return on_kept(turn, agent, std::move(*kept));
  if (auto* hosted = std::get_if<Hosted>(&body))
    return on_hosted(turn, agent, *hosted, std::move(message.frames));
  return not_allowed(agent, body);
}

/// Messages that all peers send alike: about values, and to other peers. Result: false if it is none.
bool on_common_message(const Turn& turn, Peer& peer, Message& message, Complaint& complaint) {
  Body& body = message.body;
  if (auto* hold = std::get_if<Hold>(&body)) {
    complaint = on_hold(turn, peer, std::move(*hold));
  } else if (auto* drop = std::get_if<Drop>(&body)) {
    on_drop(turn, peer, drop->name);
  } else if (auto* locate = std::get_if<Locate>(&body)) {
    on_locate(turn, peer, std::move(*locate));
  } else if (auto* fetch = std::get_if<Fetch>(&body)) {
    pass_on(turn, peer, std::move(*fetch));
  } else if (auto* chunk = std::get_if<Chunk>(&body)) {
    pass_on(turn, peer, std::move(*chunk), std::move(message.frames));
  } else if (auto* fetched = std::get_if<Fetched>(&body)) {
    on_fetched(turn, peer, *fetched);
  } else if (const auto* relay = std::get_if<Relay>(&body)) {
    on_relay(turn, peer, *relay, std::move(message.frames));
  } else {
    return false;
  }
  return true;
}

void on_message(const Turn& turn, ConnectionId connection, Message&& message) {
  ++turn.state.counters.messages_received;
  const auto it = turn.state.connections.find(connection);
  if (it == turn.state.connections.end()) {
    if (auto* hello = std::get_if<Hello>(&message.body)) return on_hello(turn, connection, std::move(*hello));
    if (const auto* proof = std::get_if<Proof>(&message.body)) return on_proof(turn, connection, *proof);
    ++turn.state.counters.refused_messages;
    return refuse(turn, connection, RefusalCode::kProtocol,
                  std::string("a session begins with Hello, not ") + kind_name(message.body));
  }
  Peer& peer = *it->second;
  if (std::holds_alternative<Bye>(message.body)) return on_bye(turn, peer);
  if (std::holds_alternative<Status>(message.body)) {
    turn.send(peer, status_report(turn.state, turn.now));
    return;
  }
  Complaint complaint;
  if (!on_common_message(turn, peer, message, complaint)) {
    complaint = peer.is_agent() ? on_agent_message(turn, peer, std::move(message))
                                : on_client_message(turn, peer, std::move(message));
  }
  if (!complaint) return;
  ++turn.state.counters.refused_messages;
  drop_offender(turn, peer, *complaint);
}

void stop(const Turn& turn, const std::string& reason) {
  if (turn.state.stopping) return;
  turn.state.stopping = true;
  end_all_sessions(turn, "the scheduler ends: " + reason);
  turn.effects.send.push_back(Stop{reason});
}

void on_timer(const Turn& turn, const Timer& timer) {
  State& state = turn.state;
  switch (timer.kind) {
    case TimerKind::kPeerGone: return on_peer_gone(turn, state.peers.at(PeerId{timer.a}));
    case TimerKind::kCallTimeout: return on_call_timeout(turn, state.calls.at({PeerId{timer.a}, timer.b}));
    case TimerKind::kNoBox: return on_no_box(turn, state.pool(Port{static_cast<std::uint16_t>(timer.a)}));
    case TimerKind::kOfferAgain:
      return offer_again(turn, state.pool(Port{static_cast<std::uint16_t>(timer.a)}));
    case TimerKind::kRelief:
      return on_relief_due(turn, state.pool(Port{static_cast<std::uint16_t>(timer.a)}));
    case TimerKind::kCopies:
      return on_copies_due(turn, state.pool(Port{static_cast<std::uint16_t>(timer.a)}));
    case TimerKind::kUnsatisfied:
      return on_unsatisfied(turn, state.pool(Port{static_cast<std::uint16_t>(timer.a)}));
    case TimerKind::kValueUnheld: return on_value_unheld(turn, timer.a);
    case TimerKind::kStuck: return on_stuck_due(turn, state.pool(Port{static_cast<std::uint16_t>(timer.a)}));
    case TimerKind::kDeadlock: return on_deadlock_due(turn, {PeerId{timer.a}, timer.b});
    case TimerKind::kIdle:
      state.idle_at = TimePoint::never();
      return stop(turn, "nobody has been on the bus for " +
                            std::to_string(state.config.idle_life.ns / 1'000'000'000) + " s");
  }
}

void acknowledge_due_outcomes(const Turn& turn) {
  auto& queue = turn.state.acknowledge_at;
  while (!queue.empty() && queue.front().first <= turn.now) {
    Peer* agent = turn.state.find_peer(queue.front().second);
    queue.pop_front();
    if (agent != nullptr && agent->agent.ack_planned) acknowledge_outcomes(turn, *agent);
  }
}

void fire_timers(const Turn& turn) {
  acknowledge_due_outcomes(turn);
  while (!turn.state.timers.empty() && turn.state.timers.begin()->at <= turn.now) {
    const Timer timer = *turn.state.timers.begin();
    turn.state.timers.erase(turn.state.timers.begin());
    on_timer(turn, timer);
  }
}

struct Dispatch {
  const Turn& turn;
  void operator()(MessageArrived& event) const {
    on_message(turn, event.connection, std::move(event.message));
  }
  void operator()(ConnectionEnded& event) const {
    on_connection_ended(turn, event.connection, event.malformed);
  }
  void operator()(ProcessEnded& event) const { on_process_ended(turn, event.peer); }
  void operator()(DeadlineReached&) const {}
  void operator()(StopRequested& event) const { stop(turn, event.reason); }
};

}  // namespace

SchedulerCore::SchedulerCore(Config config, TimePoint now) : state_(std::move(config)) {
  state_.started = now;
  Effects none;
  watch_for_idleness({state_, now, none});
}

SchedulerCore::SchedulerCore(Config config, TimePoint now, std::vector<Record> records)
    : SchedulerCore(std::move(config), now) {
  BB_CHECK(state_.config.journal);
  Effects none;
  const Turn turn{state_, now, none};
  recover(turn, std::move(records));
  finish_calls(turn);
  schedule(turn);
  BB_CHECK(none.send.empty() && none.persist.empty());
}

std::vector<Record> SchedulerCore::snapshot() const { return records_of(state_); }

void SchedulerCore::handle(TimePoint now, Event&& event, Effects& effects) {
  if (state_.stopping) return;
  const Turn turn{state_, now, effects};
  std::visit(Dispatch{turn}, event);
  fire_timers(turn);
  if (!state_.inquired.empty()) answer_inquiries(turn);
  finish_calls(turn);
  schedule(turn);
  begin_broadcasts(turn);
}

TimePoint SchedulerCore::next_deadline() const {
  const TimePoint timer = state_.timers.empty() ? TimePoint::never() : state_.timers.begin()->at;
  return state_.acknowledge_at.empty() ? timer : std::min(timer, state_.acknowledge_at.front().first);
}

}  // namespace betterbox::scheduler
