// The template process: an embedded Python, warm (modules imported), from which slots are forked.
#pragma once

#include <string>
#include <vector>

namespace betterbox {

struct TemplateOptions {
  std::string python;                    ///< the interpreter's program, so that its environment is seen
  std::vector<std::string> python_path;  ///< put in front of sys.path
  std::vector<std::string> preload;      ///< modules to import before the first fork
  std::string socket_path;               ///< the worker's socket: removed when the worker is gone
  int control_fd = -1;
  int bell_fd = -1;
};

/// How this program is started as a template.
std::vector<std::string> template_command(const TemplateOptions& options);

/// Runs the template until the worker is gone, and each slot until it ends. Does not return.
/// REQUIRES: no thread but this one.
[[noreturn]] void run_template_process(const TemplateOptions& options);

}  // namespace betterbox
