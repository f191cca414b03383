// TemplateProcess: starts a worker's template (worker/slot_main.h), and another one when it is gone.
#pragma once

#include <sys/resource.h>
#include <sys/types.h>

#include <string>
#include <vector>

#include "worker/slot_main.h"

namespace betterbox {

class TemplateProcess {
 public:
  /// To be made before this process raises its limits: templates and slots have those that it was started with.
  /// Throws std::runtime_error.
  explicit TemplateProcess(TemplateOptions options);
  ~TemplateProcess();
  TemplateProcess(const TemplateProcess&) = delete;
  TemplateProcess& operator=(const TemplateProcess&) = delete;

  /// Starts one, after killing the one before. Result: the socket to it, or -1 if none can be started. Also in a process
  /// with threads.
  int start();
  bool started() const { return pid_ > 0; }
  /// An eventfd that slots ring, for the caller to own.
  int take_bell() const;
  /// The template ends when it sees this process's end of the socket closed; one that does not is killed after 3 s.
  void await_end();

 private:
  void kill();

  const TemplateOptions options_;
  int bell_fd_ = -1;
  rlimit descriptors_{};
  pid_t pid_ = 0;
};

}  // namespace betterbox
