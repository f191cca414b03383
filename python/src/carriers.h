// The carrier of this process's clients and agents (runtime/carrier.h).
#pragma once

#include <memory>
#include <string>

#include "runtime/bus_file.h"
#include "runtime/carrier.h"
#include "runtime/ids.h"

namespace betterbox {

/// Clients and agents towards endpoints of `carrier`, which lives as long as the process, use it.
void use_carrier(const Carrier& carrier);
/// The carrier that is used, if `scheduler_endpoint` is one of its; else null.
const Carrier* carrier_for(const std::string& scheduler_endpoint);
/// A transport towards the scheduler at `scheduler_endpoint`. `bus_file`: where its keys are; may be empty. Throws
/// std::runtime_error.
std::unique_ptr<Transport> make_transport(const std::string& scheduler_endpoint, const std::string& bus_file);

/// Never 0.
PeerId random_peer_id();

}  // namespace betterbox
