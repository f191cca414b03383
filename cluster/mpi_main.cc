// betterbox-mpi: one rank of `mpirun betterbox mpi script.py`. MPI and this process's carrier, with Python inside:
// betterbox._mpi runs the script (rank 0) or a slot (the others). Rank 0 also holds the scheduler, on a thread.
//
// How it ends. The script has ended, and Python with it: the scheduler says goodbye to the agents of the other ranks,
// whose Python ends; all ranks finish MPI together and rank 0 exits with the script's code. What does not come to an
// end within kFinishPatience ends by MPI_Abort with that code.
#include <Python.h>

#include <fcntl.h>
#include <signal.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/random.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "cluster/mpi_transport.h"
#include "runtime/bus_file.h"
#include "runtime/carrier.h"
#include "runtime/segment_pool.h"
#include "scheduler/server.h"

namespace betterbox {
namespace {

constexpr Duration kFinishPatience = seconds(3);
constexpr const char* kScheduler = "scheduler";

std::shared_ptr<MpiNode> node;
Carrier carrier;

/// The scheduler of the job, on a thread that takes no signals.
class Scheduler {
 public:
  Scheduler() : transport_(node->make_transport()) {
    if (::pipe2(life_, O_CLOEXEC) != 0) throw std::runtime_error("cannot make a pipe");
    transport_->listen(carrier.endpoint(kScheduler));
    scheduler::Server::Options options;
    options.config.host = host_name();
    options.config.boot_id = boot_id();
    options.config.pid = static_cast<std::uint32_t>(::getpid());
    options.config.name = "mpi";
    options.config.store = store_id();
    options.config.rank = static_cast<std::uint32_t>(node->rank());
    options.config.python = std::to_string(PY_MAJOR_VERSION) + "." + std::to_string(PY_MINOR_VERSION);
    while (options.config.peer.value == 0) {
      if (::getrandom(&options.config.peer.value, sizeof options.config.peer.value, 0) < 0)
        throw std::runtime_error("cannot draw random bits");
    }
    options.die_with_fd = life_[0];
    server_ = std::make_unique<scheduler::Server>(std::move(options), *transport_);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    thread_ = std::thread([this] {
      node->roam();
      server_->run();
    });
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
  ~Scheduler() {
    ::close(life_[1]);
    thread_.join();
    ::close(life_[0]);
  }

 private:
  int life_[2] = {-1, -1};
  std::unique_ptr<Transport> transport_;
  std::unique_ptr<scheduler::Server> server_;
  std::thread thread_;
};

std::unique_ptr<Scheduler> job_scheduler;

/// Ends this rank, with all others. Does not return.
[[noreturn]] void end(int code) {
  job_scheduler.reset();
  if (!node->finish(kFinishPatience)) node->abort(code);
  std::fflush(nullptr);
  std::_Exit(code);
}

// --- what Python sees: the module _betterbox_mpi ------------------------------------------------------

PyObject* end_rank(PyObject*, PyObject* argument) {
  const long code = PyLong_AsLong(argument);
  if (code == -1 && PyErr_Occurred() != nullptr) return nullptr;
  Py_BEGIN_ALLOW_THREADS;
  end(static_cast<int>(code));
  Py_END_ALLOW_THREADS;
}

PyMethodDef methods[] = {
    {"end", end_rank, METH_O, "End this rank now, whatever still runs in it."},
    {nullptr, nullptr, 0, nullptr},
};
PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                          "_betterbox_mpi",
                          "This rank of an MPI job.",
                          -1,
                          methods,
                          nullptr,
                          nullptr,
                          nullptr,
                          nullptr};

PyObject* make_module() {
  PyObject* module = PyModule_Create(&definition);
  if (module == nullptr) return nullptr;
  PyModule_AddIntConstant(module, "rank", node->rank());
  PyModule_AddIntConstant(module, "size", node->size());
  PyModule_AddStringConstant(module, "scheduler", ("mpi://0/" + std::string(kScheduler)).c_str());
  PyModule_AddObject(module, "carrier", PyCapsule_New(&carrier, "betterbox.Carrier", nullptr));
  return module;
}

/// `arguments`: the interpreter whose environment is wanted, the folder of the package, the script, its arguments.
int run_python(const std::vector<std::string>& arguments) {
  PyImport_AppendInittab("_betterbox_mpi", &make_module);
  PyConfig config;
  PyConfig_InitPythonConfig(&config);
  config.parse_argv = 0;
  std::vector<char*> argv;
  for (std::size_t i = 2; i < arguments.size(); ++i) argv.push_back(const_cast<char*>(arguments[i].c_str()));
  PyStatus status = PyConfig_SetBytesString(&config, &config.program_name, arguments[0].c_str());
  if (!PyStatus_Exception(status))
    status = PyConfig_SetBytesArgv(&config, static_cast<Py_ssize_t>(argv.size()), argv.data());
  if (!PyStatus_Exception(status)) status = Py_InitializeFromConfig(&config);
  PyConfig_Clear(&config);
  if (PyStatus_Exception(status)) {
    std::fprintf(stderr, "betterbox-mpi: Python cannot start: %s\n",
                 status.err_msg != nullptr ? status.err_msg : "unknown");
    return 1;
  }
  PyObject* path = PySys_GetObject("path");
  PyObject* package = PyUnicode_DecodeFSDefault(arguments[1].c_str());
  if (path != nullptr && package != nullptr) PyList_Insert(path, 0, package);
  Py_XDECREF(package);
  PyObject* module = PyImport_ImportModule("betterbox._mpi");
  PyObject* result = module != nullptr ? PyObject_CallMethod(module, "main", nullptr) : nullptr;
  long code = result != nullptr ? PyLong_AsLong(result) : -1;
  if (PyErr_Occurred() != nullptr) {
    PyErr_Print();
    code = 1;
  }
  Py_XDECREF(result);
  Py_XDECREF(module);
  if (Py_FinalizeEx() < 0 && code == 0) code = 120;  // as the interpreter itself
  return static_cast<int>(code);
}

int run(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  if (arguments.size() < 3) {
    std::fprintf(stderr, "betterbox-mpi is started by: mpirun -n RANKS betterbox mpi SCRIPT [ARGUMENTS]\n");
    return 2;
  }
  ::signal(SIGPIPE, SIG_IGN);
  spdlog::set_default_logger(
      std::make_shared<spdlog::logger>("betterbox-mpi", std::make_shared<spdlog::sinks::stderr_sink_mt>()));
  spdlog::set_level(spdlog::level::warn);
  node = MpiNode::start(&argc, &argv);
  carrier.scheme = "mpi://";
  carrier.make = [] { return node->make_transport(); };
  carrier.endpoint = [](const std::string& name) {
    return "mpi://" + std::to_string(node->rank()) + "/" + name;
  };
  carrier.roam = [] { node->roam(); };
  carrier.own_cpus = node->cpus_elsewhere();
  if (node->rank() == 0) job_scheduler = std::make_unique<Scheduler>();
  end(run_python(arguments));
}

}  // namespace
}  // namespace betterbox

int main(int argc, char** argv) {
  try {
    return betterbox::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "betterbox-mpi: %s\n", error.what());
    return 1;
  }
}
