// A slot's process between calls: what items left behind is put back as their client's calls expect it. Needs the GIL.
#pragma once

#include <array>
#include <csignal>

#include "python/src/process_state.h"
#include "python/src/py_ref.h"

namespace betterbox {

class SlotSurroundings {
 public:
  /// `hooks`: betterbox._slot. What signals do now is what they will do for each call.
  explicit SlotSurroundings(PyObject* hooks);

  /// Before a call is unpickled, and before items of another call than those before: all is looked at. Result: false: a
  /// Python error is set, and the process is not what `wanted` (made by `surroundings_of`; null or None: no matter) says.
  bool enter(PyObject* wanted);
  /// Before each further submission: what is changed most often, and costs little to look at.
  bool stay(PyObject* wanted) { return is_any(wanted) || same() || settle(wanted); }

 private:
  static constexpr std::array kSignals = {SIGHUP,  SIGINT,  SIGQUIT, SIGUSR1, SIGUSR2,  SIGPIPE,
                                          SIGALRM, SIGTERM, SIGCHLD, SIGPROF, SIGVTALRM};

  static bool is_any(PyObject* wanted) { return wanted == nullptr || wanted == Py_None; }
  bool same() const;
  bool settle(PyObject* wanted);
  void restore_signals();

  PyRef settle_;
  PyRef settled_;  // what the process matches, but for what items have changed since
  ProcessState state_;
  mode_t mask_ = 0;
  sigset_t blocked_{};
  std::array<struct sigaction, kSignals.size()> actions_{};
};

}  // namespace betterbox
