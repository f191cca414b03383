// betterbox._core: registers the bindings and translates C++ errors. Nothing else.
#include <Python.h>

#include <exception>

#include "python/src/bindings.h"
#include "python/src/py_ref.h"
#include "runtime/client.h"

namespace py = pybind11;

namespace betterbox {

void raise_error(const char* name, const std::string& text) {
  const py::object type = py::module_::import("betterbox._errors").attr(name);
  PyErr_SetObject(type.ptr(), py::cast(text).ptr());  // it may name paths that are no UTF-8
  throw py::error_already_set();
}

TimePoint deadline_after(py::object timeout) {
  if (timeout.is_none()) return TimePoint::never();
  const double wait_s = timeout.cast<double>();
  if (!(wait_s < 1e9)) return TimePoint::never();
  return monotonic_now() + Duration{static_cast<std::int64_t>(std::max(0.0, wait_s) * 1e9)};
}

void check_signals() {
  const GilHold gil;
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

void set_own_error(const char* name, const std::exception& error) {
  const PyRef module(PyImport_ImportModule("betterbox._errors"));
  const PyRef type(module ? PyObject_GetAttrString(module.get(), name) : nullptr);
  if (type) PyErr_SetObject(type.get(), py::cast(std::string(error.what())).ptr());
}

}  // namespace betterbox

PYBIND11_MODULE(_core, module) {
#ifdef Py_GIL_DISABLED
  // A free-threaded interpreter takes its lock back for a module that does not declare to do without, as this one,
  // unless it was told not to.
  if (!py::module_::import("sys").attr("_is_gil_enabled")().cast<bool>()) {
    throw py::import_error(
        "betterbox needs the interpreter's lock (GIL): start Python without -X gil=0 and without "
        "PYTHON_GIL=0");
  }
#endif
  module.doc() = "The native half of BetterBox: clients, agents, slots.";
  module.attr("version") = BETTERBOX_VERSION;
  // The one translator. BB's own error first; what is left of std::exception pybind11 knows.
  py::register_exception_translator([](std::exception_ptr error) {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const betterbox::BusError& problem) {
      betterbox::set_own_error("BusError", problem);
    } catch (const betterbox::NestingError& problem) {
      betterbox::set_own_error("NestingError", problem);
    }
  });
  betterbox::register_bus(module);
  betterbox::register_items(module);
  betterbox::register_process_state(module);
  betterbox::register_shared_buffers(module);
  betterbox::register_call(module);
  betterbox::register_client(module);
  betterbox::register_submissions(module);
  betterbox::register_rank(module);
  betterbox::register_agent(module);
}
