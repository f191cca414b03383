// A slot's process between calls: what items left behind is put back as their client's calls expect it. Needs the GIL.
#pragma once

#include <array>
#include <csignal>

#include "python/src/process_state.h"
#include "python/src/py_ref.h"
#include "runtime/time.h"
#include "worker/process_limits.h"

namespace betterbox {

/// What the dear part of a look (5 us) may cost at most: the 50th part of a slot's time.
inline constexpr Duration kDearLookInterval = microseconds(250);

class SlotSurroundings {
 public:
  /// `hooks`: betterbox._slot. What signals do now is what they will do for each call.
  explicit SlotSurroundings(PyObject* hooks);

  /// Before a call is unpickled, and before items behind which something else may have run. Makes the process what `wanted`
  /// says (made by `surroundings_of`; null or None: nothing). Result: false: a Python error is set.
  bool enter(PyObject* wanted, TimePoint now);
  /// Before each further submission: signals, timers and limits are looked at only now and then.
  bool stay(PyObject* wanted, TimePoint now);
  /// Once nothing is left to run: whoever comes next does not wait for it, and no timer ends a slot that has no work.
  void rest();

 private:
  static constexpr std::array kSignals = {SIGHUP,  SIGINT,  SIGQUIT, SIGUSR1, SIGUSR2,  SIGPIPE,
                                          SIGALRM, SIGTERM, SIGCHLD, SIGPROF, SIGVTALRM};

  static bool is_any(PyObject* wanted) { return wanted == nullptr || wanted == Py_None; }
  bool match(PyObject* wanted);
  bool settle(PyObject* wanted);
  void restore_signals();
  void restore_action(std::size_t which);

  PyRef settle_, signals_;  // a function, and the module _signal
  PyRef settled_;           // what the process matches, but for what items have changed since
  ProcessState state_;
  ProcessLimits limits_;
  mode_t mask_;
  TimePoint look_at_{};
  bool used_ = false;  // items have run since `rest`
  sigset_t blocked_{};
  std::array<struct sigaction, kSignals.size()> actions_{};
  std::array<PyRef, kSignals.size()> handlers_;  // as Python knows them
};

}  // namespace betterbox
