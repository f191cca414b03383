// The template process (worker/slot_main.h). The loop that forks is worker/template_loop.cc, reached through
// betterbox._core, because what a forked slot runs is Python's.
#include <Python.h>

#include "worker/slot_main.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "runtime/direct_link.h"
#include "worker/template_loop.h"

namespace betterbox {
namespace {

[[noreturn]] void broken(const TemplateOptions& options, const std::string& text) {
  report_broken(options.control_fd, text);
  std::_Exit(1);
}

/// The Python error that is set, as text; it is printed, too.
std::string python_error() {
  PyObject *type = nullptr, *value = nullptr, *traceback = nullptr;
  PyErr_Fetch(&type, &value, &traceback);
  PyErr_NormalizeException(&type, &value, &traceback);
  std::string text = "an error in Python";
  if (PyObject* shown = value != nullptr ? PyObject_Str(value) : nullptr) {
    if (const char* utf8 = PyUnicode_AsUTF8(shown)) text = std::string(Py_TYPE(value)->tp_name) + ": " + utf8;
    Py_DECREF(shown);
  }
  PyErr_Clear();
  PyErr_Restore(type, value, traceback);
  PyErr_Print();
  return text;
}

/// One thread per slot, unless the user says otherwise: slots are the parallelism. Before any import.
void set_thread_counts() {
  for (const char* name : {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"})
    ::setenv(name, "1", 0);
}

void start_python(const TemplateOptions& options) {
  PyConfig config;
  PyConfig_InitPythonConfig(&config);
  config.install_signal_handlers = 0;
  config.parse_argv = 0;
  std::string program = options.python.empty() ? "python3" : options.python;
  char name[] = "betterbox-slot";
  char* arguments[] = {name};
  PyStatus status = PyConfig_SetBytesString(&config, &config.program_name, program.c_str());
  if (!PyStatus_Exception(status)) status = PyConfig_SetBytesArgv(&config, 1, arguments);
  if (!PyStatus_Exception(status)) status = Py_InitializeFromConfig(&config);
  PyConfig_Clear(&config);
  if (PyStatus_Exception(status)) {
    broken(options,
           std::string("Python cannot start: ") + (status.err_msg != nullptr ? status.err_msg : "unknown"));
  }
  PyObject* path = PySys_GetObject("path");
  for (auto entry = options.python_path.rbegin(); path != nullptr && entry != options.python_path.rend();
       ++entry) {
    PyObject* text = PyUnicode_DecodeFSDefault(entry->c_str());
    if (text == nullptr || PyList_Insert(path, 0, text) != 0) broken(options, python_error());
    Py_DECREF(text);
  }
}

PyObject* import(const TemplateOptions& options, const std::string& name, bool must) {
  PyObject* module = PyImport_ImportModule(name.c_str());
  if (module == nullptr && must)
    broken(options, "the worker's Python cannot import " + name + ": " + python_error());
  if (module == nullptr) {
    std::fprintf(stderr, "betterbox-worker: preload of %s failed\n", name.c_str());
    PyErr_Print();
  }
  return module;
}

int thread_count() {
  int count = 0;
  if (DIR* folder = ::opendir("/proc/self/task")) {
    while (const dirent* entry = ::readdir(folder)) count += entry->d_name[0] != '.';
    ::closedir(folder);
  }
  return count;
}

/// A process with threads cannot be forked safely: the same program again, without preloaded modules.
void start_over(const TemplateOptions& options) {
  std::fprintf(stderr,
               "betterbox-worker: a preloaded module started a thread; slots start without preload\n");
  TemplateOptions bare = options;
  bare.preload.clear();
  std::vector<std::string> command = template_command(bare);
  std::vector<char*> argv;
  for (std::string& argument : command) argv.push_back(argument.data());
  argv.push_back(nullptr);
  ::fcntl(options.control_fd, F_SETFD, 0);
  ::fcntl(options.bell_fd, F_SETFD, 0);
  ::execv("/proc/self/exe", argv.data());
  broken(options, "the template cannot be started again without preload");
}

}  // namespace

std::vector<std::string> template_command(const TemplateOptions& options) {
  std::vector<std::string> command = {
      "betterbox-worker", "--template-control=" + std::to_string(options.control_fd),
      "--template-bell=" + std::to_string(options.bell_fd), "--template-socket=" + options.socket_path,
      "--python=" + options.python};
  for (const std::string& entry : options.python_path) command.push_back("--python-path=" + entry);
  for (const std::string& name : options.preload) command.push_back("--preload=" + name);
  return command;
}

/// Signals of the worker are blocked while Python starts, not ignored: Python takes what it finds for what programs are to
/// have, and in slots that are the defaults.
void run_template_process(const TemplateOptions& options) {
  sigset_t of_the_worker;
  sigemptyset(&of_the_worker);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGUSR1}) {
    std::signal(signal, SIG_DFL);
    sigaddset(&of_the_worker, signal);
  }
  ::sigprocmask(SIG_BLOCK, &of_the_worker, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  ::prctl(PR_SET_NAME, "betterbox-tmpl");
  set_thread_counts();
  start_python(options);
  PyObject* core = import(options, "betterbox._core", true);
  import(options, "betterbox._slot", true);
  import(options, "cloudpickle", true);
  for (const std::string& name : options.preload) import(options, name, false);
  if (thread_count() > 1) {
    if (options.preload.empty()) broken(options, "a thread was started while betterbox was imported");
    start_over(options);
  }
  const pid_t self = ::getpid();
  PyObject* code = PyObject_CallMethod(core, "template_main", "ii", options.control_fd, options.bell_fd);
  if (code == nullptr) PyErr_Print();
  if (::getpid() == self) {
    if (!options.socket_path.empty()) {
      ::unlink(options.socket_path.c_str());
      ::unlink(link_path_of(options.socket_path).c_str());
    }
    std::_Exit(0);
  }
  // A slot that has ended: exit handlers run, buffers are written.
  std::_Exit(Py_FinalizeEx() < 0 || code == nullptr ? 1 : 0);
}

}  // namespace betterbox
