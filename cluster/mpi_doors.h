// MpiDoors: pipes by which ranks of one node wake each other's sleeping owners of transports: a sender writes a byte
// into the pipe that the receiver's owners wait on beside their other descriptors.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cluster/mpi_shim.h"
#include "runtime/descriptor.h"

namespace betterbox {

class MpiDoors {
 public:
  /// Collective over `comm`, whose ranks are all on one node. Null, on all of them, where one cannot open another's pipe.
  static std::unique_ptr<MpiDoors> open(const BetterboxMpi& mpi, BetterboxMpiComm comm);

  /// Readable once somebody has rung.
  int own() const { return read_.get(); }
  void ring(int rank) const;
  /// Takes what was rung so far. Result: how often.
  std::uint64_t clear() const;

 private:
  Descriptor read_, write_;
  std::vector<Descriptor> others_;  ///< by rank
};

}  // namespace betterbox
