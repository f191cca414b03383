// One rank of `mpirun betterbox mpi script.py`: MPI, this process's carrier, and on rank 0 the scheduler, on a thread. The
// process is the user's interpreter: betterbox._mpi runs the script (rank 0) or a slot (the others). Knows no Python.
//
// How it ends. The script has ended, and Python with it: the scheduler says goodbye to the agents of the other ranks,
// whose Python ends; all ranks finish MPI together and rank 0 exits with the script's code, as any program does: MPICH tells
// its launcher at exit that all is well. What does not come to an end within kFinishPatience ends by MPI_Abort with that code.
#pragma once

#include <memory>
#include <string>

#include "cluster/mpi_transport.h"
#include "runtime/carrier.h"

namespace betterbox {

class JobScheduler;

/// Once per process, and never destroyed: it ends the process.
class MpiRank {
 public:
  /// Throws std::runtime_error.
  explicit MpiRank(const BetterboxMpi& mpi);
  ~MpiRank() = delete;
  MpiRank(const MpiRank&) = delete;
  MpiRank& operator=(const MpiRank&) = delete;

  int rank() const { return node_->rank(); }
  int size() const { return node_->size(); }
  const Carrier& carrier() const { return carrier_; }
  static std::string scheduler_endpoint();

  /// Ends MPI, with all others; `code`: of the job if that takes too long.
  void finish(int code);
  /// The same, and then this process, though user code still runs in it.
  [[noreturn]] void end(int code);
  /// Ends all ranks at once.
  [[noreturn]] void abort(int code) { node_->abort(code); }

 private:
  std::shared_ptr<MpiNode> node_;
  Carrier carrier_;
  std::unique_ptr<JobScheduler> scheduler_;
};

}  // namespace betterbox
