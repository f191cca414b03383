#include "worker/slot_surroundings.h"

#include <sys/stat.h>
#include <sys/time.h>

#include <cstring>

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

SlotSurroundings::SlotSurroundings(PyObject* hooks) : settle_(PyObject_GetAttrString(hooks, "settle")) {
  PyErr_Clear();
  for (std::size_t i = 0; i < kSignals.size(); ++i) ::sigaction(kSignals[i], nullptr, &actions_[i]);
  ::pthread_sigmask(SIG_SETMASK, nullptr, &blocked_);
}

bool SlotSurroundings::enter(PyObject* wanted) {
  if (is_any(wanted)) return true;
  restore_signals();
  return (wanted == settled_.get() && same()) || settle(wanted);
}

bool SlotSurroundings::same() const { return current_umask() == mask_ && state_.same(); }

bool SlotSurroundings::settle(PyObject* wanted) {
  settled_ = PyRef();
  PyRef done(PyObject_CallOneArg(settle_.get(), wanted));
  if (!done) return false;
  settled_ = PyRef::borrow(wanted);
  mask_ = current_umask();
  state_.note();
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
    if (::sigaction(kSignals[i], nullptr, &now) == 0 && !same_action(now, actions_[i]))
      ::sigaction(kSignals[i], &actions_[i], nullptr);
  }
  sigset_t blocked{};
  ::pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
  if (std::memcmp(&blocked, &blocked_, sizeof blocked) != 0)
    ::pthread_sigmask(SIG_SETMASK, &blocked_, nullptr);
}

}  // namespace betterbox
