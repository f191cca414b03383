// Bindings of worker/agent.h (a script that serves) and of the template's loop (a worker's slots).
#include <Python.h>
#include "python/src/text_caster.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <unistd.h>

#include "python/src/bindings.h"
#include "python/src/carriers.h"
#include "python/src/object_codec.h"
#include "python/src/py_ref.h"
#include "runtime/client.h"
#include "runtime/direct_link.h"
#include "worker/agent.h"
#include "worker/slot.h"
#include "worker/template_loop.h"

namespace py = pybind11;

namespace betterbox {
namespace {

std::string python_version() {
  return std::to_string(PY_MAJOR_VERSION) + "." + std::to_string(PY_MINOR_VERSION);
}

std::unique_ptr<AgentThread> make_agent(const std::string& endpoint, const std::string& socket_folder,
                                        const std::string& name, bool background, const std::string& bus_file,
                                        const std::string& interface, std::uint32_t function_slots) {
  AgentThread::Options options;
  options.scheduler_endpoint = endpoint;
  options.socket_folder = socket_folder;
  options.bus_file = bus_file;
  options.interface = interface;
  options.function_slots = function_slots;
  options.name = name;
  options.python_version = python_version();
  options.background = background;
  try {
    const GilRelease release;
    if (const Carrier* carrier = carrier_for(endpoint)) {
      options.listen_endpoint = carrier->endpoint("agent-" + std::to_string(random_peer_id().value));
      options.thread_begins = carrier->roam;
    }
    return std::make_unique<AgentThread>(options, make_transport(endpoint, bus_file));
  } catch (const std::runtime_error& error) {
    throw BusError(error.what());
  }
}

py::object close_seat(AgentThread& self, const AgentThread::Seat& seat, double timeout) {
  std::string error;
  {
    const GilRelease release;
    error = self.close_seat(seat.seat, monotonic_now() + Duration{static_cast<std::int64_t>(timeout * 1e9)});
  }
  if (error.empty()) return py::none();
  PyObject* failure = decode_failure(std::as_bytes(std::span(error)), "stop", {});
  if (failure == nullptr) throw py::error_already_set();
  return py::make_tuple(false, py::reinterpret_steal<py::object>(failure));
}

}  // namespace

void register_agent(py::module_& module) {
  using Seat = AgentThread::Seat;
  py::class_<Seat>(module, "Seat", "A place for one box of this script.")
      .def_property_readonly("number", [](const Seat& seat) { return seat.seat.value; })
      .def(
          "run",
          [](Seat& seat, bool of_script) {
            const auto arena = seat.arena;
            run_slot(*arena, {seat.bell_fd, of_script});
          },
          py::arg("of_script") = true,
          "Run the slot on this thread until it is stopped; `of_script`: the box is an object of this "
          "script.")
      .def_readonly("for_functions", &Seat::for_functions);
  py::class_<AgentThread>(module, "Agent", "The agent of a script that serves boxes. Thread-safe.")
      .def(py::init(&make_agent), py::arg("endpoint"), py::arg("socket_folder"), py::arg("name"),
           py::arg("background") = false, py::arg("bus_file") = "", py::arg("interface") = "",
           py::arg("function_slots") = 0)
      .def(
          "next_seat",
          [](AgentThread& self) {
            const GilRelease release;
            return self.next_seat();
          },
          "Workers: the next seat that needs a thread to run it; None once the agent has ended.")
      .def(
          "open_seat",
          [](AgentThread& self, int port, const py::bytes& payload) {
            std::string bytes = payload;
            const GilRelease release;
            return self.open_seat(Port{static_cast<std::uint16_t>(port)}, std::move(bytes));
          },
          py::arg("port"), py::arg("payload"))
      .def(
          "wait_offered",
          [](AgentThread& self, const Seat& seat, double timeout) {
            const GilRelease release;
            return self.wait_offered(seat.seat,
                                     monotonic_now() + Duration{static_cast<std::int64_t>(timeout * 1e9)});
          },
          py::arg("seat"), py::arg("timeout"))
      .def("close_seat", &close_seat, py::arg("seat"), py::arg("timeout"),
           "None, or (False, exception) if saving failed.")
      .def("stop", &AgentThread::stop, py::call_guard<GilRelease>())
      .def("connected", &AgentThread::connected);
  module.def(
      "template_main",
      [](int control_fd, int bell_fd, const std::string& socket) {
        TemplateHooks hooks;
        hooks.before_fork = [] { PyOS_BeforeFork(); };
        hooks.after_fork_parent = [] { PyOS_AfterFork_Parent(); };
        hooks.after_fork_child = [] { PyOS_AfterFork_Child(); };
        hooks.interrupted = [] { PyErr_SetInterrupt(); };
        hooks.run_slot = [](SlotArena& arena, int bell) { run_slot(arena, {bell, false}); };
        ForkedSlots slots(bell_fd, hooks);
        if (!run_template(control_fd, slots)) return false;
        if (!socket.empty()) {
          ::unlink(socket.c_str());
          ::unlink(link_path_of(socket).c_str());
        }
        return true;
      },
      py::arg("control_fd"), py::arg("bell_fd"), py::arg("socket"),
      "The template's loop: forks a slot for each request. True in the template, False in a slot that has "
      "ended.");
}

}  // namespace betterbox
