// Which carrier this process's transports use: ZeroMQ, unless the process is a rank of an MPI job
// (cluster/mpi_rank.h). Nothing here knows MPI.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "runtime/transport.h"

namespace betterbox {

/// A carrier other than ZeroMQ, for endpoints that begin with `scheme`.
struct Carrier {
  std::string scheme;  ///< "mpi://"
  std::function<std::unique_ptr<Transport>()> make;
  std::function<std::string(const std::string& name)>
      endpoint;  ///< of a listener of that name in this process
  /// To be called first by threads of ours that carry messages: they need not run where the user's are bound to.
  std::function<void()> roam;
  bool own_cpus = false;  ///< the other processes may run where this one must not
};

}  // namespace betterbox
