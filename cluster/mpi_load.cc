#include "cluster/mpi_load.h"

#include <dlfcn.h>

#include <algorithm>
#include <stdexcept>

namespace betterbox {

const BetterboxMpi& load_mpi_shim(const std::string& path) {
  // Global: parts of Open MPI that it loads by itself are not linked with it.
  void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) throw std::runtime_error(::dlerror());
  auto* shim = reinterpret_cast<BetterboxMpiShim*>(::dlsym(library, BETTERBOX_MPI_SYMBOL));
  if (shim == nullptr) throw std::runtime_error(path + " is no part of BetterBox");
  const BetterboxMpi& mpi = *shim();
  if (mpi.abi != BETTERBOX_MPI_ABI)
    throw std::runtime_error(path + " belongs to another BetterBox (number " + std::to_string(mpi.abi) +
                             ", this one has " + std::to_string(BETTERBOX_MPI_ABI) + ")");
  return mpi;
}

std::string mpi_library(const BetterboxMpi& mpi) {
  char text[8192];
  mpi.version(text, sizeof text);
  std::string line(text);
  line.resize(std::min(line.find('\n'), line.size()));
  std::ranges::replace(line, '\t', ' ');
  return line;
}

}  // namespace betterbox
