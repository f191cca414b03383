// Executor: the seats' arenas, rings, processes and logs. Carries out the core's effects that concern
// seats and turns what slots say into events.
//
// Guarantees: never blocks on a slot or on the template; everything a slot had published when it died is reported before
// its death; a slot whose shared memory makes no sense is killed; a template that is gone is replaced, its slots count as
// killed; a slot's output goes to a bounded log. One thread.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "runtime/shm.h"
#include "worker/effects.h"
#include "worker/events.h"
#include "worker/output_thread.h"
#include "worker/slot_log.h"
#include "worker/slot_protocol.h"
#include "worker/slot_reader.h"
#include "worker/slot_words.h"
#include "worker/template_set.h"

namespace betterbox {

class Executor {
 public:
  struct Options {
    bool in_process = false;
    bool is_worker = false;          ///< in_process: a slot's thread that ends counts as a process that ended
    TemplateSet::Options templates;  ///< processes only
    int bell_fd = -1;                ///< an eventfd that slots write; taken over
    std::string log_folder;          ///< empty: slots' output is not kept
    std::string name;                ///< tags echoed lines: [name.K]
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
  /// What waits for the template is sent as far as it goes now. To be called before the agent waits.
  void flush();
  /// To be called now and then (next_look()): finds slots that do not see what they were given, and a template that does not
  /// answer. REQUIRES: collect() with `drain_outcomes` came before, in this turn.
  void look(TimePoint now);
  /// Asks the slots to ring. Result: false if there is something to collect already.
  bool prepare_sleep();
  /// While the agent is awake, or looks by itself, slots ring for urgent records only.
  void wake_up();
  /// True if outcomes came at the last look: another one after kDrainInterval is cheaper than being rung for.
  bool busy() const { return outcomes_seen_ > 0; }
  /// Readable when collect() has something to do (an epoll descriptor).
  int wait_fd() const { return epoll_fd_; }

  /// Of the worker's own interpreter; null in process.
  const Template* own_template() const { return templates_ == nullptr ? nullptr : &templates_->own(); }
  /// What those who run this worker should know, once.
  std::vector<std::string> take_warnings() { return std::exchange(warnings_, {}); }
  /// In-process seats: shared with the slot's thread, which may still be leaving when the seat is gone.
  std::shared_ptr<SlotArena> arena(SeatId seat);
  int bell_fd() const { return options_.bell_fd; }
  /// Of the slots that have been forked.
  std::vector<pid_t> pids() const;
  bool any_process() const { return !slots_.empty(); }
  void kill_all();

 private:
  static constexpr std::uint32_t kRecordsPerLook = 4096;

  struct Slot {
    Slot(SlotArena a, SeatId s, std::uint32_t l)
        : seat(s),
          life(l),
          arena(std::make_shared<SlotArena>(std::move(a))),
          inbox(arena->header().inbox, arena->header().bell, arena->inbox_data()),
          express(arena->header().express, arena->header().express.bell, arena->express_data()),
          words(arena->header()),
          reader(*arena, words, s, l) {}
    SeatId seat;
    std::uint32_t life;
    std::shared_ptr<SlotArena> arena;
    RingWriter inbox, express;
    SlotWords words;
    SlotReader reader;
    Template* home = nullptr;  // what it is forked from
    pid_t pid = 0;
    bool given_up = false;  // what it shares with the agent makes no sense: it is being killed
    bool lends = false;     // as reported
    bool lends_changed() const {
      return (arena->header().slot_lends.load(std::memory_order_acquire) != 0) != lends;
    }
    SlotOutput out, err;
  };
  static void want_bell(Slot& slot, Bell bell);

  Slot* find(SeatId seat);
  void say(Slot& slot, ToSlot kind, std::string head, Frames tail = {});
  void open_output(Slot& slot, SlotOutput& output, int fd, const char* stream);
  void open_pipes(Slot& slot, int* writing_ends);
  bool descriptors_for(TemplateLink::Life life, int* fds);
  void read_template(Template& one, std::vector<Event>& events);
  void take_report(Template& one, const TemplateReport& report, std::vector<Event>& events);
  void lose_template(Template& one, std::vector<Event>& events);
  void settle_elsewhere(Template& one);
  void report_lost(std::vector<Event>& events);
  void read_output(Slot& slot, SlotOutput& output);
  void watch_outputs();
  static std::uint64_t output_tag(const Slot& slot, bool error);
  void drain(Slot& slot, std::vector<Event>& events, std::uint32_t limit);
  void give_up(Slot& slot);
  void wake_agent();
  void report_death(Slot& slot, int status, std::uint64_t peak_kib, std::vector<Event>& events);
  void remove(SeatId seat);

  Options options_;
  int epoll_fd_ = -1;
  std::string host_;
  std::map<SeatId, std::unique_ptr<Slot>> slots_;
  std::unique_ptr<OutputThread> output_;
  bool outputs_wait_ = false;
  std::map<SeatId, std::shared_ptr<SlotLog>> logs_;
  std::unique_ptr<TemplateSet> templates_;
  std::vector<std::string> warnings_;
  std::map<TemplateLink::Life, int> lost_;  // lives that ended without the template, with their status
  TimePoint next_look_{};
  std::uint32_t outcomes_seen_ = 0;
};

}  // namespace betterbox
