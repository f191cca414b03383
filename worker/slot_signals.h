// Signals in a slot. What terminals and batch systems send to every process of a job is the worker's to handle, so a slot
// does not heed it; but what user code forks or starts in a slot heeds everything as usual (docs/operations.md, "Signals").
#pragma once

namespace betterbox {

/// For the process of a slot, before user code runs: SIGINT, SIGTERM and SIGUSR1 of other processes have no effect. Handlers
/// do that, since programs would inherit that a signal is ignored; a child that is forked gets the default. What user
/// code sends to itself has its usual effect; for SIGINT that is `interrupted`, if there is one.
void take_slot_signals(void (*interrupted)());

}  // namespace betterbox
