// Starting a scheduler in the background, once (docs/operations.md, section "The bus that starts by itself").
#include "runtime/bus_start.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <utility>

#include "runtime/close_range.h"
#include "runtime/descriptor.h"
#include "runtime/limits.h"
#include "runtime/network.h"
#include "runtime/own_files.h"
#include "runtime/zmq_keys.h"

namespace betterbox {
namespace {

namespace fs = std::filesystem;

constexpr int kReadyFd = 3;  ///< of the pipe, in the daemon
constexpr std::size_t kMaxReadyLine = 64U << 10;
constexpr std::size_t kLogTailBytes = 2000;  ///< of the log, in an error message
constexpr int kLockPollMs = 10;
/// A thousand that come at once do not fit the queue of a listener: a connection that found it full tries again after 1 s
/// and 3 s.
constexpr Duration kFirstReach = kLivenessBound;
constexpr char kExecFailed = '\1';  ///< opens the daemon's report that it could not be executed

[[noreturn]] void fail(const std::string& what) {
  throw std::runtime_error(what + ": " + std::generic_category().message(errno));
}

int milliseconds_until(TimePoint deadline) {
  const std::int64_t left = (deadline - monotonic_now()).ns;
  return left <= 0 ? 0 : static_cast<int>(std::min<std::int64_t>(left / 1'000'000 + 1, 3'600'000));
}

std::string folder_of(const std::string& path) { return fs::absolute(path).parent_path().string(); }

// --- the daemon -------------------------------------------------------------------------------------

/// A batch system may have bound the processes of its jobs to what it gave them.
bool in_batch_job() {
  constexpr const char* kNames[] = {"SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "FLUX_JOB_ID", "COBALT_JOBID"};
  return std::any_of(std::begin(kNames), std::end(kNames),
                     [](const char* name) { return std::getenv(name) != nullptr; });
}

/// What the child needs, made ready before the fork: behind it nothing may be allocated.
struct Launch {
  std::vector<char*> argv;
  int null_fd = -1;
  int log_fd = -1;
  int ready_fd = -1;
  bool keep_affinity = false;
};

using CpuMask = std::array<unsigned long, 16384 / (8 * sizeof(unsigned long))>;

/// Of this thread. The kernel leaves out what is not there, or not allowed.
void use_all_cpus() {
  CpuMask cpus;
  cpus.fill(~0UL);
  ::syscall(SYS_sched_setaffinity, 0, sizeof cpus, cpus.data());
}

/// Whoever starts a daemon does so for all that come later: what narrows the one is not to narrow the others.
void widen(bool keep_affinity) {
  ::umask(077);
  ::setpriority(PRIO_PROCESS, 0, 0);
  for (const auto which : {RLIMIT_AS, RLIMIT_CPU, RLIMIT_DATA, RLIMIT_FSIZE, RLIMIT_NPROC}) {
    rlimit limit{};
    if (::getrlimit(which, &limit) != 0) continue;
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(which, &limit);
  }
  if (!keep_affinity) use_all_cpus();
}

void reset_signals() {
  struct sigaction standard {};
  standard.sa_handler = SIG_DFL;
  for (int number = 1; number < NSIG; ++number) ::sigaction(number, &standard, nullptr);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
}

/// Runs in the grandchild: async-signal-safe functions only.
[[noreturn]] void become_daemon(const Launch& launch) {
  const pid_t self = ::getpid();
  static_cast<void>(!::write(launch.ready_fd, &self, sizeof self));
  // First out of the way of 0 to 3, then into place.
  const int null_fd = ::fcntl(launch.null_fd, F_DUPFD, 10);
  const int log_fd = ::fcntl(launch.log_fd, F_DUPFD, 10);
  const int ready_fd = ::fcntl(launch.ready_fd, F_DUPFD, 10);
  const bool placed = ::dup2(null_fd, 0) == 0 && ::dup2(log_fd, 1) == 1 && ::dup2(log_fd, 2) == 2 &&
                      ::dup2(ready_fd, kReadyFd) == kReadyFd;
  if (placed && ::chdir("/") == 0) {
    close_descriptors(kReadyFd + 1, ~0U);
    reset_signals();
    widen(launch.keep_affinity);
    ::execv(launch.argv[0], launch.argv.data());
  }
  const int error = errno;
  static_cast<void>(!::write(kReadyFd, &kExecFailed, 1));
  static_cast<void>(!::write(kReadyFd, &error, sizeof error));
  ::_exit(127);
}

/// Forks twice: the daemon is nobody's child that must be waited for, and leads no session of a terminal.
void fork_daemon(const Launch& launch) {
  sigset_t all, before;
  sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);  // no handler of ours runs in the child
  const pid_t child = ::fork();
  if (child == 0) {
    ::setsid();
    const pid_t daemon = ::fork();
    if (daemon == 0) become_daemon(launch);
    ::_exit(daemon < 0 ? 1 : 0);
  }
  const int error = errno;
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  errno = error;
  if (child < 0) fail("cannot start a process");
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {}
}

// --- what it says -----------------------------------------------------------------------------------

/// The end of what was logged since `from`.
std::string log_tail(const std::string& log_file, off_t from) {
  const Descriptor file(::open(log_file.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat status {};
  if (!file || ::fstat(file.get(), &status) != 0) return {};
  const off_t begin = std::max(from, status.st_size - static_cast<off_t>(kLogTailBytes));
  std::string text(static_cast<std::size_t>(std::max<off_t>(status.st_size - begin, 0)), '\0');
  const ssize_t count = ::pread(file.get(), text.data(), text.size(), begin);
  text.resize(count > 0 ? static_cast<std::size_t>(count) : 0);
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

/// Reads until a line is complete, the other side has closed, or the deadline. Result: true if it is not over
/// yet.
bool read_some(int fd, std::string& text, TimePoint deadline) {
  pollfd waited{fd, POLLIN, 0};
  const int ready = ::poll(&waited, 1, milliseconds_until(deadline));
  if (ready < 0 && errno == EINTR) return true;
  if (ready <= 0) return false;
  char buffer[4096];
  const ssize_t count = ::read(fd, buffer, sizeof buffer);
  if (count < 0) return errno == EINTR;
  text.append(buffer, static_cast<std::size_t>(count));
  return count > 0 && text.size() < kMaxReadyLine;
}

/// How a program that cannot start says why: its log may lie on the disk that is full.
constexpr std::string_view kErrorLine = "error: ";

std::string await_ready_line(int fd, const std::vector<std::string>& argv, const std::string& log_file,
                             off_t log_start, TimePoint deadline) {
  std::string text;
  const auto line_end = [&] { return text.find('\n', std::min(text.size(), sizeof(pid_t))); };
  while (line_end() == std::string::npos && read_some(fd, text, deadline)) {}
  if (line_end() != std::string::npos) {
    std::string line = text.substr(sizeof(pid_t), line_end() - sizeof(pid_t));
    if (line.starts_with(kErrorLine)) throw std::runtime_error(line.substr(kErrorLine.size()));
    return line;
  }

  const std::string said = text.size() > sizeof(pid_t) ? text.substr(sizeof(pid_t)) : std::string();
  if (said.size() == 1 + sizeof(int) && said[0] == kExecFailed) {
    int error = 0;
    std::memcpy(&error, said.data() + 1, sizeof error);
    throw std::runtime_error("cannot run " + argv[0] + ": " + std::generic_category().message(error));
  }
  const bool late = monotonic_now() >= deadline;
  if (late && text.size() >= sizeof(pid_t)) {
    pid_t daemon = 0;
    std::memcpy(&daemon, text.data(), sizeof daemon);
    if (daemon > 1) ::kill(daemon, SIGKILL);
  }
  const std::string tail = log_tail(log_file, log_start);
  throw std::runtime_error(argv[0] + (late ? " did not become ready in time" : " ended while it started") +
                           "; its log " + log_file + (tail.empty() ? " is empty" : " ends:\n" + tail));
}

// --- the lock ---------------------------------------------------------------------------------------

/// Waits for the lock on `path`. The file stays: removing it would let two processes lock two files.
Descriptor lock_file(const std::string& path, TimePoint deadline) {
  Descriptor file = open_own_file(path, O_RDWR | O_CREAT);
  for (;;) {
    if (::flock(file.get(), LOCK_EX | LOCK_NB) == 0) {
      struct stat held {
      }, there{};
      if (::fstat(file.get(), &held) == 0 && ::stat(path.c_str(), &there) == 0 &&
          held.st_ino == there.st_ino && held.st_dev == there.st_dev)
        return file;
      file = open_own_file(path, O_RDWR | O_CREAT);  // somebody removed it
    } else if (errno != EWOULDBLOCK && errno != EINTR) {
      fail("cannot lock " + path);
    }
    if (monotonic_now() >= deadline)
      throw std::runtime_error("another process holds " + path + " and has not started the bus in time");
    ::poll(nullptr, 0, kLockPollMs);
  }
}

bool is_here(const BusInfo& info) { return info.host == host_name() && info.boot_id == boot_id(); }

/// True if the bus may be alive where it cannot be seen from here. A machine keeps its name over a restart; a container
/// may change it while the machine runs, which only matters to a bus of more than one host.
bool may_be_elsewhere(const BusInfo& info) {
  return info.host != host_name() && (info.boot_id != boot_id() || !info.network_endpoint.empty());
}

bool socket_answers(const std::string& endpoint) {
  constexpr std::string_view kScheme = "ipc://";
  if (!endpoint.starts_with(kScheme)) return false;
  const std::string path = endpoint.substr(kScheme.size());
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) return false;
  std::memcpy(address.sun_path, path.data(), path.size());
  const Descriptor probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!probe) return false;
  return ::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 ||
         errno == EAGAIN;  // a full backlog: somebody listens
}

/// Throws if the file names another machine's bus: it may be alive there, so there must be no second one.
void refuse_other_host(const std::string& bus_file, const BusInfo& info) {
  if (!may_be_elsewhere(info)) return;
  const std::string where = "the bus of " + bus_file + " is on host " + info.host + " (pid " +
                            std::to_string(info.pid) + ") and cannot be reached from " + host_name();
  if (info.network_endpoint.empty()) {
    throw std::runtime_error(where +
                             ": it serves its own host only; start it there with `betterbox scheduler`");
  }
  if (!name_resolves(info.network_endpoint)) {
    throw std::runtime_error(where + " at " + info.network_endpoint +
                             ": that name does not resolve here; put the address there");
  }
  throw std::runtime_error(
      where + " at " + info.network_endpoint +
      "; if that host is gone, remove the file; else let its firewall pass that port, or name "
      "another interface there (betterbox scheduler --interface)");
}

}  // namespace

std::optional<std::string> reach_bus(const BusInfo& info, Duration patience) {
  if (is_here(info) && socket_answers(info.endpoint)) return info.endpoint;
  if (!info.network_endpoint.empty() && network_answers(info.network_endpoint, monotonic_now() + patience)) {
    return info.network_endpoint;
  }
  return std::nullopt;
}

unsigned daemon_cpus() {
  CpuMask mine{}, usable{};
  const long size = ::syscall(SYS_sched_getaffinity, 0, sizeof mine, mine.data());
  if (size < 0) return 1;
  usable = mine;
  if (!in_batch_job()) {
    use_all_cpus();
    ::syscall(SYS_sched_getaffinity, 0, sizeof usable, usable.data());
    ::syscall(SYS_sched_setaffinity, 0, size, mine.data());
  }
  int count = 0;
  for (const unsigned long word : usable) count += std::popcount(word);
  return static_cast<unsigned>(std::max(count, 1));
}

std::string start_daemon(const std::vector<std::string>& argv, const std::string& log_file,
                         TimePoint deadline, const std::function<void()>& meanwhile) {
  if (argv.empty()) throw std::runtime_error("nothing to start");
  make_own_folder(folder_of(log_file));
  const Descriptor log = open_own_file(log_file, O_WRONLY | O_CREAT | O_APPEND);
  const off_t log_start = ::lseek(log.get(), 0, SEEK_END);
  const Descriptor null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!null) fail("cannot open /dev/null");
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) fail("cannot make a pipe");
  const Descriptor read_end(ends[0]);
  Descriptor write_end(ends[1]);

  std::vector<std::string> arguments = argv;
  arguments.insert(arguments.end(), {"--ready-fd", std::to_string(kReadyFd)});
  Launch launch{{}, null.get(), log.get(), write_end.get(), in_batch_job()};
  for (std::string& argument : arguments) launch.argv.push_back(argument.data());
  launch.argv.push_back(nullptr);
  fork_daemon(launch);
  write_end.reset();
  if (meanwhile) meanwhile();
  return await_ready_line(read_end.get(), argv, log_file, log_start, deadline);
}

FoundBus find_bus(const std::string& bus_file) {
  return find_or_start_bus(bus_file, {}, "", monotonic_now());
}

FoundBus find_or_start_bus(const std::string& bus_file, const std::vector<std::string>& scheduler_argv,
                           const std::string& log_file, TimePoint deadline) {
  auto info = read_bus_file(bus_file);
  const auto reached = [&]() -> std::optional<FoundBus> {
    if (!info) return std::nullopt;
    if (const auto endpoint = reach_bus(*info, kFirstReach)) {
      check_bus_keys(*info, bus_file);
      return FoundBus{*info, *endpoint,
                      *endpoint == info->endpoint ? info->socket_folder : make_socket_folder(bus_file)};
    }
    refuse_other_host(bus_file, *info);
    return std::nullopt;
  };
  if (auto found = reached()) return *found;
  if (scheduler_argv.empty())
    throw std::runtime_error(info ? "no scheduler answers at the bus of " + bus_file + " (it was pid " +
                                        std::to_string(info->pid) + "); start one: betterbox scheduler"
                                  : "there is no bus file " + bus_file + "; start one: betterbox scheduler");

  make_own_folder(folder_of(bus_file));
  const Descriptor lock = lock_file(bus_file + ".lock", deadline);
  info = read_bus_file(bus_file);
  if (auto found = reached()) return *found;
  start_daemon(scheduler_argv, log_file, deadline);
  info = read_bus_file(bus_file);
  if (auto found = reached()) return *found;
  throw std::runtime_error("the scheduler started but does not answer; see its log " + log_file);
}

}  // namespace betterbox
