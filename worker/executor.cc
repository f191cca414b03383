// Seats' arenas, rings, processes and logs (worker/executor.h).
#include "worker/executor.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <system_error>

#include "runtime/bus_file.h"
#include "runtime/descriptor.h"
#include "runtime/slot_limits.h"

namespace betterbox {
namespace {

constexpr std::uint64_t kBellTag = 1, kOutputTag = 16;
constexpr std::uint8_t kControlTag = 2;

template <class T> std::string bytes_of(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

constexpr std::string_view kWrittenOver =
    "betterbox: this slot was killed, since the memory that it shares with its worker was written over: a "
    "wild pointer in "
    "what ran there";
constexpr int kKilled = SIGKILL;  // as of waitpid()
constexpr int kExitedWith1 = 1 << 8;

void watch(int epoll_fd, int fd, std::uint64_t tag) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = tag;
  if (::epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0) {
    throw std::system_error(errno, std::generic_category(), "epoll");
  }
}

/// The memory was this process's own: what else was written over nobody knows.
[[noreturn]] void end_written_over() {
  std::fputs("betterbox: this process has written over memory of its boxes (a wild pointer?), so it ends\n",
             stderr);
  std::abort();
}

}  // namespace

Executor::Executor(const Options& options) : options_(options), host_(host_name()) {
  epoll_fd_ = ::epoll_create1(EPOLL_CLOEXEC);
  if (epoll_fd_ < 0) throw std::system_error(errno, std::generic_category(), "epoll");
  watch(epoll_fd_, options_.bell_fd, kBellTag);
  if (!options_.in_process) output_ = std::make_unique<OutputThread>([this] { wake_agent(); });
  if (options_.templates.start)
    templates_ = std::make_unique<TemplateSet>(options_.templates, epoll_fd_, kControlTag, monotonic_now());
}

Executor::~Executor() {
  slots_.clear();
  output_.reset();
  ::close(epoll_fd_);
  ::close(options_.bell_fd);
}

Executor::Slot* Executor::find(SeatId seat) {
  const auto at = slots_.find(seat);
  return at == slots_.end() ? nullptr : at->second.get();
}

std::shared_ptr<SlotArena> Executor::arena(SeatId seat) {
  Slot* slot = find(seat);
  return slot == nullptr ? nullptr : slot->arena;
}

std::vector<pid_t> Executor::pids() const {
  std::vector<pid_t> pids;
  for (const auto& [seat, slot] : slots_) {
    if (slot->pid > 0) pids.push_back(slot->pid);
  }
  return pids;
}

void Executor::remove(SeatId seat) {
  const auto at = slots_.find(seat);
  if (at == slots_.end()) return;
  if (at->second->home != nullptr) --at->second->home->slots;
  slots_.erase(at);
}

// --- effects --------------------------------------------------------------------------------------

void Executor::say(Slot& slot, ToSlot kind, std::string head, Frames tail) {
  slot.inbox.push(static_cast<std::uint32_t>(kind), std::move(head), std::move(tail));
  slot.inbox.flush();
}

void Executor::spawn(SpawnSeat&& e) {
  remove(e.seat);
  Template* home = options_.in_process ? nullptr : &templates_->of(e.payload, monotonic_now());
  auto slot = std::make_unique<Slot>(SlotArena::create(), e.seat, e.life);
  say(*slot, ToSlot::kInit, std::move(e.head), {std::move(e.payload)});
  Slot& placed = *(slots_[e.seat] = std::move(slot));
  want_bell(placed, Bell::kUrgent);
  if (options_.in_process) return;
  placed.home = home;
  ++home->slots;
  home->link.ask_fork({e.seat.value, e.life});
}

/// Only when it is to be forked now: what waits for that holds no more than its arena.
void Executor::open_pipes(Slot& slot, int* writing_ends) {
  Descriptor kept[2];
  for (const bool error : {false, true}) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0)
      throw std::system_error(errno, std::generic_category(), "pipe for a slot");
    kept[error ? 1 : 0] = Descriptor(ends[1]);
    open_output(slot, error ? slot.err : slot.out, ends[0], error ? "err" : "out");
  }
  for (int i = 0; i < 2; ++i) writing_ends[i] = kept[i].release();
}

bool Executor::descriptors_for(TemplateLink::Life life, int* fds) {
  Slot* slot = find({life.first});
  if (slot == nullptr || slot->life != life.second) return false;
  try {
    open_pipes(*slot, fds + 1);
  } catch (const std::system_error&) {
    lost_[life] = kExitedWith1;
    wake_agent();
    return false;
  }
  fds[0] = slot->arena->release_fd();
  return true;
}

std::uint64_t Executor::output_tag(const Slot& slot, bool error) {
  return (std::uint64_t{slot.seat.value} << 8) | kOutputTag | (error ? 1 : 0);
}

void Executor::open_output(Slot& slot, SlotOutput& output, int fd, const char* stream) {
  ::fcntl(fd, F_SETFL, O_NONBLOCK);
  auto& log = logs_[slot.seat];
  if (log == nullptr) {
    const std::string number = std::to_string(slot.seat.value);
    log = std::make_shared<SlotLog>(
        options_.log_folder.empty() ? "" : options_.log_folder + "/slot-" + number + ".log",
        options_.echo ? "[" + options_.name + "." + number + "] " : "", *output_);
  }
  const bool error = stream[0] == 'e';
  output.open(fd, log.get(), error);
  if (!outputs_wait_) watch(epoll_fd_, fd, output_tag(slot, error));
}

void Executor::kill(SeatId seat) {
  const Slot* slot = find(seat);
  if (slot == nullptr || options_.in_process) return;
  const TemplateLink::Life life{seat.value, slot->life};
  TemplateLink& link = slot->home->link;
  if (!link.forget_fork(life)) return link.ask_kill(life);
  lost_[life] = kKilled;
  wake_agent();
}

/// There is something to collect.
void Executor::wake_agent() {
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = ::write(options_.bell_fd, &one, sizeof one);
}

void Executor::discard(SeatId seat) {
  Slot* slot = find(seat);
  if (slot == nullptr) return;
  if (options_.in_process) say(*slot, ToSlot::kStop, {});  // its thread ends by itself
  kill(seat);
  lost_.erase({seat.value, slot->life});
  read_output(*slot, slot->out);
  read_output(*slot, slot->err);
  remove(seat);
}

void Executor::kill_all() {
  for (const auto& [seat, slot] : slots_) kill(seat);
  flush();
}

void Executor::stop(SeatId seat) {
  Slot* slot = find(seat);
  if (slot == nullptr) return;
  slot->reader.expect_stop();
  say(*slot, ToSlot::kStop, {});
}

void Executor::send_context(SendContext&& e) {
  Slot* slot = find(e.seat);
  if (slot == nullptr) return;
  const SlotContext head{e.call.client.value, e.call.serial, e.fold ? 1U : 0U, e.depth};
  say(*slot, ToSlot::kContext, bytes_of(head), {std::move(e.frame)});
}

void Executor::drop_context(const DropContext& e) {
  Slot* slot = find(e.seat);
  if (slot == nullptr) return;
  const SlotContext head{e.call.client.value, e.call.serial, 0, 0};
  say(*slot, ToSlot::kDropContext, bytes_of(head));
}

void Executor::install(InstallLease&& e) {
  Slot* slot = find(e.seat);
  if (slot == nullptr) return;
  slot->words.install(e.station, e.generation, e.count);
  slot->reader.expect(e.station, e.generation, e.fold);

  const SlotLease head{e.call.client.value, e.call.serial, e.base, e.station, e.generation};
  std::string first = bytes_of(head);
  Frames tail;
  for (PagePart& part : e.pages) {
    const std::uint64_t numbers[3] = {part.first, part.count, part.page.size()};
    const std::size_t padding = -part.page.size() & 7U;
    if (part.page.size() <= 512 && tail.empty()) {  // small: one piece
      first += bytes_of(numbers);
      first += part.page.view();
      first.append(padding, '\0');
      continue;
    }
    tail.emplace_back(bytes_of(numbers));
    tail.push_back(std::move(part.page));
    if (padding != 0) tail.emplace_back(std::string(padding, '\0'));
  }
  say(*slot, ToSlot::kLease, std::move(first), std::move(tail));
}

CutDone Executor::cut(const CutLease& e) {
  CutDone done{e.seat, e.station, {}, {}, 0};
  Slot* slot = find(e.seat);
  if (slot == nullptr) return done;
  if (const auto cut = slot->words.cut(e.station, e.count)) {
    done.cut = cut->cut;
    done.position = cut->position;
    done.done = cut->done;
  } else {
    done.position.end = 1;  // as far as anybody knows it has items left, of which none was cut
    give_up(*slot);
  }
  return done;
}

void Executor::call(CallSeat&& e) {
  Slot* slot = find(e.seat);
  if (slot == nullptr) return;
  const SlotCall head{e.token, static_cast<std::uint32_t>(e.method.size()), 0};
  std::string first = bytes_of(head);
  first += e.method;
  slot->reader.expect_reply(e.token, !e.express);
  RingWriter& ring = e.express ? slot->express : slot->inbox;
  ring.push(static_cast<std::uint32_t>(ToSlot::kCall), std::move(first), {std::move(e.arguments)});
  ring.flush();
}

void Executor::open_lane(const OpenSeatLane& e) {
  const SlotLaneAsked head{e.token, e.nonce, e.pid, e.descriptor};
  Slot* slot = find(e.seat);
  if (slot == nullptr) return;
  slot->reader.expect_reply(e.token, false);
  say(*slot, ToSlot::kOpenLane, bytes_of(head));
}

void Executor::cancel(const CancelSeatCall& e) {
  Slot* slot = find(e.seat);
  if (slot == nullptr) return;
  slot->reader.cancelled(e.token);
  say(*slot, ToSlot::kCancelCall, bytes_of(e.token));
}

// --- waiting ----------------------------------------------------------------------------------------

bool Executor::prepare_sleep() {
  for (auto& [seat, slot] : slots_) {
    want_bell(*slot, Bell::kAny);
  }
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return std::none_of(slots_.begin(), slots_.end(), [](const auto& entry) {
    return entry.second->reader.has_more() || entry.second->lends_changed();
  });
}

void Executor::wake_up() {
  for (auto& [seat, slot] : slots_) {
    want_bell(*slot, Bell::kUrgent);
  }
  // What a slot wrote without ringing is found by the look that follows.
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

void Executor::want_bell(Slot& slot, Bell bell) {
  slot.arena->header().agent_wants_bell.store(static_cast<std::uint32_t>(bell), std::memory_order_relaxed);
}

void Executor::collect(std::vector<Event>& events, bool drain_outcomes) {
  epoll_event ready[64];
  const int count = ::epoll_wait(epoll_fd_, ready, 64, 0);
  for (int i = 0; i < count; ++i) {
    const std::uint64_t tag = ready[i].data.u64;
    if (tag == kBellTag) {
      std::uint64_t rings = 0;
      [[maybe_unused]] const ssize_t n = ::read(options_.bell_fd, &rings, sizeof rings);
      wake_up();  // who rang will not ring again unless asked: what it says from now on may be urgent
    } else if ((tag & kOutputTag) != 0) {
      if (Slot* slot = find({static_cast<std::uint32_t>(tag >> 8)}))
        read_output(*slot, (tag & 1) != 0 ? slot->err : slot->out);
    }
  }
  watch_outputs();
  outcomes_seen_ = 0;
  for (auto& [seat, slot] : slots_) {
    if (drain_outcomes) drain(*slot, events, kRecordsPerLook);
    if (slot->inbox.queued_bytes() > 0) slot->inbox.flush();
    if (slot->express.queued_bytes() > 0) slot->express.flush();
    if (slot->lends_changed()) {
      slot->lends = !slot->lends;
      events.emplace_back(SeatWaits{seat, slot->life, slot->lends});
    }
  }
  std::vector<SeatId> ended;  // a thread that has said its last word: no death follows
  for (const auto& [seat, slot] : slots_) {
    if (options_.in_process && slot->reader.ended()) ended.push_back(seat);
  }
  for (const SeatId seat : ended) options_.is_worker ? report_death(*find(seat), 0, 0, events) : remove(seat);
  // Behind the rings: what a slot said comes before its death.
  for (int i = 0; i < count; ++i) {
    if (static_cast<std::uint8_t>(ready[i].data.u64) != kControlTag) continue;
    if (Template* one = templates_->at(ready[i].data.u64)) read_template(*one, events);
  }
  report_lost(events);
}

void Executor::report_lost(std::vector<Event>& events) {
  for (const auto& [life, status] : std::exchange(lost_, {})) {
    if (Slot* slot = find({life.first}); slot != nullptr && slot->life == life.second)
      report_death(*slot, status, 0, events);
  }
}

void Executor::drain(Slot& slot, std::vector<Event>& events, std::uint32_t limit) {
  if (slot.given_up) return;
  outcomes_seen_ += slot.reader.drain(events, limit);
  if (slot.reader.sane()) return;
  if (options_.in_process) end_written_over();
  give_up(slot);
}

void Executor::give_up(Slot& slot) {
  if (std::exchange(slot.given_up, true)) return;
  kill(slot.seat);
}

void Executor::look(TimePoint now) {
  if (options_.in_process || now < next_look_) return;
  next_look_ = now + kSeatLookInterval;
  if (templates_ != nullptr) templates_->end_silent(now);
  for (auto& [seat, slot] : slots_) {
    if (slot->given_up) continue;
    if (!slot->words.possible() || !slot->inbox.possible() || !slot->express.possible() ||
        !slot->reader.sane()) {
      give_up(*slot);
      continue;
    }
    const bool owes = slot->words.any_installed() || slot->reader.owes_reply();
    const bool has_read = slot->inbox.read_up();
    if (owes && !has_read) force_wake_slot(slot->arena->header().bell);
    if (!owes || !has_read || slot->inbox.queued_bytes() > 0 || slot->reader.has_more()) {
      slot->words.may_sleep();
    } else if (!slot->words.is_awake()) {
      give_up(*slot);
    }
  }
}

void Executor::read_output(Slot& slot, SlotOutput& output) {
  if (output.fd() >= 0 && !output.read(slot.pid)) output.close();
}

/// While logs or terminal do not come along, pipes are left alone, and slots wait in print as other programs do.
void Executor::watch_outputs() {
  const bool full = output_ != nullptr && output_->full();
  if (full == std::exchange(outputs_wait_, full)) return;
  for (auto& [seat, slot] : slots_) {
    for (const SlotOutput* output : {&slot->out, &slot->err}) {
      if (output->fd() < 0) continue;
      full ? (void)::epoll_ctl(epoll_fd_, EPOLL_CTL_DEL, output->fd(), nullptr)
           : watch(epoll_fd_, output->fd(), output_tag(*slot, output == &slot->err));
    }
  }
}

// --- templates ------------------------------------------------------------------------------------------

void Executor::flush() {
  if (templates_ == nullptr) return;
  templates_->flush(monotonic_now(),
                    [this](TemplateLink::Life life, int* fds) { return descriptors_for(life, fds); });
}

void Executor::read_template(Template& one, std::vector<Event>& events) {
  const TimePoint now = monotonic_now();
  for (;;) {
    TemplateReport report;
    switch (one.link.read(now, report, one.error)) {
      case TemplateLink::Read::kReport: take_report(one, report, events); break;
      case TemplateLink::Read::kNothing: return;
      case TemplateLink::Read::kClosed: return lose_template(one, events);
    }
  }
}

void Executor::take_report(Template& one, const TemplateReport& report, std::vector<Event>& events) {
  Slot* slot = find({report.seat});
  if (slot == nullptr || slot->life != report.life || slot->home != &one) return;  // discarded
  if (report.kind == TemplateReport::kForked) {
    if (report.pid == 0) return report_death(*slot, kExitedWith1, 0, events);
    slot->pid = report.pid;
    TemplateSet::fruitful(one);
  } else if (report.kind == TemplateReport::kExited) {
    report_death(*slot, report.status, report.peak_kib, events);
  }
}

/// Its slots died with it, by their parent-death signal; what they started did not.
void Executor::lose_template(Template& one, std::vector<Event>& events) {
  one.link.disconnect();
  std::vector<SeatId> dead;
  for (const auto& [seat, slot] : slots_) {
    if (slot->home == &one && !one.link.waits({seat.value, slot->life})) dead.push_back(seat);
  }
  for (const SeatId seat : dead) {
    Slot& slot = *find(seat);
    if (slot.pid > 0) ::kill(-slot.pid, SIGKILL);
    report_death(slot, kKilled, 0, events);
  }
  templates_->lost(one, monotonic_now());
  if (one.gone && &one != &templates_->own()) settle_elsewhere(one);
}

/// A client's interpreter cannot be started: its slots are of the worker's, and will say so.
void Executor::settle_elsewhere(Template& one) {
  warnings_.push_back("slots of a client cannot be of its interpreter: " + one.error);
  Template& own = templates_->own();
  for (const auto& [seat, slot] : slots_) {
    if (slot->home != &one) continue;
    const TemplateLink::Life life{seat.value, slot->life};
    one.link.forget_fork(life);
    --one.slots;
    ++own.slots;
    slot->home = &own;
    own.link.ask_fork(life);
  }
}

void Executor::report_death(Slot& slot, int status, std::uint64_t peak_kib, std::vector<Event>& events) {
  drain(slot, events, ~std::uint32_t{0});
  read_output(slot, slot.out);
  read_output(slot, slot.err);
  SeatDied died;
  died.seat = slot.seat;
  died.life = slot.life;
  if (WIFSIGNALED(status)) died.death.signal = WTERMSIG(status);
  if (WIFEXITED(status)) died.death.exit_code = WEXITSTATUS(status);
  died.death.host = host_;
  died.death.pid = static_cast<std::uint32_t>(slot.pid);
  died.death.peak_kib = peak_kib;
  died.death.stderr_tail = slot.err.tail();
  if (slot.given_up) died.death.stderr_tail += kWrittenOver;
  for (std::uint32_t s = 0; s < kStations; ++s) died.stations[s] = slot.words.end_of(s);
  events.emplace_back(std::move(died));
  remove(slot.seat);
}

}  // namespace betterbox
