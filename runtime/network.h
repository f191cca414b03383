// Which of this host's addresses others are told, and whether somebody listens at one (docs/operations.md, section
// "Several hosts").
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "runtime/limits.h"
#include "runtime/time.h"

namespace betterbox {

/// The value of --interface and BETTERBOX_INTERFACE that keeps a process off the network.
inline constexpr const char* kNoInterface = "none";

struct Interface {
  std::string name;
  std::string address;  ///< numeric; IPv6 in brackets, as in an endpoint
};

/// Those of this host that are up, with each address that others can use; IPv4 first.
std::vector<Interface> interfaces();

/// The address of this host that others are to use: that of `interface` (the name of one, an address of this host, or
/// a name that stands for one; of several the first, IPv4 before IPv6), or, where that is empty, the one that a
/// connection to `peer` ("tcp://address:port") would come from; without a peer the one towards the world, else
/// that of the first interface, at last the loopback. Numeric; IPv6 in brackets, as in an endpoint. Throws std::runtime_error, which names what there is.
std::string advertised_address(const std::string& interface, const std::string& peer);

/// How long to look for a scheduler that was at this endpoint and has been lost.
inline Duration return_patience(std::string_view endpoint) {
  return endpoint.starts_with("tcp://") ? kNetworkReturnPatience : kReturnPatience;
}

/// False if the name in "tcp://name:port" stands for no address here.
bool name_resolves(const std::string& endpoint);

/// True if a connection to "tcp://address:port" is accepted before the deadline.
bool network_answers(const std::string& endpoint, TimePoint deadline);

}  // namespace betterbox
