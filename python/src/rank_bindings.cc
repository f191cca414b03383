// Bindings of cluster/mpi_rank.h: the rank of an MPI job that this process is.
#include <Python.h>
#include "python/src/text_caster.h"

#include <pybind11/pybind11.h>
#include <unistd.h>

#include "cluster/mpi_load.h"
#include "cluster/mpi_rank.h"
#include "python/src/bindings.h"
#include "python/src/carriers.h"
#include "python/src/py_ref.h"
#include "runtime/client.h"

namespace py = pybind11;

namespace betterbox {
namespace {

MpiRank* rank_of_job = nullptr;
pid_t rank_process = 0;
int exit_code = 1;  ///< of an interpreter that ends before it was told another

/// Python has ended: MPI does, with all others of the job. Not in what the rank has forked.
void finish_with_python() {
  if (::getpid() == rank_process) rank_of_job->finish(exit_code);
}

const BetterboxMpi& load(const std::string& shim) {
  try {
    return load_mpi_shim(shim);
  } catch (const std::runtime_error& error) {
    throw BusError(error.what());
  }
}

void start_rank(const std::string& shim) {
  if (rank_of_job != nullptr) throw BusError("this process is a rank already");
  const BetterboxMpi& mpi = load(shim);
  try {
    const GilRelease release;
    rank_of_job = new MpiRank(mpi);
  } catch (const std::runtime_error& error) {
    throw BusError(error.what());
  }
  rank_process = ::getpid();
  use_carrier(rank_of_job->carrier());
  if (Py_AtExit(&finish_with_python) != 0) throw BusError("Python takes no more functions for its end");
}

/// REQUIRES: start_rank().
MpiRank& the_rank() {
  if (rank_of_job == nullptr) throw BusError("this process is no rank of an MPI job");
  return *rank_of_job;
}

}  // namespace

void register_rank(py::module_& module) {
  module.def(
      "mpi_library", [](const std::string& shim) { return mpi_library(load(shim)); }, py::arg("shim"),
      "What the MPI of a shim says about itself; MPI is not started.");
  module.def(
      "start_rank",
      [](const std::string& shim) {
        start_rank(shim);
        return py::make_tuple(the_rank().rank(), the_rank().size(), MpiRank::scheduler_endpoint());
      },
      py::arg("shim"),
      "Start MPI, once per process: (rank, size, endpoint of the scheduler). It ends when Python does.");
  module.def(
      "rank_ends_with", [](int code) { exit_code = code; }, py::arg("code"));
  module.def(
      "end_rank",
      [](int code) {
        const GilRelease release;
        the_rank().end(code);
      },
      py::arg("code"), "End this rank now, whatever still runs in it.");
  module.def(
      "abort_job",
      [](int code) {
        const GilRelease release;
        the_rank().abort(code);
      },
      py::arg("code"), "End all ranks now, without waiting for any.");
}

}  // namespace betterbox
