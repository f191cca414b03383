// Starting templates (worker/template_process.h).
#include "worker/template_process.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <utility>

#include "runtime/bus_file.h"
#include "runtime/close_range.h"
#include "runtime/time.h"
#include "worker/template_messages.h"

namespace betterbox {
namespace {

/// Arguments: a folder for sys.path, then those of run(). An interpreter that has no betterbox says so as template_loop.h's report_broken does.
constexpr const char* kBoot = R"(
import sys
if sys.path[:1] == ['']:
    del sys.path[0]
if sys.argv[1] and sys.argv[1] not in sys.path:
    sys.path.insert(0, sys.argv[1])
try:
    from betterbox import _template
except BaseException as error:
    import os, struct
    text = f'{sys.executable} (Python {sys.version.split()[0]}) cannot import betterbox: {type(error).__name__}: {error}'
    os.write(int(sys.argv[2]), struct.pack('IIIiiiQ', 4, 0, 0, 0, 0, 0, 0) + text.encode(errors='replace')[:1024])
    raise
_template.run(*sys.argv[2:])
)";

constexpr int kOfTheWorker[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1};

/// Signals of the worker are blocked while Python starts, not ignored: Python takes what it finds for what programs are to
/// have, and in slots that are the defaults.
void take_template_signals() {
  sigset_t of_the_worker;
  sigemptyset(&of_the_worker);
  for (const int signal : kOfTheWorker) {
    ::signal(signal, SIG_DFL);
    sigaddset(&of_the_worker, signal);
  }
  ::signal(SIGPIPE, SIG_DFL);
  ::sigprocmask(SIG_SETMASK, &of_the_worker, nullptr);
}

/// In a child of a process that may have threads: system calls only.
void report_not_started(int control_fd, const char* program, int error) {
  struct {
    TemplateReport report;
    char text[kMaxBrokenText];
  } packet{};
  packet.report.kind = TemplateReport::kBroken;
  std::size_t size = 0;
  const auto add = [&](const char* text) {
    for (; *text != '\0' && size < sizeof packet.text; ++text) packet.text[size++] = *text;
  };
  add(program);
  add(" cannot be started: ");
  char reason[128];
  add(::strerror_r(error, reason, sizeof reason));
  ::send(control_fd, &packet, sizeof packet.report + size, MSG_NOSIGNAL);
}

/// Variables of a client's interpreter: the worker's, but for what an interpreter reads before anything else.
std::vector<std::string> environment_for(const Interpreter& interpreter) {
  std::vector<std::string> variables;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view variable = *entry;
    if (!variable.starts_with("PYTHON") && !variable.starts_with("LD_")) variables.emplace_back(variable);
  }
  variables.insert(variables.end(), interpreter.variables.begin(), interpreter.variables.end());
  return variables;
}

std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> result;
  for (std::string& word : words) result.push_back(word.data());
  result.push_back(nullptr);
  return result;
}

/// As betterbox._interpreter tells it.
std::string this_host() {
  struct stat mounts {};
  if (::stat("/proc/self/ns/mnt", &mounts) != 0) return "";
  return boot_id() + " " + std::to_string(mounts.st_ino);
}

/// Result: false if there is no such child any more.
bool still_runs(pid_t pid) { return ::waitpid(pid, nullptr, WNOHANG) == 0; }

void kill_and_reap(pid_t pid) {
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
}

}  // namespace

TemplateProcesses::TemplateProcesses(TemplateOptions options, Interpreter own)
    : options_(std::move(options)), own_(std::move(own)) {
  bell_fd_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (bell_fd_ < 0) throw std::runtime_error("no eventfd");
  ::getrlimit(RLIMIT_NOFILE, &descriptors_);
}

TemplateProcesses::~TemplateProcesses() { ::close(bell_fd_); }

int TemplateProcesses::take_bell() const {
  const int bell = ::fcntl(bell_fd_, F_DUPFD_CLOEXEC, 0);
  if (bell < 0) throw std::runtime_error("no descriptor for an eventfd");
  return bell;
}

int TemplateProcesses::start(std::uint64_t key, std::string_view text) {
  reap_ended();
  const bool own = text.empty();
  const auto interpreter = own ? std::optional(own_) : Interpreter::parse(text);
  if (!interpreter || (!own && interpreter->host != this_host())) return -1;
  if (const auto at = running_.find(key); at != running_.end()) {
    kill_and_reap(at->second);
    running_.erase(at);
  }
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0) return -1;
  std::vector<std::string> words = command(*interpreter, key, own, ends[1]);
  std::vector<std::string> variables = own ? std::vector<std::string>() : environment_for(*interpreter);
  const std::vector<char*> argv = pointers(words), envp = pointers(variables);

  const pid_t pid = ::fork();
  if (pid == 0) {  // threads of the parent may hold any lock: system calls only
    close_descriptors(3, ~0U, CLOSE_RANGE_CLOEXEC);
    ::fcntl(ends[1], F_SETFD, 0);
    ::fcntl(bell_fd_, F_SETFD, 0);
    ::setrlimit(RLIMIT_NOFILE, &descriptors_);
    take_template_signals();
    ::execvpe(argv[0], argv.data(), own ? environ : envp.data());
    report_not_started(ends[1], argv[0], errno);
    ::_exit(127);
  }
  ::close(ends[1]);
  if (pid > 0) {
    running_[key] = pid;
    return ends[0];
  }
  ::close(ends[0]);
  return -1;
}

std::vector<std::string> TemplateProcesses::command(const Interpreter& interpreter, std::uint64_t key,
                                                    bool own, int control_fd) const {
  std::string preload;
  for (const std::string& name : options_.preload) preload += (preload.empty() ? "" : ",") + name;
  std::vector<std::string> words = {interpreter.program};
  words.insert(words.end(), interpreter.flags.begin(), interpreter.flags.end());
  words.insert(words.end(),
               {"-c", kBoot, interpreter.package, std::to_string(control_fd), std::to_string(bell_fd_),
                BETTERBOX_VERSION, std::to_string(key), options_.follows_client ? "follow" : "",
                own ? options_.socket_path : "", preload});
  return words;
}

void TemplateProcesses::let_end(std::uint64_t interpreter) {
  const auto at = running_.find(interpreter);
  if (at == running_.end()) return;
  ending_.push_back(at->second);
  running_.erase(at);
  reap_ended();
}

void TemplateProcesses::reap_ended() {
  std::erase_if(ending_, [](pid_t pid) { return !still_runs(pid); });
}

void TemplateProcesses::await_end() {
  for (const auto& [interpreter, pid] : std::exchange(running_, {})) ending_.push_back(pid);
  const TimePoint deadline = monotonic_now() + seconds(3);
  for (reap_ended(); !ending_.empty(); reap_ended()) {
    if (monotonic_now() > deadline) {
      for (const pid_t pid : std::exchange(ending_, {})) kill_and_reap(pid);
      return;
    }
    ::usleep(2'000);
  }
}

}  // namespace betterbox
