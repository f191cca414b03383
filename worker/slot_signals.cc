// Signals in a slot (worker/slot_signals.h).
#include "worker/slot_signals.h"

#include <pthread.h>
#include <unistd.h>

#include <csignal>

namespace betterbox {
namespace {

constexpr int kOfTheWorker[] = {SIGINT, SIGTERM, SIGUSR1};
void (*own_interrupt)() = nullptr;
pid_t slot_process = 0;

void leave_to_worker(int number, siginfo_t* info, void*) {
  // A child takes a signal that comes before it has its defaults back.
  if (::getpid() == slot_process) {
    if (info->si_pid != slot_process) return;
    if (number == SIGINT && own_interrupt != nullptr) return own_interrupt();
  }
  std::signal(number, SIG_DFL);
  ::raise(number);
}

/// In a child that user code has forked. Handlers of the user's own stay.
void give_signals_back() {
  for (const int number : kOfTheWorker) {
    struct sigaction now {};
    ::sigaction(number, nullptr, &now);
    if ((now.sa_flags & SA_SIGINFO) != 0 && now.sa_sigaction == &leave_to_worker)
      std::signal(number, SIG_DFL);
  }
}

}  // namespace

void take_slot_signals(void (*interrupted)()) {
  own_interrupt = interrupted;
  slot_process = ::getpid();
  for (int number = 1; number < NSIG; ++number) std::signal(number, SIG_DFL);
  std::signal(SIGPIPE, SIG_IGN);  // as Python does: a broken pipe is an exception
  for (const int number : kOfTheWorker) {
    struct sigaction action {};
    action.sa_flags = SA_SIGINFO | SA_RESTART;
    action.sa_sigaction = &leave_to_worker;
    ::sigaction(number, &action, nullptr);
  }
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::pthread_atfork(nullptr, nullptr, &give_signals_back);
}

}  // namespace betterbox
