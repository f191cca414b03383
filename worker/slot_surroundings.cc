#include "worker/slot_surroundings.h"

#include <sys/stat.h>
#include <sys/time.h>

#include <cstring>
#include <utility>

namespace betterbox {
namespace {

/// Only by setting it: slots have one thread of their own, and what others would make meanwhile is for its owner alone.
mode_t current_umask() {
  const mode_t mask = ::umask(077);
  ::umask(mask);
  return mask;
}

bool same_action(const struct sigaction& a, const struct sigaction& b) {
  return a.sa_flags == b.sa_flags && a.sa_sigaction == b.sa_sigaction;
}

}  // namespace

SlotSurroundings::SlotSurroundings(PyObject* hooks)
    : settle_(PyObject_GetAttrString(hooks, "settle")),
      signals_(PyImport_ImportModule("_signal")),
      mask_(current_umask()) {
  for (std::size_t i = 0; i < kSignals.size(); ++i) {
    ::sigaction(kSignals[i], nullptr, &actions_[i]);
    if (signals_) handlers_[i] = PyRef(PyObject_CallMethod(signals_.get(), "getsignal", "i", kSignals[i]));
  }
  PyErr_Clear();
  ::pthread_sigmask(SIG_SETMASK, nullptr, &blocked_);
  limits_.note();
}

bool SlotSurroundings::enter(PyObject* wanted, TimePoint now) {
  if (is_any(wanted)) return true;
  look_at_ = now + kDearLookInterval;
  rest();
  used_ = true;
  return match(wanted);
}

bool SlotSurroundings::stay(PyObject* wanted, TimePoint now) {
  if (is_any(wanted)) return true;
  used_ = true;
  return now >= look_at_ ? enter(wanted, now) : match(wanted);
}

void SlotSurroundings::rest() {
  if (!std::exchange(used_, false)) return;
  restore_signals();
  limits_.restore();
}

bool SlotSurroundings::match(PyObject* wanted) {
  const bool same_mask = current_umask() == mask_;
  return (same_mask && wanted == settled_.get() && state_.same()) || settle(wanted);
}

/// Umask and limits are the client's only where the worker follows it: elsewhere they are as they were.
bool SlotSurroundings::settle(PyObject* wanted) {
  settled_ = PyRef();
  ::umask(mask_);
  limits_.restore();
  PyRef done(PyObject_CallOneArg(settle_.get(), wanted));
  if (!done) return false;
  settled_ = PyRef::borrow(wanted);
  mask_ = current_umask();
  state_.note();
  limits_.note();
  return true;
}

/// Also a timer that was left running: it would end another call's item.
void SlotSurroundings::restore_signals() {
  for (const auto which : {ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF}) {
    itimerval left{};
    if (::getitimer(which, &left) == 0 && (left.it_value.tv_sec != 0 || left.it_value.tv_usec != 0)) {
      left = {};
      ::setitimer(which, &left, nullptr);
    }
  }
  for (std::size_t i = 0; i < kSignals.size(); ++i) {
    struct sigaction now {};
    if (::sigaction(kSignals[i], nullptr, &now) == 0 && !same_action(now, actions_[i])) restore_action(i);
  }
  sigset_t blocked{};
  ::pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
  if (std::memcmp(&blocked, &blocked_, sizeof blocked) != 0)
    ::pthread_sigmask(SIG_SETMASK, &blocked_, nullptr);
}

/// Python's note of it first: an item that saves what it finds, and puts it back, is not to put back another item's.
void SlotSurroundings::restore_action(std::size_t which) {
  if (handlers_[which] && handlers_[which].get() != Py_None) {
    PyRef before(
        PyObject_CallMethod(signals_.get(), "signal", "iO", kSignals[which], handlers_[which].get()));
    PyErr_Clear();
  }
  ::sigaction(kSignals[which], &actions_[which], nullptr);
}

}  // namespace betterbox
