#include "simulator/agent.h"

#include <algorithm>
#include <utility>

#include "runtime/check.h"
#include "simulator/pages.h"

namespace betterbox::sim {
namespace {

// Used by one agent after the other; an agent's turn is over before another one's begins.
Effects scratch_effects;
std::size_t scratch_done = 0;
std::vector<SlotRecord> scratch_records;
std::vector<std::int64_t> scratch_ends;

double square(std::int64_t ns) { return static_cast<double>(ns) * static_cast<double>(ns); }

}  // namespace

SimAgent::SimAgent(AgentWorld& world, const Options& options, const Speed& speed)
    : world_(world),
      options_(options),
      speed_(speed),
      core_({options.peer, options.slots, false}),
      processes_(options.slots, Process{SimSlot(speed), 0, false, true, kNever, 0, {}, {}}),
      record_at_(options.slots, kNever),
      ring_at_(options.slots, kNever),
      slot_busy_(options.slots, 0) {}

Hello SimAgent::hello(std::uint64_t session) const {
  Hello hello;
  hello.role = Role::kWorker;
  hello.peer = options_.peer;
  hello.session = session;
  hello.host = "node-" + std::to_string(options_.number);
  hello.boot_id = "boot";
  hello.pid = options_.number + 1;
  hello.name = "w-" + std::to_string(options_.number);
  hello.leases = core_.held_leases();
  return hello;
}

// --- events and effects -----------------------------------------------------------------------------------

void SimAgent::feed(std::int64_t now, Event&& event) {
  fed_ = true;
  core_.handle(core_time(now), std::move(event), scratch_effects);
  run_effects(now);
}

/// In order; what an effect causes (CutDone) is appended and carried out in the same turn.
void SimAgent::run_effects(std::int64_t now) {
  if (std::exchange(carrying_out_, true)) return;
  while (scratch_done < scratch_effects.send.size()) {
    Effect effect = std::move(scratch_effects.send[scratch_done++]);
    carry_out(now, std::move(effect));
  }
  scratch_effects.send.clear();
  scratch_done = 0;
  carrying_out_ = false;
}

void SimAgent::carry_out(std::int64_t now, Effect&& effect) {
  if (auto* send = std::get_if<SendToScheduler>(&effect)) {
    world_.from_agent(*this, std::move(send->message));
  } else if (auto* context = std::get_if<SendContext>(&effect)) {
    world_.context_given(context->call, context->frame);
  } else if (auto* lease = std::get_if<InstallLease>(&effect)) {
    install(now, *lease);
  } else if (auto* cut_lease = std::get_if<CutLease>(&effect)) {
    feed(now, cut(now, *cut_lease));
  } else if (auto* spawn = std::get_if<SpawnSeat>(&effect)) {
    Process& process = processes_.at(spawn->seat.value);
    process.slot.clear();
    process.life = spawn->life;
    process.alive = true;
    process.ready_said = false;
    process.died_at = kNever;
    record_at_[spawn->seat.value] = ring_at_[spawn->seat.value] = now;
  } else if (auto* kill = std::get_if<KillSeat>(&effect)) {
    die(now, kill->seat.value, 9);
  } else if (auto* discard = std::get_if<DiscardSeat>(&effect)) {
    Process& process = processes_.at(discard->seat.value);
    if (process.alive) note_waste(now, discard->seat.value);
    process.alive = false;
    process.died_at = kNever;
    process.slot.clear();
    look_changed(discard->seat.value);
  } else if (std::holds_alternative<Stopped>(effect)) {
    world_.from_agent(*this, {Bye{}, {}});
    world_.agent_stopped(*this);
  }  // Boxes and direct calls do not occur.
}

void SimAgent::install(std::int64_t now, const InstallLease& e) {
  Process& process = processes_.at(e.seat.value);
  if (!process.alive) return;  // it died, and the core is about to hear of it
  process.slot.install(now, options_.wake_ns, e.station, e.generation, world_.sums_of(e.call), e.base,
                       e.count);
  process.calls[e.station] = e.call;
  look_changed(e.seat.value);
}

CutDone SimAgent::cut(std::int64_t now, const CutLease& e) {
  Process& process = processes_.at(e.seat.value);
  CutDone done{e.seat, e.station, {}, {}, 0};
  if (!process.alive) {
    const SimSlot::End& end = process.ends[e.station];
    done.cut = {end.position.end, end.position.end};
    done.position = end.position;
    done.done = end.done;
    return done;
  }
  const SimSlot::Cut cut = process.slot.cut(now, e.station, e.count);
  done.cut = cut.cut;
  done.position = cut.position;
  done.done = cut.done;
  look_changed(e.seat.value);
  return done;
}

bool SimAgent::crash_slot(std::int64_t now, std::uint32_t slot, std::int32_t signal) {
  if (!processes_.at(slot).alive) return false;
  die(now, slot, signal);
  return true;
}

/// What it had published is still heard; its end is reported at the next look.
void SimAgent::die(std::int64_t now, std::uint32_t seat, std::int32_t signal) {
  Process& process = processes_.at(seat);
  if (!process.alive) return;
  note_waste(now, seat);
  scratch_records.clear();
  for (std::uint32_t s = 0; s < 2; ++s) process.ends[s] = process.slot.look(now, s);
  process.alive = false;
  process.died_at = now;
  process.signal = signal;
  record_at_[seat] = ring_at_[seat] = now;
}

void SimAgent::note_waste(std::int64_t now, std::uint32_t seat) {
  const std::int64_t* sums = nullptr;
  std::uint64_t item = 0;
  std::int64_t since = 0;
  if (processes_[seat].slot.running_item(now, sums, item, since)) wasted_ns_ += now - since;
}

void SimAgent::receive(std::int64_t now, Message&& message) {
  Frames& frames = message.frames;
  auto first_frame = [&] { return frames.empty() ? Frame() : std::move(frames.front()); };
  if (auto* lease = std::get_if<Lease>(&message.body)) {
    feed(now, LeaseGranted{std::move(*lease), std::move(frames)});
  } else if (auto* acknowledge = std::get_if<Acknowledge>(&message.body)) {
    feed(now, AcknowledgeArrived{acknowledge->ack});
  } else if (auto* revoke = std::get_if<Revoke>(&message.body)) {
    feed(now, RevokeAsked{revoke->lease, revoke->count});
  } else if (auto* context = std::get_if<Context>(&message.body)) {
    feed(now, ContextArrived{std::move(*context), first_frame()});
  } else if (auto* abandon = std::get_if<Abandon>(&message.body)) {
    feed(now, ItemsAbandoned{abandon->lease, abandon->range});
  } else if (auto* drop = std::get_if<DropCall>(&message.body)) {
    feed(now, CallDropped{drop->call});
  } else if (auto* welcome = std::get_if<Welcome>(&message.body)) {
    feed(now, SessionBegan{welcome->peer, std::move(welcome->dropped_leases)});
  }
}

// --- looking ------------------------------------------------------------------------------------------------

void SimAgent::look_changed(std::uint32_t seat) {
  const Process& process = processes_[seat];
  if (!process.alive || !process.ready_said) return;
  record_at_[seat] = process.slot.next_record_at();
  ring_at_[seat] = process.slot.station_done_at();
}

void SimAgent::report_outcomes(std::int64_t now, std::uint32_t seat, const SlotRecord& record) {
  Process& process = processes_[seat];
  for (std::uint32_t at = 0; at < record.count; at += OutcomePages::kMostItems) {
    const std::uint32_t first = record.first + at;
    const std::uint32_t count = std::min(record.count - at, OutcomePages::kMostItems);
    SeatProgressed progressed{{seat}, process.life, record.station, record.generation, first, count, 0, 0, 0,
                              {}};
    const std::int64_t start =
        first == 0 ? record.start
                   : SimSlot::item_end(speed_, record.start, record.sums, record.base, first - 1);
    scratch_ends.clear();
    std::int64_t before = start;
    for (std::uint32_t k = first; k < first + count; ++k) {
      const std::int64_t end = SimSlot::item_end(speed_, record.start, record.sums, record.base, k);
      progressed.busy_squares += square(end - before);
      progressed.longest_ns = std::max(progressed.longest_ns, end - before);
      scratch_ends.push_back(end);
      before = end;
    }
    progressed.busy_ns = before - start;
    busy_ns_ += progressed.busy_ns;
    slot_busy_[seat] += progressed.busy_ns;
    progressed.page = world_.outcomes({process.calls[record.station], options_.number, seat,
                                       record.base + first, count, scratch_ends.data(), start});
    outcomes_seen_ = true;
    feed(now, std::move(progressed));
  }
}

void SimAgent::report(std::int64_t now, std::uint32_t seat) {
  Process& process = processes_[seat];
  if (!process.ready_said) {
    process.ready_said = true;
    feed(now, SeatReady{{seat}, process.life, "", false, {}});
  }
  std::vector<SlotRecord> records = std::exchange(scratch_records, {});
  records.clear();
  process.slot.drain(std::min(now, process.died_at), records);
  for (const SlotRecord& record : records) {
    if (record.station_done) {
      feed(now, SubLeaseDone{{seat}, process.life, record.station, record.generation});
    } else {
      report_outcomes(now, seat, record);
    }
  }
  scratch_records = std::move(records);
  if (process.died_at != kNever) {
    SeatDied died{{seat}, process.life, {}, {}};
    died.death = {process.signal, 0, "node-" + std::to_string(options_.number), seat + 1, 0, ""};
    for (std::size_t s = 0; s < 2; ++s)
      died.stations[s] = {process.ends[s].generation, process.ends[s].done, process.ends[s].position};
    process.died_at = kNever;
    process.slot.clear();
    record_at_[seat] = ring_at_[seat] = kNever;
    feed(now, std::move(died));
    return;
  }
  look_changed(seat);
}

void SimAgent::collect(std::int64_t now) {
  outcomes_seen_ = false;
  if (core_.draining_paused()) return;
  for (std::uint32_t seat = 0; seat < processes_.size(); ++seat) {
    if (record_at_[seat] <= now) report(now, seat);
  }
}

std::int64_t SimAgent::next_look(std::int64_t now) const {
  std::int64_t next = sim_time(core_.next_deadline());
  if (core_.draining_paused()) return next;
  if (outcomes_seen_) {
    for (const std::int64_t at : ring_at_) next = std::min(next, at);
    return std::min(next, now + core_.drain_interval().ns);
  }
  for (const std::int64_t at : record_at_) next = std::min(next, at);
  return next;
}

std::int64_t SimAgent::turn(std::int64_t now) {
  collect(now);
  if (fed_ || core_.next_deadline() <= core_time(now)) {
    feed(now, TurnEnded{});
    fed_ = false;
  }
  return std::max(next_look(now), now);
}

}  // namespace betterbox::sim
