#include "scheduler/sweeper.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <system_error>
#include <thread>

#include "runtime/bus_file.h"
#include "runtime/close_range.h"
#include "runtime/limits.h"
#include "runtime/segment_pool.h"

namespace betterbox::scheduler {
namespace {

namespace fs = std::filesystem;

/// Peers notice the end of the scheduler and remove their sockets themselves; those killed do not.
constexpr int kPeersMayTakeMs = 10'000;
constexpr int kLookEveryMs = 50;
constexpr int kDyingMayTakeMs = 2'000;

void keep_only(int fd) {
  if (fd > 0) close_descriptors(0, static_cast<unsigned>(fd) - 1);
  close_descriptors(static_cast<unsigned>(fd) + 1, ~0U);
  // 0, 1 and 2 are taken, so that nothing opened later is mistaken for them.
  for (int i = 0; i < 3; ++i) {
    if (i != fd) static_cast<void>(::open("/dev/null", O_RDWR));
  }
}

void wait_for_end_of_file(int fd) {
  char ignored = 0;
  for (;;) {
    const ssize_t count = ::read(fd, &ignored, 1);
    if (count == 0 || (count < 0 && errno != EINTR)) return;
  }
}

/// The lock of the bus file: free once no scheduler serves it. Taken, the next one's sweeper cleans up.
class BusLock {
 public:
  explicit BusLock(const std::string& path) : fd_(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW)) {
    held_ = fd_ < 0 || ::flock(fd_, LOCK_EX | LOCK_NB) == 0;
  }
  ~BusLock() {
    if (fd_ >= 0) ::close(fd_);
  }
  BusLock(const BusLock&) = delete;
  BusLock& operator=(const BusLock&) = delete;
  bool held() const { return held_; }

 private:
  int fd_;
  bool held_ = false;
};

bool is_empty_or_gone(const std::string& folder) {
  std::error_code error;
  const bool empty = fs::is_empty(folder, error);
  return empty || error;
}

/// Result: false if another scheduler has taken over.
bool wait_for_peers(const SweepPlan& plan) {
  for (int waited = 0; waited < kPeersMayTakeMs; waited += kLookEveryMs) {
    sweep_socket_folder(plan.socket_folder);  // those that nobody listens on
    if (is_empty_or_gone(plan.socket_folder)) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(kLookEveryMs));
    if (!BusLock(plan.lock_file).held()) return false;
  }
  return true;
}

/// A dying process closes its descriptors one by one: our pipe may end before its lock is free. A lock that stays
/// taken is another scheduler's. Result: false if it is.
bool remove_our_bus_file(const SweepPlan& plan) {
  for (int waited = 0; waited < kDyingMayTakeMs; waited += kLookEveryMs) {
    const BusLock lock(plan.lock_file);
    if (lock.held()) {
      remove_bus_file(plan.bus_file, plan.incarnation);
      return true;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(kLookEveryMs));
  }
  return false;
}

void sweep_files(const SweepPlan& plan) {
  if (!remove_our_bus_file(plan)) return;
  if (!wait_for_peers(plan)) return;
  const BusLock lock(plan.lock_file);
  if (!lock.held()) return;
  sweep_socket_folder(plan.socket_folder);
  std::error_code ignored;
  fs::remove(plan.lock_file, ignored);
  if (plan.ephemeral) fs::remove_all(fs::path(plan.bus_file).parent_path(), ignored);
}

/// What the peers of this bus have sent last may still be taken for a while; nobody else looks at it afterwards.
void sweep_memory() {
  if (!sweep_segments(kSegmentFolder)) return;
  ::prctl(PR_SET_NAME, "betterbox-rest");  // the bus is gone; nothing of it is waited for
  std::this_thread::sleep_for(std::chrono::nanoseconds((kUntakenSegmentLife + seconds(1)).ns));
  sweep_segments(kSegmentFolder);
}

[[noreturn]] void be_sweeper(const SweepPlan& plan, int pipe) {
  ::setsid();
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGQUIT}) ::signal(number, SIG_IGN);
  ::prctl(PR_SET_NAME, "betterbox-sweep");
  static_cast<void>(::chdir("/"));
  keep_only(pipe);
  wait_for_end_of_file(pipe);
  try {
    sweep_files(plan);
    sweep_memory();
  } catch (...) {
    ::_exit(1);
  }
  ::_exit(0);
}

}  // namespace

int start_sweeper(const SweepPlan& plan) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0)
    throw std::system_error(errno, std::generic_category(), "cannot make a pipe");
  const pid_t child = ::fork();
  if (child < 0) throw std::system_error(errno, std::generic_category(), "cannot fork");
  if (child == 0) {
    const pid_t sweeper = ::fork();
    if (sweeper == 0) be_sweeper(plan, ends[0]);
    ::_exit(sweeper < 0 ? 1 : 0);
  }
  ::close(ends[0]);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {}
  if (status != 0) throw std::system_error(EAGAIN, std::generic_category(), "cannot fork");
  return ends[1];
}

}  // namespace betterbox::scheduler
