#include "simulator/faults.h"

#include "simulator/fault_world.h"

namespace betterbox::sim {

FaultResult run_faults(std::uint64_t seed, const FaultOptions& options) {
  FaultResult result;
  FaultWorld world(seed, options, result);
  try {
    world.run();
  } catch (const Violation& violation) {
    result.checker = violation.checker;
    result.what = violation.what();
  }
  world.add_up();
  return result;
}

}  // namespace betterbox::sim
