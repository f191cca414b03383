// Executor: the seats' arenas, rings, processes and logs. Carries out the core's effects that concern
// seats and turns what slots say into events.
//
// Guarantees: never blocks on a slot; everything a slot had published when it died is reported before
// its death; a slot's output goes to a bounded log. One thread.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "runtime/page.h"
#include "runtime/shm.h"
#include "worker/effects.h"
#include "worker/events.h"
#include "worker/slot_log.h"
#include "worker/slot_protocol.h"
#include "worker/template_loop.h"

namespace betterbox {

class Executor {
 public:
  struct Options {
    bool in_process = false;
    bool is_worker = false;  ///< in_process: a slot's thread that ends counts as a process that ended
    int control_fd = -1;     ///< to the template (processes only); taken over
    int bell_fd = -1;        ///< an eventfd that slots write; taken over
    std::string log_folder;  ///< empty: slots' output is not kept
    std::string name;        ///< tags echoed lines: [name.K]
    bool echo = false;
  };

  explicit Executor(const Options& options);
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  // Effects.
  void spawn(SpawnSeat&& e);
  void kill(SeatId seat);
  void discard(SeatId seat);
  void stop(SeatId seat);
  void send_context(SendContext&& e);
  void drop_context(const DropContext& e);
  void install(InstallLease&& e);
  CutDone cut(const CutLease& e);
  void call(CallSeat&& e);
  void open_lane(const OpenSeatLane& e);
  void cancel(const CancelSeatCall& e);

  /// Everything that happened. `drain_outcomes` false: rings are left alone (credit).
  void collect(std::vector<Event>& events, bool drain_outcomes);
  /// Asks the slots to ring. Result: false if there is something to collect already.
  bool prepare_sleep();
  /// While the agent is awake, or looks by itself, slots ring for urgent records only.
  void wake_up();
  /// True if outcomes came at the last look: another one after kDrainInterval is cheaper than being rung for.
  bool busy() const { return outcomes_seen_ > 0; }
  /// Readable when collect() has something to do (an epoll descriptor).
  int wait_fd() const { return epoll_fd_; }

  bool template_up() const { return template_up_; }
  bool template_gone() const { return template_gone_; }
  /// Why the template did not start.
  const std::string& template_error() const { return template_error_; }
  /// In-process seats: shared with the slot's thread, which may still be leaving when the seat is gone.
  std::shared_ptr<SlotArena> arena(SeatId seat);
  int bell_fd() const { return options_.bell_fd; }
  /// Of the slots that have been forked.
  std::vector<pid_t> pids() const;
  bool any_process() const { return !slots_.empty(); }
  void kill_all();

 private:
  static constexpr std::uint32_t kRecordsPerLook = 4096;
  /// So many short outcomes make a column; fewer are gathered with their neighbours, item by item.
  static constexpr std::uint32_t kShortestColumn = 32;

  /// Outcomes of one station that follow each other.
  struct Gather {
    std::uint32_t generation = 0;
    bool fold = false;
    std::uint32_t first = 0, count = 0;
    std::int64_t busy_ns = 0, longest_ns = 0;
    double busy_squares = 0;
    PageBuilder page;
    void begin(std::uint32_t at);
  };
  struct Slot {
    Slot(SlotArena a, SeatId s, std::uint32_t l)
        : seat(s),
          life(l),
          arena(std::make_shared<SlotArena>(std::move(a))),
          inbox(arena->header().inbox, arena->header().bell, arena->inbox_data()),
          express(arena->header().express, arena->header().express.bell, arena->express_data()),
          outbox(arena->header().outbox, arena->outbox_data()),
          strip(arena->header().strip) {}
    SeatId seat;
    std::uint32_t life;
    std::shared_ptr<SlotArena> arena;
    RingWriter inbox, express;
    RingReader outbox;
    StripReader strip;
    Gather gathers[kStations];
    pid_t pid = 0;
    bool left = false;   // a thread that has said its last word: no death follows
    bool lends = false;  // as reported
    bool lends_changed() const {
      return (arena->header().slot_lends.load(std::memory_order_acquire) != 0) != lends;
    }
    SlotOutput out, err;
  };
  static void want_bell(Slot& slot, Bell bell);

  Slot* find(SeatId seat);
  void say(Slot& slot, ToSlot kind, std::string head, Frames tail = {});
  void open_output(Slot& slot, SlotOutput& output, int fd, const char* stream);
  void request_fork(Slot& slot, int out_fd, int err_fd);
  void read_template(std::vector<Event>& events);
  void take_report(const TemplateReport& report, std::vector<Event>& events);
  void read_output(Slot& slot, SlotOutput& output);
  void drain(Slot& slot, std::vector<Event>& events, std::uint32_t limit);
  void take_record(Slot& slot, Record& record, std::vector<Event>& events);
  void take_outcome(Slot& slot, const Record& record, std::vector<Event>& events);
  void drain_strip(Slot& slot, std::vector<Event>& events);
  void take_part(Slot& slot, const StripPart& part, std::vector<Event>& events);
  void finish_page(Slot& slot, std::uint32_t station, std::vector<Event>& events);
  void report_death(Slot& slot, int status, std::uint64_t peak_kib, std::vector<Event>& events);
  void remove(SeatId seat);

  Options options_;
  int epoll_fd_ = -1;
  std::string host_;
  std::map<SeatId, std::unique_ptr<Slot>> slots_;
  std::map<SeatId, std::unique_ptr<SlotLog>> logs_;
  std::vector<std::pair<SeatId, std::uint32_t>> failed_forks_;
  Record record_;
  std::string item_;
  std::uint32_t outcomes_seen_ = 0;
  bool template_up_ = false;
  bool template_gone_ = false;
  std::string template_error_;
};

}  // namespace betterbox
