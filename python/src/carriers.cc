#include "python/src/carriers.h"

#include "python/src/text_caster.h"

#include <pybind11/pybind11.h>

#include <random>

#include "python/src/bindings.h"
#include "runtime/lane.h"
#include "runtime/zmq_transport.h"

namespace py = pybind11;

namespace betterbox {
namespace {

/// The name of the capsule that carries a Carrier.
constexpr const char* kCapsule = "betterbox.Carrier";

const Carrier* brought = nullptr;

}  // namespace

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

void register_carriers(py::module_& module) {
  module.def(
      "use_carrier",
      [](const py::object& capsule) {
        void* pointer = PyCapsule_GetPointer(capsule.ptr(), kCapsule);
        if (pointer == nullptr) throw py::error_already_set();
        brought = static_cast<const Carrier*>(pointer);
        if (brought->own_cpus) Spinner::peers_have_their_own_cpus();
      },
      py::arg("capsule"),
      "Clients and agents towards endpoints of this carrier use it. It must live as long as the process.");
}

}  // namespace betterbox
