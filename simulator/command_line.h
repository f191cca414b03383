// The command line of betterbox-sim.
#pragma once

#include <optional>

#include "simulator/options.h"

namespace betterbox::sim {

/// Empty: an error or --help was printed, and `exit_code` says how to end.
std::optional<Options> parse_command_line(int argc, char** argv, int& exit_code);

}  // namespace betterbox::sim
