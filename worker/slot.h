// Slot: runs items and calls in one Python interpreter, on the thread that calls run_slot.
// The same loop serves a forked slot process and the thread of a box that a script serves.
#pragma once

#include "runtime/shm.h"

namespace betterbox {

struct SlotOptions {
  int bell_fd = -1;         ///< the agent's eventfd
  bool in_process = false;  ///< a thread of a script: never exits the process
};

/// Runs until kStop or kFailed. REQUIRES: the GIL is held by the calling thread (released while waiting).
/// Python work is done by the module betterbox._slot. Never throws.
void run_slot(SlotArena& arena, const SlotOptions& options);

}  // namespace betterbox
