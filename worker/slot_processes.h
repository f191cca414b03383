// SlotProcesses: where a template's slots come from and how they end. The template's loop (worker/template_loop.h) knows
// them by process id only, so that it can be tested with thousands of slots that are no processes.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <set>

#include "runtime/shm.h"

namespace betterbox {

class SlotProcesses {
 public:
  struct Forked {
    pid_t pid = 0;         ///< 0: it failed, with `error`
    int error = 0;         ///< errno
    bool in_slot = false;  ///< this is the slot, and it has ended
  };
  struct Exit {
    pid_t pid = 0;
    int status = 0;  ///< as of waitpid()
    std::uint64_t peak_kib = 0;
  };

  virtual ~SlotProcesses() = default;
  /// Makes a slot of three descriptors: arena, stdout, stderr. They stay the caller's.
  virtual Forked fork(const int* descriptors) = 0;
  /// Kills a slot with its process group. REQUIRES: next_exit() has not told its end.
  virtual void kill(pid_t slot) = 0;
  /// The end of one process, maybe of one that no fork() told; empty: nobody else has ended.
  virtual std::optional<Exit> next_exit() = 0;
  /// Readable when next_exit() may have something.
  virtual int exits_fd() const = 0;
  /// All slots have ended: kills what they left to this process.
  virtual void kill_adopted() = 0;
};

struct TemplateHooks {
  void (*before_fork)() = nullptr;
  void (*after_fork_parent)() = nullptr;
  void (*after_fork_child)() = nullptr;
  void (*interrupted)() = nullptr;  ///< in a signal handler: user code sent SIGINT to its own slot
  void (*run_slot)(SlotArena& arena, int bell_fd) = nullptr;
};

/// Processes, forked off this one. REQUIRES: it has one thread.
class ForkedSlots : public SlotProcesses {
 public:
  /// From here on this process ignores what terminals and batch systems send, and adopts what slots leave behind.
  ForkedSlots(int bell_fd, const TemplateHooks& hooks);
  ~ForkedSlots() override;

  Forked fork(const int* descriptors) override;
  void kill(pid_t slot) override;
  std::optional<Exit> next_exit() override;
  int exits_fd() const override { return child_signals_; }
  void kill_adopted() override;

 private:
  void become_slot(pid_t parent, const int* descriptors);

  const int bell_fd_;
  const TemplateHooks hooks_;
  int child_signals_ = -1;
  std::set<pid_t> slots_;
};

}  // namespace betterbox
