#include "python/src/text_caster.h"

#include <pybind11/pybind11.h>

#include "python/src/bindings.h"
#include "python/src/call_handle.h"

namespace betterbox {

void register_call(py::module_& module) {
  module.attr("ALL") = kWaitAll;
  module.attr("ANY") = kWaitAny;
  module.attr("LANDED") = kWaitLanded;
  py::class_<CallHandle>(module, "Call", "One call and its outcomes: thread-safe.")
      .def_property_readonly("token", [](const CallHandle& self) { return self.state().token; })
      .def_property_readonly("port", [](const CallHandle& self) { return self.state().port.value; })
      .def_property_readonly("method", [](const CallHandle& self) { return self.state().method; })
      .def_property_readonly("for_functions",
                             [](const CallHandle& self) {
                               return self.state().kind != CallState::Kind::kDirect &&
                                      self.state().port == kFunctionPool;
                             })
      .def_property_readonly("total", &CallHandle::total)
      .def_property_readonly("known", [](const CallHandle& self) { return self.progress().known; })
      .def_property_readonly("settled", [](const CallHandle& self) { return self.progress().settled; })
      .def("feed", &CallHandle::feed, py::arg("pages"), py::arg("closed") = false)
      .def("fail_feed", &CallHandle::fail_feed, py::arg("error"))
      .def("feed_room", &CallHandle::feed_room, py::arg("timeout"))
      .def("free_running", &CallHandle::free_running, py::arg("on"))
      .def("wait", &CallHandle::wait, py::arg("until"), py::arg("timeout"))
      .def("answer", &CallHandle::answer, py::arg("timeout"))
      .def("done", [](const CallHandle& self) { return self.progress().over; })
      .def("cancelled", [](const CallHandle& self) { return self.progress().cancelled; })
      .def("cancel", &CallHandle::cancel)
      .def(
          "get", [](CallHandle& self, std::uint64_t index) { return self.get(index, false); },
          py::arg("index"))
      .def(
          "take", [](CallHandle& self, std::uint64_t index) { return self.get(index, true); },
          py::arg("index"))
      .def("values", &CallHandle::values, py::arg("first"), py::arg("limit"), py::arg("take"))
      .def("results", [](CallHandle& self) { return self.results(false); })
      .def("outcomes", [](CallHandle& self) { return self.results(true); })
      .def("folds", &CallHandle::folds)
      .def("landed", &CallHandle::landed, py::arg("arrivals"), py::arg("items"), py::arg("limit"),
           py::arg("take"))
      .def("first_success", &CallHandle::first_success)
      .def_property_readonly("landing_token",
                             [](const CallHandle& self) { return self.state().landing_token(); })
      .def("notify_landing", &CallHandle::notify_landing, py::arg("arrivals"))
      .def("withdraw", &CallHandle::withdraw)
      .def("keeps_all", &CallHandle::keeps_all)
      .def("notify", &CallHandle::notify)
      .def("keep", &CallHandle::keep)
      .def("explain", &CallHandle::explain, py::arg("timeout"));
}

}  // namespace betterbox
