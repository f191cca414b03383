// Starting templates (worker/template_process.h).
#include "worker/template_process.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <stdexcept>
#include <utility>

#include "runtime/time.h"

namespace betterbox {

TemplateProcess::TemplateProcess(TemplateOptions options) : options_(std::move(options)) {
  bell_fd_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (bell_fd_ < 0) throw std::runtime_error("no eventfd");
  ::getrlimit(RLIMIT_NOFILE, &descriptors_);
}

TemplateProcess::~TemplateProcess() { ::close(bell_fd_); }

int TemplateProcess::take_bell() const {
  const int bell = ::fcntl(bell_fd_, F_DUPFD_CLOEXEC, 0);
  if (bell < 0) throw std::runtime_error("no descriptor for an eventfd");
  return bell;
}

int TemplateProcess::start() {
  kill();
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0) return -1;
  TemplateOptions options = options_;
  options.control_fd = ends[1];
  options.bell_fd = bell_fd_;
  std::vector<std::string> command = template_command(options);
  std::vector<char*> argv;
  for (std::string& argument : command) argv.push_back(argument.data());
  argv.push_back(nullptr);

  pid_ = ::fork();
  if (pid_ == 0) {                               // threads of the parent may hold any lock: system calls only
    ::close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);  // where the kernel knows it; ours are opened so anyway
    ::fcntl(ends[1], F_SETFD, 0);
    ::fcntl(bell_fd_, F_SETFD, 0);
    ::setrlimit(RLIMIT_NOFILE, &descriptors_);
    ::execv("/proc/self/exe", argv.data());
    ::_exit(127);
  }
  ::close(ends[1]);
  if (pid_ > 0) return ends[0];
  ::close(ends[0]);
  return -1;
}

void TemplateProcess::kill() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(std::exchange(pid_, 0), nullptr, 0);
}

void TemplateProcess::await_end() {
  const TimePoint deadline = monotonic_now() + seconds(3);
  while (pid_ > 0 && ::waitpid(pid_, nullptr, WNOHANG) == 0) {
    if (monotonic_now() > deadline) return kill();
    ::usleep(2'000);
  }
}

}  // namespace betterbox
