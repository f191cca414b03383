// Slots as processes (worker/slot_processes.h).
#include "worker/slot_processes.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <utility>

#include "runtime/check.h"
#include "runtime/close_range.h"
#include "worker/slot_signals.h"

namespace betterbox {
namespace {

/// 0 is /dev/null, 1 and 2 the worker's pipes, 3 the arena, 4 the bell; nothing else stays open.
std::pair<int, int> arrange_descriptors(const int* given, int bell_fd) {
  const int null = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  int high[5];
  const int from[5] = {null, given[1], given[2], given[0], bell_fd};
  for (int i = 0; i < 5; ++i) high[i] = ::fcntl(from[i], F_DUPFD_CLOEXEC, 10);
  for (int i = 0; i < 5; ++i) {
    if (high[i] < 0 || ::dup2(high[i], i) < 0) ::_exit(1);
  }
  ::fcntl(3, F_SETFD, FD_CLOEXEC);
  ::fcntl(4, F_SETFD, FD_CLOEXEC);
  close_descriptors(5, ~0U);
  return {3, 4};
}

}  // namespace

ForkedSlots::ForkedSlots(int bell_fd, const TemplateHooks& hooks) : bell_fd_(bell_fd), hooks_(hooks) {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE, SIGUSR1}) std::signal(signal, SIG_IGN);
  std::signal(SIGCHLD, SIG_DFL);
  sigset_t children;
  sigemptyset(&children);
  sigaddset(&children, SIGCHLD);
  ::sigprocmask(SIG_SETMASK, &children, nullptr);
  child_signals_ = ::signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK);
  BB_CHECK(child_signals_ >= 0);
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
}

ForkedSlots::~ForkedSlots() { ::close(child_signals_); }

SlotProcesses::Forked ForkedSlots::fork(const int* descriptors) {
  const pid_t parent = ::getpid();
  if (hooks_.before_fork != nullptr) hooks_.before_fork();
  const pid_t pid = ::fork();
  const int error = errno;
  if (pid == 0) {
    become_slot(parent, descriptors);
    return {0, 0, true};
  }
  if (pid > 0) ::setpgid(pid, pid);  // also here: a kill may come before the child has done it
  if (hooks_.after_fork_parent != nullptr) hooks_.after_fork_parent();
  if (pid < 0) return {0, error, false};
  slots_.insert(pid);
  return {pid, 0, false};
}

void ForkedSlots::become_slot(pid_t parent, const int* descriptors) {
  ::setpgid(0, 0);
  ::prctl(PR_SET_NAME, "betterbox-slot");
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(1);  // the template died in between
  take_slot_signals(hooks_.interrupted);
  const auto [arena_fd, bell_fd] = arrange_descriptors(descriptors, bell_fd_);
  child_signals_ = -1;
  if (hooks_.after_fork_child != nullptr) hooks_.after_fork_child();
  SlotArena arena = SlotArena::attach(arena_fd);
  hooks_.run_slot(arena, bell_fd);
}

void ForkedSlots::kill(pid_t slot) { ::kill(-slot, SIGKILL); }

/// What the slot left running in its group goes with it. The group is killed while its leader is not yet reaped, so the
/// number cannot be somebody else's.
std::optional<SlotProcesses::Exit> ForkedSlots::next_exit() {
  siginfo_t info{};
  if (::waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0) {
    signalfd_siginfo drained[8];
    if (::read(child_signals_, drained, sizeof drained) <= 0) return std::nullopt;
    return next_exit();  // somebody may have ended since
  }
  const pid_t pid = info.si_pid;
  if (slots_.erase(pid) > 0) ::kill(-pid, SIGKILL);  // else an adopted process, whose group is its own affair
  Exit exit;
  rusage usage{};
  if (::wait4(pid, &exit.status, 0, &usage) != pid) return std::nullopt;
  exit.pid = pid;
  exit.peak_kib = static_cast<std::uint64_t>(usage.ru_maxrss);
  return exit;
}

/// What slots started in sessions of its own came to this process when they died.
void ForkedSlots::kill_adopted() {
  std::FILE* list = std::fopen("/proc/thread-self/children", "re");
  if (list == nullptr) return;
  for (int pid = 0; std::fscanf(list, "%d", &pid) == 1;) ::kill(pid, SIGKILL);
  std::fclose(list);
}

}  // namespace betterbox
