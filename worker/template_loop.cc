// The template's loop (worker/template_loop.h).
#include "worker/template_loop.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <map>
#include <utility>

#include "runtime/check.h"

namespace betterbox {
namespace {

constexpr int kPassedFds = 3;

/// Batch systems send what they tell a worker to every process of its job. A handler, since what is ignored would be
/// so in programs that user code starts, too. What user code sends to itself has its usual effect.
void leave_to_worker(int signal) {
  struct sigaction action {};
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  action.sa_sigaction = [](int number, siginfo_t* info, void*) {
    if (info->si_pid != ::getpid()) return;
    std::signal(number, SIG_DFL);
    ::raise(number);
  };
  ::sigaction(signal, &action, nullptr);
}

class Template {
 public:
  Template(int control_fd, int bell_fd, const TemplateHooks& hooks)
      : control_fd_(control_fd), bell_fd_(bell_fd), hooks_(hooks) {}

  int run() {
    prepare_signals();
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
    TemplateReport up;
    up.kind = TemplateReport::kUp;
    bool open = send_report(control_fd_, up);
    while (open) {
      pollfd entries[2] = {{control_fd_, POLLIN, 0}, {child_signals_, POLLIN, 0}};
      if (::poll(entries, 2, -1) < 0 && errno != EINTR) break;
      if (entries[1].revents != 0) reap();
      if (entries[0].revents != 0) open = take_request();
      if (in_slot_) return 0;
    }
    end();
    return 0;
  }

 private:
  using Seat = std::pair<std::uint32_t, std::uint32_t>;  // seat, life

  /// The terminal's and the batch system's signals are the worker's to handle.
  void prepare_signals() {
    for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE, SIGUSR1})
      std::signal(signal, SIG_IGN);
    sigset_t children;
    sigemptyset(&children);
    sigaddset(&children, SIGCHLD);
    ::sigprocmask(SIG_BLOCK, &children, nullptr);
    child_signals_ = ::signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK);
    BB_CHECK(child_signals_ >= 0);
  }

  /// Result: false when the worker is gone.
  bool take_request() {
    TemplateRequest request;
    iovec part{&request, sizeof request};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kPassedFds)];
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    const ssize_t size = ::recvmsg(control_fd_, &message, MSG_CMSG_CLOEXEC);
    if (size < 0) return errno == EINTR || errno == EAGAIN;
    if (size != static_cast<ssize_t>(sizeof request)) return false;
    int fds[kPassedFds] = {-1, -1, -1};
    const cmsghdr* header = CMSG_FIRSTHDR(&message);
    const bool passed =
        header != nullptr && header->cmsg_type == SCM_RIGHTS && header->cmsg_len == CMSG_LEN(sizeof fds);
    if (passed) std::memcpy(fds, CMSG_DATA(header), sizeof fds);
    if (request.kind == TemplateRequest::kFork && passed) {
      fork_slot(request, fds);
    } else if (request.kind == TemplateRequest::kKill) {
      const auto at = pids_.find({request.seat, request.life});
      if (at != pids_.end()) ::kill(-at->second, SIGKILL);
    }
    if (!in_slot_ && passed) {
      for (const int fd : fds) ::close(fd);
    }
    return true;
  }

  void fork_slot(const TemplateRequest& request, const int* fds) {
    const pid_t parent = ::getpid();
    if (hooks_.before_fork != nullptr) hooks_.before_fork();
    const pid_t pid = ::fork();
    const int error = errno;
    if (pid == 0) {
      in_slot_ = true;
      become_slot(parent, fds);
      return;
    }
    if (pid > 0) ::setpgid(pid, pid);  // also here: a kill may come before the child has done it
    if (hooks_.after_fork_parent != nullptr) hooks_.after_fork_parent();
    TemplateReport report;
    report.kind = TemplateReport::kForked;
    report.seat = request.seat;
    report.life = request.life;
    if (pid > 0) {
      report.pid = pid;
      pids_[{request.seat, request.life}] = pid;
      seats_[pid] = {request.seat, request.life};
    } else {
      report.status = error;
    }
    send_report(control_fd_, report);
  }

  void become_slot(pid_t parent, const int* fds) {
    ::setpgid(0, 0);
    ::prctl(PR_SET_NAME, "betterbox-slot");
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(1);  // the template died in between
    for (int signal = 1; signal < NSIG; ++signal) {
      if (signal != SIGTERM && signal != SIGUSR1) std::signal(signal, SIG_DFL);
    }
    std::signal(SIGINT, SIG_IGN);
    std::signal(SIGPIPE, SIG_IGN);  // as Python does: a broken pipe is an exception
    leave_to_worker(SIGTERM);
    leave_to_worker(SIGUSR1);
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    const auto [arena_fd, bell_fd] = arrange_descriptors(fds);
    if (hooks_.after_fork_child != nullptr) hooks_.after_fork_child();
    SlotArena arena = SlotArena::attach(arena_fd);
    hooks_.run_slot(arena, bell_fd);
  }

  /// 0 is /dev/null, 1 and 2 the worker's pipes, 3 the arena, 4 the bell; nothing else stays open.
  std::pair<int, int> arrange_descriptors(const int* fds) {
    const int null = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    int high[5];
    const int from[5] = {null, fds[1], fds[2], fds[0], bell_fd_};
    for (int i = 0; i < 5; ++i) high[i] = ::fcntl(from[i], F_DUPFD_CLOEXEC, 10);
    for (int i = 0; i < 5; ++i) {
      if (high[i] < 0 || ::dup2(high[i], i) < 0) ::_exit(1);
    }
    ::fcntl(3, F_SETFD, FD_CLOEXEC);
    ::fcntl(4, F_SETFD, FD_CLOEXEC);
    ::close_range(5, ~0U, 0);
    return {3, 4};
  }

  void reap() {
    signalfd_siginfo drained[8];
    while (::read(child_signals_, drained, sizeof drained) > 0) {}
    for (;;) {
      siginfo_t info{};
      if (::waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0) return;
      reap_one(info.si_pid);
    }
  }

  /// What the slot left running in its group goes with it. The group is killed while its leader is not yet
  /// reaped, so the number cannot be somebody else's.
  void reap_one(pid_t pid) {
    const auto at = seats_.find(pid);
    if (at != seats_.end()) ::kill(-pid, SIGKILL);
    int status = 0;
    rusage usage{};
    if (::wait4(pid, &status, 0, &usage) != pid || at == seats_.end()) return;  // else an adopted grandchild
    TemplateReport report;
    report.kind = TemplateReport::kExited;
    report.seat = at->second.first;
    report.life = at->second.second;
    report.pid = pid;
    report.status = status;
    report.peak_kib = static_cast<std::uint64_t>(usage.ru_maxrss);
    pids_.erase(at->second);
    seats_.erase(at);
    send_report(control_fd_, report);
  }

  void end() {
    for (const auto& [pid, seat] : seats_) ::kill(-pid, SIGKILL);
    const TimePoint deadline = monotonic_now() + seconds(2);
    while (!seats_.empty() && monotonic_now() < deadline) {
      pollfd entry{child_signals_, POLLIN, 0};
      ::poll(&entry, 1, 100);
      reap();
    }
    kill_adopted();
  }

  /// What slots started in sessions of its own came to this process when they died.
  void kill_adopted() {
    std::FILE* list = std::fopen("/proc/thread-self/children", "re");
    if (list == nullptr) return;
    for (int pid = 0; std::fscanf(list, "%d", &pid) == 1;) ::kill(pid, SIGKILL);
    std::fclose(list);
  }

  const int control_fd_, bell_fd_;
  const TemplateHooks hooks_;
  int child_signals_ = -1;
  bool in_slot_ = false;
  std::map<Seat, pid_t> pids_;
  std::map<pid_t, Seat> seats_;
};

}  // namespace

bool send_report(int control_fd, const TemplateReport& report) {
  ssize_t sent = 0;
  do {
    sent = ::send(control_fd, &report, sizeof report, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  return sent == static_cast<ssize_t>(sizeof report);
}

int run_template(int control_fd, int bell_fd, const TemplateHooks& hooks) {
  Template self(control_fd, bell_fd, hooks);
  return self.run();
}

}  // namespace betterbox
