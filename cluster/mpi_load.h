// The shim of an MPI (cluster/mpi_shim.h), loaded into this process with the library of that MPI.
#pragma once

#include <string>

#include "cluster/mpi_shim.h"

namespace betterbox {

/// What MPI itself loads later sees the library's symbols. Stays loaded. Throws std::runtime_error.
const BetterboxMpi& load_mpi_shim(const std::string& path);

/// The first line of what the library says about itself: "Open MPI v4.1.4, ...". MPI need not be started.
std::string mpi_library(const BetterboxMpi& mpi);

}  // namespace betterbox
