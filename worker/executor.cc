// Seats' arenas, rings, processes and logs (worker/executor.h).
#include "worker/executor.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "runtime/bus_file.h"
#include "runtime/check.h"

namespace betterbox {
namespace {

constexpr std::uint64_t kBellTag = 1, kControlTag = 2, kOutputTag = 16;

template <class T> std::string bytes_of(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

template <class T> bool take(std::string_view& rest, T& value) {
  if (rest.size() < sizeof value) return false;
  std::memcpy(&value, rest.data(), sizeof value);
  rest.remove_prefix(sizeof value);
  return true;
}

std::span<const std::byte> span_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

/// A record's payload behind its first `skip` bytes, without copying it.
Frame frame_behind(std::string&& payload, std::size_t skip) {
  const std::size_t size = payload.size() - skip;
  return Frame(std::move(payload)).slice(skip, size);
}

void watch(int epoll_fd, int fd, std::uint64_t tag) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = tag;
  if (::epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0) {
    throw std::system_error(errno, std::generic_category(), "epoll");
  }
}

}  // namespace

Executor::Executor(const Options& options) : options_(options), host_(host_name()) {
  epoll_fd_ = ::epoll_create1(EPOLL_CLOEXEC);
  if (epoll_fd_ < 0) throw std::system_error(errno, std::generic_category(), "epoll");
  watch(epoll_fd_, options_.bell_fd, kBellTag);
  if (options_.control_fd >= 0) {
    ::fcntl(options_.control_fd, F_SETFL, ::fcntl(options_.control_fd, F_GETFL) | O_NONBLOCK);
    watch(epoll_fd_, options_.control_fd, kControlTag);
  }
}

Executor::~Executor() {
  slots_.clear();
  ::close(epoll_fd_);
  if (options_.control_fd >= 0) ::close(options_.control_fd);
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

void Executor::remove(SeatId seat) { slots_.erase(seat); }

// --- effects --------------------------------------------------------------------------------------

void Executor::say(Slot& slot, ToSlot kind, std::string head, Frames tail) {
  slot.inbox.push(static_cast<std::uint32_t>(kind), std::move(head), std::move(tail));
  slot.inbox.flush();
}

void Executor::spawn(SpawnSeat&& e) {
  remove(e.seat);
  auto slot = std::make_unique<Slot>(SlotArena::create(), e.seat, e.life);
  say(*slot, ToSlot::kInit, std::move(e.head), {std::move(e.payload)});
  Slot& placed = *(slots_[e.seat] = std::move(slot));
  want_bell(placed, Bell::kUrgent);
  if (options_.in_process) return;
  int out[2], err[2];
  if (::pipe2(out, O_CLOEXEC) != 0)
    throw std::system_error(errno, std::generic_category(), "pipe for a slot");
  if (::pipe2(err, O_CLOEXEC) != 0)
    throw std::system_error(errno, std::generic_category(), "pipe for a slot");
  open_output(placed, placed.out, out[0], "out");
  open_output(placed, placed.err, err[0], "err");
  request_fork(placed, out[1], err[1]);
  ::close(out[1]);
  ::close(err[1]);
  placed.arena->close_fd();
}

void Executor::open_output(Slot& slot, SlotOutput& output, int fd, const char* stream) {
  ::fcntl(fd, F_SETFL, O_NONBLOCK);
  auto& log = logs_[slot.seat];
  if (log == nullptr) {
    const std::string number = std::to_string(slot.seat.value);
    log = std::make_unique<SlotLog>(
        options_.log_folder.empty() ? "" : options_.log_folder + "/slot-" + number + ".log",
        options_.echo ? "[" + options_.name + "." + number + "] " : "");
  }
  const bool error = stream[0] == 'e';
  output.open(fd, log.get(), error);
  watch(epoll_fd_, fd, (std::uint64_t{slot.seat.value} << 8) | kOutputTag | (error ? 1 : 0));
}

void Executor::request_fork(Slot& slot, int out_fd, int err_fd) {
  TemplateRequest request{TemplateRequest::kFork, slot.seat.value, slot.life};
  const int fds[3] = {slot.arena->fd(), out_fd, err_fd};
  iovec part{&request, sizeof request};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof fds)] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof fds);
  std::memcpy(CMSG_DATA(header), fds, sizeof fds);
  // The socket is non-blocking for reading; a full one here means a template that does not come along.
  ssize_t sent = -1;
  for (int attempt = 0; attempt < 500 && sent < 0; ++attempt) {
    sent = ::sendmsg(options_.control_fd, &message, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN && errno != EINTR) break;
    if (sent < 0) ::usleep(10'000);
  }
  if (sent < 0) failed_forks_.emplace_back(slot.seat, slot.life);
}

void Executor::kill(SeatId seat) {
  const Slot* slot = find(seat);
  if (slot == nullptr || options_.in_process) return;
  const TemplateRequest request{TemplateRequest::kKill, seat.value, slot->life};
  for (int attempt = 0; attempt < 500; ++attempt) {
    if (::send(options_.control_fd, &request, sizeof request, MSG_NOSIGNAL) >= 0 || errno == EPIPE) return;
    ::usleep(10'000);
  }
}

void Executor::discard(SeatId seat) {
  Slot* slot = find(seat);
  if (slot == nullptr) return;
  if (options_.in_process) say(*slot, ToSlot::kStop, {});  // its thread ends by itself
  kill(seat);
  read_output(*slot, slot->out);
  read_output(*slot, slot->err);
  slots_.erase(seat);
}

void Executor::kill_all() {
  for (const auto& [seat, slot] : slots_) kill(seat);
}

void Executor::stop(SeatId seat) {
  if (Slot* slot = find(seat)) say(*slot, ToSlot::kStop, {});
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
  LeaseStation& station = slot->arena->header().stations[e.station];
  station.done.store(0, std::memory_order_relaxed);
  station.generation.store(e.generation, std::memory_order_relaxed);
  station.word.install(e.count);
  Gather& gather = slot->gathers[e.station];
  BB_CHECK(gather.count == 0);
  gather.generation = e.generation;
  gather.fold = e.fold;

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
  LeaseStation& station = slot->arena->header().stations[e.station];
  done.cut = station.word.cut(e.count);
  done.position = station.word.position();
  // Read after the position: an item that finished meanwhile only looks finished.
  done.done = station.done.load(std::memory_order_acquire);
  return done;
}

void Executor::call(CallSeat&& e) {
  Slot* slot = find(e.seat);
  if (slot == nullptr) return;
  const SlotCall head{e.token, static_cast<std::uint32_t>(e.method.size()), 0};
  std::string first = bytes_of(head);
  first += e.method;
  RingWriter& ring = e.express ? slot->express : slot->inbox;
  ring.push(static_cast<std::uint32_t>(ToSlot::kCall), std::move(first), {std::move(e.arguments)});
  ring.flush();
}

void Executor::open_lane(const OpenSeatLane& e) {
  const SlotLaneAsked head{e.token, e.nonce, e.pid, e.descriptor};
  if (Slot* slot = find(e.seat)) say(*slot, ToSlot::kOpenLane, bytes_of(head));
}

void Executor::cancel(const CancelSeatCall& e) {
  if (Slot* slot = find(e.seat)) say(*slot, ToSlot::kCancelCall, bytes_of(e.token));
}

// --- waiting ----------------------------------------------------------------------------------------

bool Executor::prepare_sleep() {
  for (auto& [seat, slot] : slots_) {
    want_bell(*slot, Bell::kAny);
  }
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return std::none_of(slots_.begin(), slots_.end(), [](const auto& entry) {
    return entry.second->outbox.has_bytes() || entry.second->strip.has_more() ||
           entry.second->lends_changed();
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
  std::vector<SeatId> left;
  for (const auto& [seat, slot] : slots_) {
    if (slot->left) left.push_back(seat);
  }
  for (const SeatId seat : left) options_.is_worker ? report_death(*find(seat), 0, 0, events) : remove(seat);
  // Behind the rings: what a slot said comes before its death.
  for (int i = 0; i < count; ++i) {
    if (ready[i].data.u64 == kControlTag) read_template(events);
  }
  for (const auto& [seat, life] : failed_forks_) {
    if (Slot* slot = find(seat); slot != nullptr && slot->life == life)
      report_death(*slot, 1 << 8, 0, events);
  }
  failed_forks_.clear();
}

void Executor::read_output(Slot& slot, SlotOutput& output) {
  if (output.fd() >= 0 && !output.read(slot.pid)) output.close();
}

// --- the template --------------------------------------------------------------------------------------

void Executor::read_template(std::vector<Event>& events) {
  for (;;) {
    TemplateReport report;
    const ssize_t size = ::recv(options_.control_fd, &report, sizeof report, 0);
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (size != static_cast<ssize_t>(sizeof report)) {
      if (!template_gone_) ::epoll_ctl(epoll_fd_, EPOLL_CTL_DEL, options_.control_fd, nullptr);
      template_gone_ = true;
      return;
    }
    take_report(report, events);
  }
}

void Executor::take_report(const TemplateReport& report, std::vector<Event>& events) {
  if (report.kind == TemplateReport::kUp) template_up_ = true;
  if (report.kind == TemplateReport::kBroken)
    template_error_.assign(report.text, ::strnlen(report.text, sizeof report.text));
  Slot* slot = find({report.seat});
  if (slot == nullptr || slot->life != report.life) return;  // discarded
  if (report.kind == TemplateReport::kForked) {
    if (report.pid == 0) return report_death(*slot, 1 << 8, 0, events);
    slot->pid = report.pid;
  } else if (report.kind == TemplateReport::kExited) {
    report_death(*slot, report.status, report.peak_kib, events);
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
  for (std::size_t s = 0; s < kStations; ++s) {
    const LeaseStation& station = slot.arena->header().stations[s];
    died.stations[s] = {station.generation.load(), station.done.load(), station.word.position()};
  }
  events.emplace_back(std::move(died));
  remove(slot.seat);
}

// --- records ------------------------------------------------------------------------------------------

void Executor::drain(Slot& slot, std::vector<Event>& events, std::uint32_t limit) {
  drain_strip(slot, events);
  for (std::uint32_t i = 0; i < limit && slot.outbox.next(record_); ++i) take_record(slot, record_, events);
  for (std::uint32_t s = 0; s < kStations; ++s) finish_page(slot, s, events);
}

void Executor::take_record(Slot& slot, Record& record, std::vector<Event>& events) {
  std::string_view rest = record.payload;
  switch (static_cast<FromSlot>(record.kind)) {
    case FromSlot::kOutcome: return take_outcome(slot, record, events);
    case FromSlot::kLeaseDone: {
      SlotLeaseDone done;
      if (!take(rest, done) || done.station >= kStations) return;
      drain_strip(slot, events);  // all its outcomes are there
      finish_page(slot, done.station, events);
      events.emplace_back(SubLeaseDone{slot.seat, slot.life, done.station, done.generation});
      return;
    }
    case FromSlot::kReply: {
      std::uint64_t token = 0;
      if (!take(rest, token)) return;
      events.emplace_back(
          SeatReplied{slot.seat, slot.life, token, frame_behind(std::move(record.payload), sizeof token)});
      return;
    }
    case FromSlot::kLaneReply: {
      SlotLaneReply head;
      if (!take(rest, head)) return;
      events.emplace_back(LaneReplied{slot.seat, slot.life, head.token, head.serial,
                                      frame_behind(std::move(record.payload), sizeof head)});
      return;
    }
    case FromSlot::kReady: {
      SlotReady head;
      if (!take(rest, head) || rest.size() < head.class_name_size) return;
      SeatReady ready{
          slot.seat, slot.life, std::string(rest.substr(0, head.class_name_size)), head.sandbox != 0, {}};
      rest.remove_prefix(head.class_name_size);
      for (std::uint32_t i = 0; i < head.methods && rest.size() >= 2; ++i) {
        const auto flags = static_cast<std::uint8_t>(rest[0]);
        const auto size = static_cast<std::uint8_t>(rest[1]);
        ready.methods.push_back({std::string(rest.substr(2, size)), flags});
        rest.remove_prefix(std::min<std::size_t>(rest.size(), 2U + size));
      }
      events.emplace_back(std::move(ready));
      return;
    }
    case FromSlot::kFailed:
      slot.left = options_.in_process;
      events.emplace_back(SeatFailed{slot.seat, slot.life, Frame(std::move(record.payload))});
      return;
    case FromSlot::kStopped:
      slot.left = options_.in_process;
      events.emplace_back(SeatStopped{slot.seat, slot.life, Frame(std::move(record.payload))});
      return;
  }
}

namespace {
double square(std::int64_t ns) { return static_cast<double>(ns) * static_cast<double>(ns); }
}  // namespace

void Executor::take_outcome(Slot& slot, const Record& record, std::vector<Event>& events) {
  ++outcomes_seen_;
  std::string_view rest = record.payload;
  SlotOutcome outcome;
  if (!take(rest, outcome) || outcome.station >= kStations) return;
  Gather& gather = slot.gathers[outcome.station];
  if (outcome.generation != gather.generation) return;
  const bool alone = gather.fold || rest.size() >= kPageBytes;
  const bool follows = gather.count > 0 && outcome.first == gather.first + gather.count;
  if (gather.count > 0 && (!follows || alone || gather.page.bytes() + rest.size() > kPageBytes)) {
    finish_page(slot, outcome.station, events);
  }
  if (alone) {
    events.emplace_back(SeatProgressed{
        slot.seat, slot.life, outcome.station, outcome.generation, outcome.first, outcome.count,
        outcome.busy_ns, square(outcome.busy_ns) / std::max(1U, outcome.count), outcome.longest_ns,
        make_single_page(span_of(rest), gather.fold ? PageKind::kFold : PageKind::kSingle)});
    return;
  }
  if (gather.count == 0) gather.begin(outcome.first);
  gather.page.add(span_of(rest));
  gather.count += 1;
  gather.busy_ns += outcome.busy_ns;
  gather.busy_squares += square(outcome.busy_ns);
  gather.longest_ns = std::max(gather.longest_ns, outcome.longest_ns);
}

void Executor::Gather::begin(std::uint32_t at) {
  first = at;
  busy_ns = longest_ns = 0;
  busy_squares = 0;
}

/// What is there now: a slot that goes on meanwhile is not run after.
void Executor::drain_strip(Slot& slot, std::vector<Event>& events) {
  bool last = false;
  while (!last) {
    const auto part = slot.strip.next();
    if (!part) break;
    last = part->last;
    outcomes_seen_ += part->count;
    if (part->station < kStations && part->generation == slot.gathers[part->station].generation &&
        !slot.gathers[part->station].fold)
      take_part(slot, *part, events);
    slot.strip.release();
  }
}

void Executor::take_part(Slot& slot, const StripPart& part, std::vector<Event>& events) {
  Gather& gather = slot.gathers[part.station];
  const bool alone = part.count >= kShortestColumn;
  if (gather.count > 0 && (alone || part.first != gather.first + gather.count ||
                           gather.page.bytes() + part.count * std::size_t{16} > kPageBytes)) {
    finish_page(slot, part.station, events);
  }
  if (alone) {
    events.emplace_back(SeatProgressed{slot.seat, slot.life, part.station, part.generation, part.first,
                                       part.count, part.busy_ns, part.busy_squares, part.longest_ns,
                                       slot.strip.column_of(part)});
    return;
  }
  if (gather.count == 0) gather.begin(part.first);
  for (std::uint32_t i = 0; i < part.count; ++i) {
    item_.clear();
    slot.strip.append_item(part, i, item_);
    gather.page.add(span_of(item_));
  }
  gather.count += part.count;
  gather.busy_ns += part.busy_ns;
  gather.busy_squares += part.busy_squares;
  gather.longest_ns = std::max(gather.longest_ns, part.longest_ns);
}

void Executor::finish_page(Slot& slot, std::uint32_t station, std::vector<Event>& events) {
  Gather& gather = slot.gathers[station];
  if (gather.count == 0) return;
  events.emplace_back(SeatProgressed{slot.seat, slot.life, station, gather.generation, gather.first,
                                     gather.count, gather.busy_ns, gather.busy_squares, gather.longest_ns,
                                     gather.page.finish()});
  gather.count = 0;
}

}  // namespace betterbox
