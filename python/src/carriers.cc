#include "python/src/carriers.h"

#include <random>

#include "runtime/lane.h"
#include "runtime/zmq_transport.h"

namespace betterbox {
namespace {

const Carrier* brought = nullptr;

}  // namespace

void use_carrier(const Carrier& carrier) {
  brought = &carrier;
  if (carrier.own_cpus) Spinner::peers_have_their_own_cpus();
}

const Carrier* carrier_for(const std::string& scheduler_endpoint) {
  return brought != nullptr && scheduler_endpoint.starts_with(brought->scheme) ? brought : nullptr;
}

std::unique_ptr<Transport> make_transport(const std::string& scheduler_endpoint,
                                          const std::string& bus_file) {
  if (const Carrier* carrier = carrier_for(scheduler_endpoint)) return carrier->make();
  return std::make_unique<ZmqTransport>(keys_in(bus_file));
}

PeerId random_peer_id() {
  std::random_device device;
  std::uint64_t id = 0;
  while (id == 0) id = (std::uint64_t{device()} << 32) | device();
  return PeerId{id};
}

}  // namespace betterbox
