// The template's loop: makes slots on request, kills them on request, and reports how they ended. No Python in it.
//
// Guarantees: a slot dies with the template; when the worker goes (end of file on the control socket), every slot is
// killed. The loop never waits for the worker to read: reports queue up to kMaxTemplateReports, and beyond it neither
// requests are read nor ends looked at until the worker has read some, which it always does (worker/template_link.h).
#pragma once

#include <string_view>

#include "worker/slot_processes.h"
#include "worker/template_messages.h"

namespace betterbox {

/// Runs until the control socket ends. Returns twice in a sense: in the template with true, and in each slot, once it
/// has ended, with false. REQUIRES: `control_fd` does not block.
bool run_template(int control_fd, SlotProcesses& slots);

/// For a template that cannot start.
void report_broken(int control_fd, std::string_view reason);

}  // namespace betterbox
