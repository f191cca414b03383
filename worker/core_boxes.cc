// Seats' lives, boxes and direct calls of the worker core (worker/core.h).
//
//   kEmpty --spawn--> kStarting --SeatReady--> kUp --stop--> kStopping --SeatStopped, SeatDied--> kGone
//      ^                  |                     |  --kill--> kKilled
//      +--- SeatDied -----+---------------------+---------------+      (function seats skip kStarting)
#include <algorithm>
#include <cstring>

#include "runtime/check.h"
#include "worker/core.h"
#include "worker/slot_protocol.h"

namespace betterbox {

namespace {

/// Levenshtein distance; names are short.
std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replace = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replace});
    }
  }
  return row[b.size()];
}

/// Head of a kInit payload: SlotInit and the environment (worker/slot_protocol.h).
std::string init_head(std::uint32_t instance, std::uint32_t flags, const std::string& environment,
                      const BoxId& box) {
  const SlotInit init{instance,       flags,    static_cast<std::uint32_t>(environment.size()),
                      box.seat.value, box.life, 0,
                      box.agent.value};
  return std::string(reinterpret_cast<const char*>(&init), sizeof init) + environment;
}

Frame lost_frame(LostCode code, const DeathReport& death, std::string_view detail) {
  return Frame(make_lost_item(code, 0, death, detail));
}

}  // namespace

std::string nearest_names(std::string_view wanted, const std::vector<MethodInfo>& names) {
  wanted = wanted.substr(0, 64);
  std::vector<std::pair<std::size_t, std::string_view>> near;
  for (const MethodInfo& method : names) {
    const std::size_t d = distance(wanted, std::string_view(method.name).substr(0, 64));
    if (d <= std::max<std::size_t>(2, wanted.size() / 3)) near.emplace_back(d, method.name);
  }
  std::sort(near.begin(), near.end());
  std::string text;
  for (std::size_t i = 0; i < near.size() && i < 3; ++i) {
    if (i > 0) text += ", ";
    text += near[i].second;
  }
  return text;
}

// --- lives of seats -------------------------------------------------------------------------------

WorkerCore::Seat& WorkerCore::add_seat(Port port, SeatKind kind) {
  Seat& seat = seats_.emplace_back();
  seat.id = {static_cast<std::uint32_t>(seats_.size() - 1)};
  seat.port = port;
  seat.kind = kind;
  if (kind != SeatKind::kFunction) seat.box = std::make_unique<BoxPart>();
  if (kind == SeatKind::kFunction) ++function_seats_;
  reindex(seat);
  return seat;
}

void WorkerCore::spawn(Seat& seat, Frame surroundings) {
  ++seat.life;
  seat.ready = seat.served = seat.waits = false;
  seat.retry_at = {};
  seat.kill_at = TimePoint::never();
  seat.idle_since = now_;
  if (seat.kind == SeatKind::kFunction) {
    idle_check_at_ = std::min(idle_check_at_, now_ + kIdleSeatLife);
    set_state(seat, SeatState::kUp);
    effect(SpawnSeat{seat.id, seat.life, init_head(kFunctionInstance, 0, environment_of(seat), {}),
                     std::move(surroundings)});
    return;
  }
  seat.box->failed = false;
  seat.box->error = {};
  set_state(seat, SeatState::kStarting);
  if (seat.kind == SeatKind::kHosted) seat.devices = own_device(seat);
  const BoxId box{options_.self, seat.id, seat.life};
  effect(SpawnSeat{seat.id, seat.life,
                   init_head(seat.box->instance, seat.box->flags, environment_of(seat), box),
                   seat.box->payload});
}

void WorkerCore::set_kill_at(Seat& seat, TimePoint at) {
  seat.kill_at = at;
  seat_timers_.insert({at, seat.id});
}

void WorkerCore::set_retry_at(Seat& seat, TimePoint at) {
  seat.retry_at = at;
  seat_timers_.insert({at, seat.id});
}

void WorkerCore::kill_seat(Seat& seat) {
  set_state(seat, SeatState::kKilled);
  seat.kill_at = TimePoint::never();
  withdraw(seat);
  effect(KillSeat{seat.id});
}

void WorkerCore::stop_seat(Seat& seat) {
  if (seat.state == SeatState::kEmpty) set_state(seat, SeatState::kGone);
  if (seat.state != SeatState::kStarting && seat.state != SeatState::kUp) return;
  withdraw(seat);
  for (int s = 0; s < kSeatStations; ++s) cut_station(seat, s, ~std::uint32_t{0});
  set_state(seat, SeatState::kStopping);
  if (!options_.in_process) set_kill_at(seat, now_ + kSlotStopGrace);
  effect(StopSeat{seat.id});
}

void WorkerCore::withdraw(Seat& seat) {
  if (seat.box == nullptr || !std::exchange(seat.box->offered, false)) return;
  if (in_session_) tell(Offer{options_.function_slots, {}, {seat.box->info.box}, capacity_});
}

/// A timer that was set may have lost its meaning: the seat says what it wants now.
void WorkerCore::run_seat_timers() {
  while (!seat_timers_.empty() && seat_timers_.begin()->first <= now_) {
    Seat& seat = seats_[seat_timers_.begin()->second.value];
    seat_timers_.erase(seat_timers_.begin());
    if (seat.kill_at <= now_) kill_seat(seat);
    if (seat.state != SeatState::kEmpty || seat.retry_at > now_) continue;
    seat.kind == SeatKind::kHosted ? spawn(seat) : reindex(seat);
  }
}

/// Now and then: what has not been used for long gives its memory back.
void WorkerCore::discard_idle_seats() {
  idle_check_at_ = TimePoint::never();
  for (Seat& seat : seats_) {
    if (seat.kind != SeatKind::kFunction || seat.state != SeatState::kUp || !seat.is_free()) continue;
    const Duration life = is_spare(seat) ? kSpareSeatLife : kIdleSeatLife;
    if (now_ - seat.idle_since < life) {
      idle_check_at_ = std::min(idle_check_at_, seat.idle_since + life);
      continue;
    }
    discard(seat);
  }
}

/// REQUIRES: it is idle.
void WorkerCore::discard(Seat& seat) {
  effect(DiscardSeat{seat.id});
  seat.contexts.clear();
  unreserve(seat);
  unlearn(seat);
  set_state(seat, SeatState::kEmpty);
  set_kin(seat, {});
}

void WorkerCore::on(SeatReady&& e) {
  Seat* seat = find_seat(e.seat, e.life);
  if (seat == nullptr || seat->ready) return;
  seat->ready = true;
  if (seat->kind == SeatKind::kFunction || seat->state != SeatState::kStarting) return;
  set_state(*seat, SeatState::kUp);
  BoxPart& box = *seat->box;
  box.info = {{options_.self, seat->id, seat->life},
              seat->port,
              std::move(e.class_name),
              e.sandbox,
              std::move(e.methods)};
  box.offered = true;
  if (in_session_) tell(Offer{options_.function_slots, {box.info}, {}, capacity_});
  effect(SeatReport{seat->id, SeatReport::kOffered, {}});
  if (seat->kind == SeatKind::kHosted) hosting_ready(box.hosting);
}

void WorkerCore::on(SeatFailed&& e) {
  Seat* seat = find_seat(e.seat, e.life);
  if (seat == nullptr) return;
  if (seat->box != nullptr) {
    seat->box->failed = true;
    seat->box->error = e.error;
  }
  if (seat->kind == SeatKind::kInProcess) {
    empty_seat(*seat, {});
    set_state(*seat, SeatState::kGone);
    effect(SeatReport{seat->id, SeatReport::kFailed, std::move(e.error)});
  } else if (seat->state != SeatState::kKilled) {
    set_kill_at(*seat, std::min(seat->kill_at, now_ + seconds(1)));  // it ends by itself, or is helped
  }
}

void WorkerCore::on(SeatStopped&& e) {
  Seat* seat = find_seat(e.seat, e.life);
  if (seat == nullptr) return;
  withdraw(*seat);
  if (seat->box != nullptr) seat->box->error = e.error;
  if (seat->kind == SeatKind::kInProcess) {
    empty_seat(*seat, {});
    set_state(*seat, SeatState::kGone);
    effect(SeatReport{seat->id, SeatReport::kClosed, std::move(e.error)});
  } else if (seat->state != SeatState::kKilled) {
    if (!e.error.empty()) {
      effect(LogLine{"slot " + std::to_string(seat->id.value) + ": its box could not be saved"});
    }
    set_state(*seat, SeatState::kStopping);
    set_kill_at(*seat, now_ + seconds(1));
  }
}

void WorkerCore::on(SeatDied&& e) {
  Seat* found = find_seat(e.seat, e.life);
  if (found == nullptr) return;
  Seat& seat = *found;
  const SeatState before = seat.state;
  const DeathReport death = e.death;
  empty_seat(seat, e);
  if (seat.kind == SeatKind::kFunction) {
    if (before == SeatState::kUp && !seat.ready && !seat.served) {
      ++seat.fruitless;
      const std::int64_t doublings = std::int64_t{1} << std::min(seat.fruitless, 6u);
      set_retry_at(seat, now_ + std::min(milliseconds(100) * doublings, seconds(5)));
      effect(LogLine{"slot " + std::to_string(seat.id.value) + " ended before it was ready; see its log"});
    }
    set_state(seat, ending_ ? SeatState::kGone : SeatState::kEmpty);
    return;
  }
  const BoxPart& box = *seat.box;
  const bool over = ending_ || seat.kind == SeatKind::kInProcess || hostings_[box.hosting].over;
  if (before == SeatState::kStopping || over) {
    set_state(seat, SeatState::kGone);
    effect(SeatReport{seat.id, SeatReport::kClosed, box.error});
  } else if (before == SeatState::kKilled && !box.failed) {
    spawn(seat);  // a cancelled item was running: the box is made anew
  } else if (box.failed && !hostings_[box.hosting].answered) {
    set_state(seat, SeatState::kGone);
    hosting_failed(box.hosting, box.error);
  } else {
    retry_or_give_up(seat, death);
  }
}

/// Takes everything out of a seat whose slot is gone. What is wanted and untouched goes back.
void WorkerCore::empty_seat(Seat& seat, const SeatDied& e) {
  withdraw(seat);
  lose_direct_calls(seat, e.death, seat.state == SeatState::kStopping ? "the box was stopped" : "");
  const int running = seat.running;
  for (const int s : {running, 1 - running}) {
    if (seat.stations[static_cast<std::size_t>(s)].busy) settle_station(seat, s, s == running, e);
  }
  seat.contexts.clear();
  unreserve(seat);
  unlearn(seat);
  seat.kill_at = TimePoint::never();
  seat.state = SeatState::kEmpty;
  set_kin(seat, {});
  reindex(seat);
}

/// The item that was running is suspected of the death, unless this agent killed the process. A plain
/// function slot that died before its first item did so over the code that came with it: then the
/// first item is charged, so that retries end.
void WorkerCore::settle_station(Seat& seat, int station, bool was_running, const SeatDied& e) {
  const Station place = seat.stations[static_cast<std::size_t>(station)];
  const SeatDied::StationEnd& end = e.stations[static_cast<std::size_t>(station)];
  free_station(seat, station);
  LeaseState* lease = find_lease(place.lease);
  if (lease == nullptr) return;
  const bool by_itself = seat.state == SeatState::kUp || seat.state == SeatState::kStarting;
  if (by_itself && end.generation == place.generation) {
    std::optional<std::uint64_t> suspect;
    if (end.position.next > end.done) {
      suspect = place.base + end.position.next - 1;
    } else if (seat.kind == SeatKind::kFunction && seat.ready && was_running && end.position.next == 0) {
      suspect = place.base;
    }
    if (suspect && lease->open.contains(*suspect) && !lease->undivided.contains(*suspect)) {
      lose(*lease, *suspect, e.death);
    }
  }
  give_back(place);
}

/// A box that keeps dying before it has served anything is given up.
void WorkerCore::retry_or_give_up(Seat& seat, const DeathReport& death) {
  if (!seat.served) ++seat.fruitless;
  if (seat.served || seat.fruitless < kMaxFruitlessLives) {
    if (seat.served) return spawn(seat);
    return set_retry_at(seat, now_ + milliseconds(100) * (std::int64_t{1} << seat.fruitless));
  }
  set_state(seat, SeatState::kGone);
  effect(LogLine{"slot " + std::to_string(seat.id.value) + ": its box died " +
                 std::to_string(seat.fruitless) + " times without having served anything; it is given up"});
  const BoxPart& box = *seat.box;
  hosting_failed(box.hosting, box.failed && !box.error.empty()
                                  ? box.error
                                  : lost_frame(LostCode::kBoxLost, death, "the box died while it started"));
}

// --- hosting ----------------------------------------------------------------------------------------

void WorkerCore::on(HostAsked&& e) {
  for (const Hosting& hosting : hostings_) {
    if (hosting.at_start || e.at_start || hosting.deployment != e.host.deployment || hosting.over) continue;
    if (hosting.answered && in_session_) tell(Hosted{e.host.deployment, true});
    return;
  }
  if (ending_ || e.host.port == kFunctionPool || e.host.slots == 0) return;
  Hosting& hosting = hostings_.emplace_back();
  hosting.deployment = e.host.deployment;
  hosting.at_start = e.at_start;
  const std::uint32_t count = std::min(e.host.slots, kMaxSlots);
  for (std::uint32_t i = 0; i < count; ++i) {
    Seat& seat = add_seat(e.host.port, SeatKind::kHosted);
    seat.box->hosting = hostings_.size() - 1;
    seat.box->instance = e.host.first + i;
    seat.box->flags = e.host.total > 1 ? 1 : 0;
    seat.box->payload = e.box;
    hosting.seats.push_back(seat.id);
    spawn(seat);
  }
}

void WorkerCore::on(UndeployAsked&& e) {
  for (Hosting& hosting : hostings_) {
    if (hosting.at_start || hosting.deployment != e.deployment) continue;
    hosting.over = hosting.answered = true;
    for (const SeatId id : hosting.seats) stop_seat(seats_[id.value]);
  }
}

void WorkerCore::hosting_ready(std::size_t index) {
  Hosting& hosting = hostings_[index];
  const bool all = std::all_of(hosting.seats.begin(), hosting.seats.end(),
                               [&](SeatId id) { return seats_[id.value].box->offered; });
  if (hosting.answered || !all) return;
  hosting.answered = true;
  if (hosting.at_start) {
    effect(HostingReport{true, {}});
  } else if (in_session_) {
    tell(Hosted{hosting.deployment, true});
  } else {
    to_say_.push_back({Hosted{hosting.deployment, true}, {}});
  }
}

void WorkerCore::hosting_failed(std::size_t index, Frame error) {
  Hosting& hosting = hostings_[index];
  if (hosting.answered) return;
  hosting.answered = hosting.over = true;
  for (const SeatId id : hosting.seats) stop_seat(seats_[id.value]);
  if (hosting.at_start) {
    effect(HostingReport{false, std::move(error)});
  } else if (in_session_) {
    tell(Hosted{hosting.deployment, false}, {std::move(error)});
  } else {
    to_say_.push_back({Hosted{hosting.deployment, false}, {std::move(error)}});
  }
}

void WorkerCore::on(SeatOpened&& e) {
  Seat& seat = add_seat(e.port, SeatKind::kInProcess);
  seat.box->payload = std::move(e.payload);
  if (options_.in_process && options_.capacity.cpus_milli == 0) {  // each box of a script is a cpu
    capacity_.cpus_milli += 1000;
    left_.cpus_milli += 1000;
  }
  spawn(seat);
}

void WorkerCore::on(SeatCloseAsked&& e) {
  if (e.seat.value < seats_.size()) stop_seat(seats_[e.seat.value]);
}

void WorkerCore::offer_everything() {
  Offer offer{options_.function_slots, {}, {}, capacity_};
  for (const Seat& seat : seats_) {
    if (seat.box != nullptr && seat.box->offered) offer.joined.push_back(seat.box->info);
  }
  tell(std::move(offer));
}

void WorkerCore::on(StopAsked&&) {
  if (ending_) return;
  ending_ = true;
  for (Seat& seat : seats_) {
    if (seat.kind != SeatKind::kFunction) {
      stop_seat(seat);
    } else if (seat.state == SeatState::kUp) {
      effect(DiscardSeat{seat.id});
      SeatDied gone{seat.id, seat.life, {}, {}};
      seat.state = SeatState::kStopping;
      empty_seat(seat, gone);
      set_state(seat, SeatState::kGone);
    } else if (seat.state == SeatState::kEmpty) {
      set_state(seat, SeatState::kGone);
    }
  }
}

// --- direct calls ----------------------------------------------------------------------------------

void WorkerCore::refuse_call(ClientRef client, std::uint64_t serial, LostCode code, std::string_view detail) {
  effect(ReplyToClient{client, serial, lost_frame(code, {}, detail)});
}

void WorkerCore::on(BoxCallArrived&& e) {
  const BoxId& box = e.call.box;
  Seat* seat = box.agent == options_.self ? find_seat(box.seat, box.life) : nullptr;
  if (seat == nullptr || seat->box == nullptr || !seat->box->offered) {
    return refuse_call(e.client, e.call.serial, LostCode::kNoSuchBox, "");
  }
  const auto& methods = seat->box->info.methods;
  const auto method = std::find_if(methods.begin(), methods.end(),
                                   [&](const MethodInfo& m) { return m.name == e.call.method; });
  if (method == methods.end() && !seat->box->info.sandbox) {
    return refuse_call(e.client, e.call.serial, LostCode::kNoSuchMethod,
                       nearest_names(e.call.method, methods));
  }
  if (begin_direct_call(e.client, e.call.serial, e.call.box, false) == nullptr) return;
  const bool express = method != methods.end() && (method->flags & (kConcurrentMethod | kAsyncMethod)) != 0;
  effect(CallSeat{seat->id, next_token_ - 1, std::move(e.call.method), std::move(e.arguments), express});
}

/// A call, or a lane, that is to be answered gets the token `next_token_ - 1`. Null: it was refused.
WorkerCore::Seat* WorkerCore::begin_direct_call(ClientRef client, std::uint64_t serial, const BoxId& box,
                                                bool lane) {
  Seat* seat = box.agent == options_.self ? find_seat(box.seat, box.life) : nullptr;
  if (seat == nullptr || seat->box == nullptr || !seat->box->offered) {
    refuse_call(client, serial, LostCode::kNoSuchBox, "");
    return nullptr;
  }
  std::size_t& count = direct_counts_[client];
  const auto key = std::pair(client, serial);
  if (count >= kMaxDirectCallsInFlight || direct_by_client_.contains(key)) {
    effect(RefuseClient{client,
                        {count >= kMaxDirectCallsInFlight ? RefusalCode::kCapacity : RefusalCode::kProtocol,
                         "more direct calls at once than an agent takes, or a serial number used twice"}});
    return nullptr;
  }
  ++count;
  if (lane) ++lanes_;
  const std::uint64_t token = next_token_++;
  direct_by_client_.emplace(key, token);
  direct_.emplace(token, DirectCall{client, serial, seat->id, lane});
  seat->box->tokens.insert(token);
  return seat;
}

/// The seat keeps its list of tokens: the caller's affair.
WorkerCore::DirectCall WorkerCore::end_direct_call(std::uint64_t token) {
  const auto at = direct_.find(token);
  const DirectCall call = at->second;
  if (call.lane) --lanes_;
  direct_.erase(at);
  forget_direct_call(call.client, call.serial);
  return call;
}

void WorkerCore::on(LaneAsked&& e) {
  const Seat* seat = begin_direct_call(e.client, e.lane.serial, e.lane.box, true);
  if (seat == nullptr) return;
  effect(OpenSeatLane{seat->id, next_token_ - 1, e.lane.pid, e.lane.descriptor, e.lane.nonce});
}

void WorkerCore::on(LaneReplied&& e) {
  const auto at = direct_.find(e.token);
  if (at == direct_.end() || at->second.seat != e.seat || find_seat(e.seat, e.life) == nullptr) return;
  effect(ReplyToClient{at->second.client, e.serial, std::move(e.item)});
}

void WorkerCore::on(BoxCallCancelled&& e) {
  const auto at = direct_by_client_.find({e.client, e.serial});
  if (at == direct_by_client_.end()) return;
  const std::uint64_t token = at->second;
  const SeatId seat = direct_.at(token).seat;
  effect(CancelSeatCall{seat, token});
  seats_[seat.value].box->tokens.erase(token);
  end_direct_call(token);
}

/// A client that took its leave wants its calls to take effect (the last line of a script that sets something); one
/// that was lost is not there to care.
void WorkerCore::on(ClientGone&& e) {
  auto at = direct_by_client_.lower_bound({e.client, 0});
  while (at != direct_by_client_.end() && at->first.first == e.client) {
    const auto [client, serial] = at->first;
    const bool ends = !e.took_leave || direct_.at(at->second).lane;  // the replies of others go nowhere
    ++at;
    if (ends) on(BoxCallCancelled{client, serial});
  }
}

void WorkerCore::forget_direct_call(ClientRef client, std::uint64_t serial) {
  direct_by_client_.erase({client, serial});
  const auto count = direct_counts_.find(client);
  if (--count->second == 0) direct_counts_.erase(count);
}

void WorkerCore::on(SeatReplied&& e) {
  Seat* seat = find_seat(e.seat, e.life);
  if (seat == nullptr) return;
  seat->served = true;
  seat->fruitless = 0;
  const auto at = direct_.find(e.token);
  if (at == direct_.end() || at->second.seat != seat->id) return;  // cancelled
  seat->box->tokens.erase(e.token);
  const DirectCall call = end_direct_call(e.token);
  effect(ReplyToClient{call.client, call.serial, std::move(e.item)});
}

void WorkerCore::lose_direct_calls(Seat& seat, const DeathReport& death, std::string_view detail) {
  if (seat.box == nullptr) return;
  for (const std::uint64_t token : seat.box->tokens) {
    const DirectCall call = end_direct_call(token);
    effect(ReplyToClient{call.client, call.serial, lost_frame(LostCode::kBoxLost, death, detail)});
  }
  seat.box->tokens.clear();
}

}  // namespace betterbox
