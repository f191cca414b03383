// What client_bindings.cc and submission_bindings.cc share.
#pragma once

#include "python/src/text_caster.h"

#include <pybind11/pybind11.h>

#include <string>

#include "runtime/client.h"

namespace betterbox {

/// From the keyword arguments of _core.pyi's CallOptions; unknown ones are a mistake of ours.
Client::CallOptions call_options(int port, const std::string& method, const pybind11::dict& given);

}  // namespace betterbox
