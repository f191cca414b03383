// Seats' lives, boxes and direct calls of the worker core (worker/core.h).
//
//   kEmpty --spawn--> kStarting --SeatReady--> kUp --stop--> kStopping --SeatStopped, SeatDied--> kGone
//      ^                  |                     |  --kill--> kKilled
//      +--- SeatDied -----+---------------------+---------------+      (function seats skip kStarting)
#include <algorithm>
#include <cstring>

#include "runtime/check.h"
#include "worker/core.h"

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

/// What an agent offers that was told nothing else.
Resources a_core_per_slot(std::uint32_t slots) { return {std::uint64_t{slots} * 1000, kAnyMemory, 0, {}}; }

/// Head of a kInit payload: u32 instance, u32 flags (worker/slot_protocol.h).
std::string init_head(std::uint32_t instance, std::uint32_t flags) {
  std::string head(8, '\0');
  std::memcpy(head.data(), &instance, 4);
  std::memcpy(head.data() + 4, &flags, 4);
  return head;
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

void WorkerCore::spawn(Seat& seat) {
  ++seat.life;
  seat.state = seat.kind == SeatKind::kFunction ? SeatState::kUp : SeatState::kStarting;
  seat.ready = seat.served = seat.failed = false;
  seat.retry_at = {};
  seat.kill_at = TimePoint::never();
  seat.idle_since = now_;
  seat.error = {};
  const bool function = seat.kind == SeatKind::kFunction;
  effect(SpawnSeat{seat.id, seat.life, init_head(function ? ~std::uint32_t{0} : seat.instance, seat.flags),
                   seat.payload});
}

void WorkerCore::kill_seat(Seat& seat) {
  seat.state = SeatState::kKilled;
  seat.kill_at = TimePoint::never();
  withdraw(seat);
  effect(KillSeat{seat.id});
}

void WorkerCore::stop_seat(Seat& seat) {
  if (seat.state == SeatState::kEmpty) seat.state = SeatState::kGone;
  if (seat.state != SeatState::kStarting && seat.state != SeatState::kUp) return;
  withdraw(seat);
  for (int s = 0; s < kSeatStations; ++s) cut_station(seat, s, ~std::uint32_t{0});
  seat.state = SeatState::kStopping;
  if (seat.kind != SeatKind::kInProcess) seat.kill_at = now_ + kSlotStopGrace;
  effect(StopSeat{seat.id});
}

void WorkerCore::withdraw(Seat& seat) {
  if (!std::exchange(seat.offered, false)) return;
  if (in_session_)
    tell(Offer{options_.function_slots, {}, {seat.info.box}, a_core_per_slot(options_.function_slots)});
}

void WorkerCore::run_seat_timers() {
  for (Seat& seat : seats_) {
    if (seat.kill_at <= now_) kill_seat(seat);
    if (seat.kind == SeatKind::kHosted && seat.state == SeatState::kEmpty && seat.retry_at <= now_)
      spawn(seat);
  }
}

void WorkerCore::discard_idle_seats() {
  for (Seat& seat : seats_) {
    if (seat.kind != SeatKind::kFunction || seat.state != SeatState::kUp || !seat.is_free()) continue;
    if (now_ - seat.idle_since < kIdleSeatLife) continue;
    effect(DiscardSeat{seat.id});
    seat.contexts.clear();
    seat.client = {};
    seat.state = SeatState::kEmpty;
  }
}

bool WorkerCore::has_seats(Port port) const {
  return std::any_of(seats_.begin(), seats_.end(), [&](const Seat& seat) {
    return seat.port == port && seat.state != SeatState::kGone && seat.state != SeatState::kStopping;
  });
}

void WorkerCore::on(SeatReady&& e) {
  Seat* seat = find_seat(e.seat, e.life);
  if (seat == nullptr || seat->ready) return;
  seat->ready = true;
  if (seat->kind == SeatKind::kFunction || seat->state != SeatState::kStarting) return;
  seat->state = SeatState::kUp;
  seat->info = {{options_.self, seat->id, seat->life},
                seat->port,
                std::move(e.class_name),
                e.sandbox,
                std::move(e.methods)};
  seat->offered = true;
  if (in_session_)
    tell(Offer{options_.function_slots, {seat->info}, {}, a_core_per_slot(options_.function_slots)});
  effect(SeatReport{seat->id, SeatReport::kOffered, {}});
  if (seat->kind == SeatKind::kHosted) hosting_ready(seat->hosting);
}

void WorkerCore::on(SeatFailed&& e) {
  Seat* seat = find_seat(e.seat, e.life);
  if (seat == nullptr) return;
  seat->failed = true;
  seat->error = std::move(e.error);
  if (seat->kind == SeatKind::kInProcess) {
    const Frame error = seat->error;
    empty_seat(*seat, {});
    seat->state = SeatState::kGone;
    effect(SeatReport{seat->id, SeatReport::kFailed, error});
  } else if (seat->state != SeatState::kKilled) {
    seat->kill_at = std::min(seat->kill_at, now_ + seconds(1));  // it ends by itself, or is helped
  }
}

void WorkerCore::on(SeatStopped&& e) {
  Seat* seat = find_seat(e.seat, e.life);
  if (seat == nullptr) return;
  withdraw(*seat);
  seat->error = std::move(e.error);
  if (seat->kind == SeatKind::kInProcess) {
    const Frame error = seat->error;
    empty_seat(*seat, {});
    seat->state = SeatState::kGone;
    effect(SeatReport{seat->id, SeatReport::kClosed, error});
  } else if (seat->state != SeatState::kKilled) {
    if (!seat->error.empty()) {
      effect(LogLine{"slot " + std::to_string(seat->id.value) + ": its box could not be saved"});
    }
    seat->state = SeatState::kStopping;
    seat->kill_at = now_ + seconds(1);
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
    seat.state = ending_ ? SeatState::kGone : SeatState::kEmpty;
    if (before == SeatState::kUp && !seat.ready && !seat.served) {
      ++seat.fruitless;
      seat.retry_at =
          now_ + std::min(milliseconds(100) * (std::int64_t{1} << std::min(seat.fruitless, 6u)), seconds(5));
      effect(LogLine{"slot " + std::to_string(seat.id.value) + " ended before it was ready; see its log"});
    }
    return;
  }
  const bool over = ending_ || seat.kind == SeatKind::kInProcess || hostings_[seat.hosting].over;
  if (before == SeatState::kStopping || over) {
    seat.state = SeatState::kGone;
    effect(SeatReport{seat.id, SeatReport::kClosed, seat.error});
  } else if (before == SeatState::kKilled && !seat.failed) {
    spawn(seat);  // a cancelled item was running: the box is made anew
  } else if (seat.failed && !hostings_[seat.hosting].answered) {
    seat.state = SeatState::kGone;
    hosting_failed(seat.hosting, seat.error);
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
  seat.reserved.reset();
  seat.client = {};
  seat.kill_at = TimePoint::never();
  seat.state = SeatState::kEmpty;
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
    seat.state = SeatState::kEmpty;
    seat.retry_at = seat.served ? now_ : now_ + milliseconds(100) * (std::int64_t{1} << seat.fruitless);
    if (seat.served) spawn(seat);
    return;
  }
  seat.state = SeatState::kGone;
  effect(LogLine{"slot " + std::to_string(seat.id.value) + ": its box died " +
                 std::to_string(seat.fruitless) + " times without having served anything; it is given up"});
  hosting_failed(seat.hosting, seat.failed && !seat.error.empty()
                                   ? seat.error
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
    Seat& seat = seats_.emplace_back();
    seat.id = {static_cast<std::uint32_t>(seats_.size() - 1)};
    seat.port = e.host.port;
    seat.kind = SeatKind::kHosted;
    seat.hosting = hostings_.size() - 1;
    seat.instance = e.host.first + i;
    seat.flags = e.host.total > 1 ? 1 : 0;
    seat.payload = e.box;
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
                               [&](SeatId id) { return seats_[id.value].offered; });
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
  Seat& seat = seats_.emplace_back();
  seat.id = {static_cast<std::uint32_t>(seats_.size() - 1)};
  seat.port = e.port;
  seat.kind = SeatKind::kInProcess;
  seat.payload = std::move(e.payload);
  spawn(seat);
}

void WorkerCore::on(SeatCloseAsked&& e) {
  if (e.seat.value < seats_.size()) stop_seat(seats_[e.seat.value]);
}

void WorkerCore::offer_everything() {
  Offer offer{options_.function_slots, {}, {}, a_core_per_slot(options_.function_slots)};
  for (const Seat& seat : seats_) {
    if (seat.offered) offer.joined.push_back(seat.info);
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
      seat.state = SeatState::kGone;
    } else if (seat.state == SeatState::kEmpty) {
      seat.state = SeatState::kGone;
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
  if (seat == nullptr || !seat->offered) {
    return refuse_call(e.client, e.call.serial, LostCode::kNoSuchBox, "");
  }
  const auto& methods = seat->info.methods;
  const auto method = std::find_if(methods.begin(), methods.end(),
                                   [&](const MethodInfo& m) { return m.name == e.call.method; });
  if (method == methods.end() && !seat->info.sandbox) {
    return refuse_call(e.client, e.call.serial, LostCode::kNoSuchMethod,
                       nearest_names(e.call.method, methods));
  }
  std::size_t& count = direct_counts_[e.client];
  const auto key = std::pair(e.client, e.call.serial);
  if (count >= kMaxDirectCallsInFlight || direct_by_client_.contains(key)) {
    effect(RefuseClient{e.client,
                        {count >= kMaxDirectCallsInFlight ? RefusalCode::kCapacity : RefusalCode::kProtocol,
                         "more direct calls at once than an agent takes, or a serial number used twice"}});
    return;
  }
  ++count;
  const std::uint64_t token = next_token_++;
  direct_by_client_.emplace(key, token);
  direct_.emplace(token, DirectCall{e.client, e.call.serial, seat->id});
  seat->tokens.insert(token);
  const bool express = method != methods.end() && (method->flags & (kConcurrentMethod | kAsyncMethod)) != 0;
  effect(CallSeat{seat->id, token, std::move(e.call.method), std::move(e.arguments), express});
}

void WorkerCore::on(BoxCallCancelled&& e) {
  const auto at = direct_by_client_.find({e.client, e.serial});
  if (at == direct_by_client_.end()) return;
  const std::uint64_t token = at->second;
  const SeatId seat = direct_.at(token).seat;
  effect(CancelSeatCall{seat, token});
  seats_[seat.value].tokens.erase(token);
  direct_.erase(token);
  forget_direct_call(e.client, e.serial);
}

/// A client that took its leave wants its calls to take effect (the last line of a script that sets something); one
/// that was lost is not there to care.
void WorkerCore::on(ClientGone&& e) {
  if (e.took_leave) return;  // their replies go nowhere
  for (;;) {
    const auto at = direct_by_client_.lower_bound({e.client, 0});
    if (at == direct_by_client_.end() || at->first.first != e.client) break;
    on(BoxCallCancelled{e.client, at->first.second});
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
  const DirectCall call = at->second;
  seat->tokens.erase(e.token);
  direct_.erase(at);
  forget_direct_call(call.client, call.serial);
  effect(ReplyToClient{call.client, call.serial, std::move(e.item)});
}

void WorkerCore::lose_direct_calls(Seat& seat, const DeathReport& death, std::string_view detail) {
  for (const std::uint64_t token : seat.tokens) {
    const DirectCall call = direct_.at(token);
    direct_.erase(token);
    forget_direct_call(call.client, call.serial);
    effect(ReplyToClient{call.client, call.serial, lost_frame(LostCode::kBoxLost, death, detail)});
  }
  seat.tokens.clear();
}

}  // namespace betterbox
