// Bindings of runtime/bus_file.h and runtime/bus_start.h.
#include "python/src/text_caster.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cerrno>
#include <system_error>

#include "python/src/bindings.h"
#include "python/src/py_ref.h"
#include "runtime/bus_file.h"
#include "runtime/bus_start.h"
#include "runtime/client.h"
#include "runtime/network.h"
#include "runtime/own_files.h"

namespace py = pybind11;

namespace betterbox {
namespace {

py::dict to_dict(const BusInfo& info) {
  py::dict fields;
  fields["endpoint"] = info.endpoint;
  fields["network_endpoint"] = info.network_endpoint;
  fields["socket_folder"] = info.socket_folder;
  fields["host"] = info.host;
  fields["boot_id"] = info.boot_id;
  fields["incarnation"] = info.incarnation;
  fields["pid"] = info.pid;
  fields["python"] = info.python;
  fields["self_started"] = info.self_started;
  fields["version"] = info.version;
  return fields;
}

/// As seen from this host.
py::dict to_dict(const FoundBus& found) {
  py::dict fields = to_dict(found.info);
  fields["endpoint"] = found.endpoint;
  fields["socket_folder"] = found.socket_folder;
  return fields;
}

/// Start-up errors of the runtime are texts for people: a BusError to Python.
template <class F> auto as_bus_error(F&& work) {
  try {
    const GilRelease release;
    return work();
  } catch (const std::runtime_error& error) {
    throw BusError(error.what());
  }
}

/// What is not ours to use is a BusError, what the system refuses an OSError with its number.
template <class F> auto as_system_error(const std::string& path, F&& work) {
  int code = 0;
  try {
    const GilRelease release;
    return work();
  } catch (const NotOurs& error) {
    throw BusError(error.what());
  } catch (const std::system_error& error) {
    code = error.code().value();
  }
  errno = code;
  PyErr_SetFromErrnoWithFilename(PyExc_OSError, path.c_str());
  throw py::error_already_set();
}

}  // namespace

void register_bus(py::module_& module) {
  module.def(
      "read_bus_file",
      [](const std::string& path) -> py::object {
        const auto info = as_bus_error([&] { return read_bus_file(path); });
        if (!info) return py::none();
        return to_dict(*info);
      },
      py::arg("path"), "The bus file's fields, or None if there is no file. Raises BusError.");
  module.def("socket_folder", &socket_folder_of, py::arg("bus_file"),
             "Where the sockets of the bus of this file go on this host; the folder need not be there.");
  module.def(
      "runtime_folder",
      [] {
        const std::string folder = as_bus_error([] { return runtime_folder(true); });
        return py::reinterpret_steal<py::str>(PyUnicode_DecodeFSDefault(folder.c_str()));
      },
      "Where this user's sockets and private buses lie on this host, made if it is not there. Raises "
      "BusError.");
  module.def(
      "make_own_folder",
      [](const std::string& path) { as_system_error(path, [&] { make_own_folder(path); }); }, py::arg("path"),
      "Make a folder and its parents with mode 0700 unless they are there; it must be this user's, and "
      "nobody "
      "else's to write. Raises BusError, or OSError.");
  module.def(
      "check_own_folder",
      [](const std::string& path, bool closed) {
        as_system_error(path,
                        [&] { check_own_folder(path, closed ? Others::kMayNothing : Others::kMayRead); });
      },
      py::arg("path"), py::arg("closed") = false,
      "Raise BusError unless a folder is this user's, and nobody else's to write (`closed`: nor to read), "
      "OSError if "
      "it cannot be looked at.");
  module.def(
      "open_own_file",
      [](const std::string& path, int flags) {
        return as_system_error(path, [&] { return open_own_file(path, flags).release(); });
      },
      py::arg("path"), py::arg("flags"),
      "A descriptor of a file that must be this user's, no link, and nobody else's to write; one that is "
      "made has mode "
      "0600. Raises BusError, or OSError.");
  module.def(
      "interfaces",
      [] {
        py::list rows;
        for (const Interface& each : interfaces()) rows.append(py::make_tuple(each.name, each.address));
        return rows;
      },
      "(name, address) of this host's interfaces that others can use.");
  module.def(
      "advertised_address",
      [](const std::string& interface, const std::string& peer) {
        return as_bus_error([&] { return advertised_address(interface, peer); });
      },
      py::arg("interface"), py::arg("peer"), "The address that other hosts are told. Raises BusError.");
  module.def(
      "network_answers",
      [](const std::string& endpoint, double timeout) {
        const TimePoint deadline = monotonic_now() + Duration{static_cast<std::int64_t>(timeout * 1e9)};
        return as_bus_error([&] { return network_answers(endpoint, deadline); });
      },
      py::arg("endpoint"), py::arg("timeout"),
      "True if a connection to tcp://address:port is accepted in time.");
  module.def(
      "find_or_start_bus",
      [](const std::string& bus_file, const std::vector<std::string>& scheduler_argv,
         const std::string& log_file, double timeout) {
        const TimePoint deadline = monotonic_now() + Duration{static_cast<std::int64_t>(timeout * 1e9)};
        return to_dict(
            as_bus_error([&] { return find_or_start_bus(bus_file, scheduler_argv, log_file, deadline); }));
      },
      py::arg("bus_file"), py::arg("scheduler_argv"), py::arg("log_file"), py::arg("timeout"),
      "The bus behind a bus file; started if nobody answers and `scheduler_argv` is given. Raises BusError.");
  module.def("daemon_cpus", &daemon_cpus);
  module.def(
      "start_daemon",
      [](const std::vector<std::string>& argv, const std::string& log_file, double timeout,
         const py::object& meanwhile) {
        const TimePoint deadline = monotonic_now() + Duration{static_cast<std::int64_t>(timeout * 1e9)};
        const auto run = [&] {
          const GilHold gil;
          if (PyRef done(PyObject_CallNoArgs(meanwhile.ptr())); !done) PyErr_WriteUnraisable(meanwhile.ptr());
        };
        return as_bus_error([&] { return start_daemon(argv, log_file, deadline, run); });
      },
      py::arg("argv"), py::arg("log_file"), py::arg("timeout"), py::arg("meanwhile"),
      "Start a detached process, and call `meanwhile` while it starts; returns the line it wrote to its "
      "--ready-fd. Raises BusError.");
}

}  // namespace betterbox
