// Slots' output (worker/slot_log.h).
#include "worker/slot_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <ctime>
#include <system_error>
#include <utility>

#include "runtime/own_files.h"

namespace betterbox {
namespace {

constexpr std::size_t kLongestLine = 16U << 10;  // longer ones are broken
constexpr int kReadsPerLook = 16;                // so that a slot that floods does not keep the agent

void write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(fd, text.data(), text.size());
    if (n <= 0) {
      if (n < 0 && errno == EINTR) continue;
      return;
    }
    text.remove_prefix(static_cast<std::size_t>(n));
  }
}

}  // namespace

SlotLog::~SlotLog() {
  if (fd_ >= 0) ::close(fd_);
}

void SlotLog::turn_over() {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  const std::string older = path_ + ".1";
  std::rename(path_.c_str(), older.c_str());
  written_ = 0;
}

/// A file that is not ours to write is said once, and not tried again.
bool SlotLog::open_file() {
  try {
    fd_ = open_own_file(path_, O_WRONLY | O_CREAT | O_APPEND).release();
  } catch (const NotOurs& problem) {
    write_all(2, std::string("betterbox-worker: what slots print is not logged: ") + problem.what() + "\n");
    path_.clear();
  } catch (const std::system_error&) {
    // A full or missing disk may come back.
  }
  return fd_ >= 0;
}

void SlotLog::line(std::string_view text, int pid, bool error) {
  output_.post(text.size(), [self = shared_from_this(), kept = std::string(text), pid, error,
                             at = std::time(nullptr)] { self->write_line(kept, pid, error, at); });
}

void SlotLog::write_line(std::string_view text, int pid, bool error, std::time_t at) {
  if (!echo_tag_.empty()) {
    std::string tagged = echo_tag_;
    tagged.append(text).push_back('\n');
    write_all(error ? 2 : 1, tagged);
  }
  if (path_.empty()) return;
  if (written_ > kLogBytes) turn_over();
  if (fd_ < 0) {
    if (!open_file()) return;
    struct stat info {};
    written_ = ::fstat(fd_, &info) == 0 ? static_cast<std::uint64_t>(info.st_size) : 0;
  }
  char head[64];
  std::tm local{};
  ::localtime_r(&at, &local);
  const std::size_t n = std::strftime(head, sizeof head, "%Y-%m-%d %H:%M:%S", &local);
  std::string entry(head, n);
  entry += " [" + std::to_string(pid) + (error ? "] err " : "] out ");
  entry.append(text).push_back('\n');
  written_ += entry.size();
  write_all(fd_, entry);
}

bool SlotOutput::read(int pid) {
  char buffer[16 << 10];
  for (int look = 0; look < kReadsPerLook; ++look) {
    const ssize_t n = ::read(fd_, buffer, sizeof buffer);
    if (n < 0) return errno == EAGAIN || errno == EINTR;
    if (n == 0) {
      if (!partial_.empty() && log_ != nullptr) log_->line(std::exchange(partial_, {}), pid, error_);
      return false;
    }
    const std::string_view got(buffer, static_cast<std::size_t>(n));
    tail_.append(got);
    if (tail_.size() > kStderrTailBytes) tail_.erase(0, tail_.size() - kStderrTailBytes);
    partial_.append(got);
    std::size_t start = 0;
    for (;;) {
      std::size_t end = partial_.find('\n', start);
      const bool whole = end != std::string::npos;
      if (!whole && partial_.size() - start < kLongestLine) break;
      if (!whole) end = partial_.size();
      if (log_ != nullptr) log_->line(std::string_view(partial_).substr(start, end - start), pid, error_);
      start = whole ? end + 1 : end;
    }
    partial_.erase(0, start);
  }
  return true;
}

void SlotOutput::close() {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

}  // namespace betterbox
