// What slots print: read without blocking, kept in a bounded log, its tail kept for error messages.
#pragma once

#include <cstdint>
#include <ctime>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "runtime/limits.h"
#include "worker/output_thread.h"

namespace betterbox {

/// A log is turned over once it reaches this size; one older one stays (FILE.1).
inline constexpr std::uint64_t kLogBytes = 10U << 20;

/// LOGFOLDER/slot-K.log. Errors (a full disk) are swallowed: a log must not end a worker. Lines are written by the output thread.
class SlotLog : public std::enable_shared_from_this<SlotLog> {
 public:
  /// `echo_tag`: with it in front, lines also go to stdout or stderr.
  SlotLog(std::string path, std::string echo_tag, OutputThread& output)
      : echo_tag_(std::move(echo_tag)), output_(output), path_(std::move(path)) {}
  ~SlotLog();
  SlotLog(const SlotLog&) = delete;
  SlotLog& operator=(const SlotLog&) = delete;
  /// One line without its end. `error`: from stderr.
  void line(std::string_view text, int pid, bool error);

 private:
  void write_line(std::string_view text, int pid, bool error, std::time_t at);
  void turn_over();
  bool open_file();
  const std::string echo_tag_;  // empty: not echoed
  OutputThread& output_;
  // The output thread's.
  std::string path_;  // empty: not kept
  int fd_ = -1;
  std::uint64_t written_ = 0;
};

/// The reading end of one stream of one slot.
class SlotOutput {
 public:
  SlotOutput() = default;
  ~SlotOutput() { close(); }
  SlotOutput(const SlotOutput&) = delete;
  SlotOutput& operator=(const SlotOutput&) = delete;
  /// Takes over a non-blocking descriptor.
  void open(int fd, SlotLog* log, bool error) { fd_ = fd, log_ = log, error_ = error; }
  /// Reads what is there. Result: false at the end of the stream.
  bool read(int pid);
  void close();
  int fd() const { return fd_; }
  /// The last kStderrTailBytes.
  const std::string& tail() const { return tail_; }

 private:
  int fd_ = -1;
  SlotLog* log_ = nullptr;
  bool error_ = false;
  std::string partial_, tail_;
};

}  // namespace betterbox
