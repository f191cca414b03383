// TemplateProcesses: starts a worker's templates, and another one when one is gone. A template is a user's Python
// interpreter, warm (modules imported), which forks slots: python/betterbox/_template.py, and worker/template_loop.h below it.
#pragma once

#include <sys/resource.h>
#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "worker/interpreter.h"

namespace betterbox {

/// All that templates of a worker share.
struct TemplateOptions {
  std::vector<std::string> preload;  ///< modules to import before the first fork
  std::string socket_path;  ///< the worker's socket: removed by its own template when the worker is gone
  bool follows_client =
      false;  ///< slots have all of their client's environment and limits, where it is on this host
};

/// The templates of a worker: its own, and those of clients.
class TemplateProcesses {
 public:
  /// `own`: the worker's interpreter. To be made before this process raises its
  /// limits: templates and slots have those that it was started with. Throws std::runtime_error.
  TemplateProcesses(TemplateOptions options, Interpreter own);
  ~TemplateProcesses();
  TemplateProcesses(const TemplateProcesses&) = delete;
  TemplateProcesses& operator=(const TemplateProcesses&) = delete;

  /// Starts that of an interpreter (as contexts name and tell it; no text: the worker's own), after killing the one before. Result: the
  /// socket to it, or -1 if none can be started, as where it is one of another host. Also in a process with threads. What
  /// keeps the interpreter from starting comes over the socket.
  int start(std::uint64_t interpreter, std::string_view text);
  /// It ends when it sees this process's end of the socket closed.
  void let_end(std::uint64_t interpreter);
  bool started() const { return !running_.empty(); }
  /// An eventfd that slots ring, for the caller to own.
  int take_bell() const;
  /// All of them end, as in let_end(); one that does not is killed after 3 s.
  void await_end();

 private:
  std::vector<std::string> command(const Interpreter& interpreter, std::uint64_t key, bool own,
                                   int control_fd) const;
  void reap_ended();

  const TemplateOptions options_;
  const Interpreter own_;
  int bell_fd_ = -1;
  rlimit descriptors_{};
  std::map<std::uint64_t, pid_t> running_;
  std::vector<pid_t> ending_;
};

}  // namespace betterbox
