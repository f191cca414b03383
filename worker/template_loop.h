// The template's loop: forks slots from this (warm, single-threaded) process on request, kills them on
// request, reaps them and reports how they ended. No Python in here: what is Python's comes as hooks.
//
// Guarantees: a slot is a process group of its own and dies with the template (parent-death signal);
// when the worker goes (end of file on the control socket), every slot's group is killed.
#pragma once

#include <cstdint>

#include "runtime/shm.h"

namespace betterbox {

/// What the worker asks of its template: one packet on the control socket.
struct TemplateRequest {
  enum Kind : std::uint32_t {
    kFork = 1,  ///< with three descriptors: arena, stdout, stderr
    kKill = 2,  ///< the slot of this seat and life, with its process group
  };
  std::uint32_t kind = 0;
  std::uint32_t seat = 0;
  std::uint32_t life = 0;
};

/// What the template says: one packet.
struct TemplateReport {
  enum Kind : std::uint32_t {
    kUp = 1,      ///< slots can be forked
    kForked = 2,  ///< `pid`, or 0 and `status` is errno
    kExited = 3,  ///< `status` as of waitpid(), `peak_kib`
    kBroken = 4,  ///< the template cannot start: `text`
  };
  std::uint32_t kind = 0;
  std::uint32_t seat = 0;
  std::uint32_t life = 0;
  std::int32_t pid = 0;
  std::int32_t status = 0;
  std::int32_t reserved = 0;
  std::uint64_t peak_kib = 0;
  char text[512] = {};
};

struct TemplateHooks {
  void (*before_fork)() = nullptr;
  void (*after_fork_parent)() = nullptr;
  void (*after_fork_child)() = nullptr;
  void (*run_slot)(SlotArena& arena, int bell_fd) = nullptr;
};

/// Runs until the control socket ends. Returns twice in a sense: in the template with the exit code, and in
/// each slot after hooks.run_slot (code 0), so that the caller ends the interpreter in the usual way.
/// REQUIRES: one thread.
int run_template(int control_fd, int bell_fd, const TemplateHooks& hooks);

/// Sends a report; for those that prepare a template. Result: false if the worker is gone.
bool send_report(int control_fd, const TemplateReport& report);

}  // namespace betterbox
