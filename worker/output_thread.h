// OutputThread: writes what slots print to logs and to this process's stdout and stderr. A file system may hang, and whoever reads a
// terminal or a pipe may take his time; a worker's loop must wait for neither.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>

namespace betterbox {

class OutputThread {
 public:
  /// `room` is called, on the thread, when full() is over.
  explicit OutputThread(std::function<void()> room);
  /// Waits for up to 2 s until all is written.
  ~OutputThread();
  OutputThread(const OutputThread&) = delete;
  OutputThread& operator=(const OutputThread&) = delete;

  /// Runs `write`, which writes so many bytes, after what was posted before. It may outlive this object.
  void post(std::size_t bytes, std::function<void()> write);
  /// More than kUnwrittenBytes wait: whoever makes output is to wait for `room`.
  bool full() const;

 private:
  struct State;
  static void run(const std::shared_ptr<State>& state);
  std::shared_ptr<State> state_;  // the thread may be left in a write that does not end
};

}  // namespace betterbox
