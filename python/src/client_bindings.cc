// Bindings of runtime/client.h: Client and Call as betterbox._core.pyi describes them.
#include "python/src/text_caster.h"

#include <pybind11/functional.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <unistd.h>

#include <random>

#include "python/src/bindings.h"
#include "python/src/call_handle.h"
#include "python/src/carriers.h"
#include "python/src/client_bindings.h"
#include "python/src/item_bindings.h"
#include "python/src/object_codec.h"
#include "python/src/py_ref.h"
#include "python/src/report_dicts.h"
#include "python/src/shared_buffers.h"
#include "runtime/bus_file.h"
#include "runtime/client.h"

namespace py = pybind11;

namespace betterbox {
namespace {

Frame frame_of(const py::bytes& bytes) { return Frame(std::string(bytes)); }

std::optional<Duration> duration_of(std::optional<double> wait_s) {
  if (!wait_s) return std::nullopt;
  return Duration{static_cast<std::int64_t>(*wait_s * 1e9)};
}

py::tuple row_of(const BoxEntry& entry) {
  py::list methods;
  for (const MethodInfo& method : entry.info.methods)
    methods.append(py::make_tuple(method.name, method.flags));
  return py::make_tuple(key_of(entry.info.box), entry.info.class_name, entry.info.sandbox, methods,
                        entry.host, entry.pid);
}

py::list rows_of(const std::vector<BoxEntry>& entries) {
  py::list rows;
  for (const BoxEntry& entry : entries) rows.append(row_of(entry));
  return rows;
}

// --- Client ---------------------------------------------------------------------------------------

using ClientPtr = std::shared_ptr<Client>;

ClientPtr make_client(const std::string& endpoint, const std::string& name, bool background,
                      py::object find_bus, const std::string& bus_file) {
  Client::Options options;
  options.endpoint = endpoint;
  options.name = name;
  options.background = background;
  options.host = host_name();
  options.boot_id = boot_id();
  options.store = store_id();
  options.python = std::to_string(PY_MAJOR_VERSION) + "." + std::to_string(PY_MINOR_VERSION);
  options.pid = static_cast<std::uint32_t>(::getpid());
  options.peer = random_peer_id();
  options.proof = {random_peer_id().value, random_peer_id().value};
  if (!find_bus.is_none()) {
    options.find_bus = [find_bus = std::move(find_bus)]() -> std::string {
      const GilHold gil;
      try {
        const PyRef found(rest_if_ended([&] { return PyObject_CallNoArgs(find_bus.ptr()); }));
        if (!found) throw py::error_already_set();
        return py::handle(found.get()).cast<std::string>();
      } catch (py::error_already_set& error) {
        const auto text = py::str(error.value()).cast<std::string>();
        if (error.matches(py::module_::import("betterbox._bus").attr("BusEnded"))) throw BusEnded(text);
        throw std::runtime_error(text);
      }
    };
  }
  const GilRelease release;
  std::unique_ptr<Transport> transport;
  try {
    transport = make_transport(endpoint, bus_file);
  } catch (const std::runtime_error& error) {
    throw BusError(error.what());
  }
  return std::make_shared<Client>(std::move(transport), std::move(options));
}

/// Resources as Python writes them: cpus, memory, gpus, [(name, amount)]; thousandths and bytes.
using ResourceTuple = std::tuple<std::uint64_t, std::uint64_t, std::uint64_t,
                                 std::vector<std::pair<std::string, std::uint64_t>>>;

Resources resources_of(const ResourceTuple& tuple) {
  Resources resources{std::get<0>(tuple), std::get<1>(tuple), std::get<2>(tuple), {}};
  for (const auto& [name, milli] : std::get<3>(tuple)) resources.named.push_back({name, milli});
  return resources;
}

}  // namespace

Client::CallOptions call_options(int port, const std::string& method, const py::dict& given) {
  Client::CallOptions options;
  options.port = Port{static_cast<std::uint16_t>(port)};
  options.method = method;
  for (const auto& [key, value] : given) {
    const auto name = key.cast<std::string>();
    if (name == "retries")
      options.retries = value.cast<std::uint32_t>();
    else if (name == "idempotent")
      options.idempotent = value.cast<bool>();
    else if (name == "fold")
      options.fold = value.cast<bool>();
    else if (name == "window")
      options.windowed = value.cast<bool>();
    else if (name == "timeout")
      options.timeout = duration_of(value.cast<std::optional<double>>());
    else if (name == "name")
      options.name = value.cast<std::string>();
    else if (name == "policy")
      options.policy = value.cast<std::string>();
    else if (name == "priority")
      options.priority = value.cast<std::int32_t>();
    else if (name == "needs")
      options.needs = resources_of(value.cast<ResourceTuple>());
    else if (name == "values")
      for (const auto& [file, serial, bytes, store] :
           value.cast<std::vector<std::tuple<std::string, std::uint64_t, std::uint64_t, std::string>>>())
        options.values.push_back({{file, serial, bytes}, store});
    else if (name == "copies_permille")
      options.copies_permille = value.cast<std::uint32_t>();
    else
      throw py::type_error("a call has no option " + name);
  }
  return options;
}

namespace {

using BoxTuples = std::vector<std::tuple<std::uint64_t, std::uint32_t, std::uint32_t>>;

std::vector<BoxId> box_ids(const BoxTuples& boxes) {
  std::vector<BoxId> ids;
  ids.reserve(boxes.size());
  for (const auto& [agent, seat, life] : boxes) ids.push_back({PeerId{agent}, SeatId{seat}, life});
  return ids;
}

CallHandle box_call(const ClientPtr& self, const BoxTuples& boxes, const std::string& method,
                    const Arguments& arguments, std::optional<double> timeout) {
  std::vector<BoxId> ids = box_ids(boxes);
  Frame frame = arguments.page;
  const GilRelease release;
  return {self, self->box_call(ids, method, std::move(frame), duration_of(timeout))};
}

void broadcast(Client& self, const BoxTuples& boxes, const Arguments& arguments) {
  self.broadcast(box_ids(boxes), arguments.values);
}

void end_broadcast(Client& self, const Arguments& arguments) {
  for (const ValueId& value : arguments.values) self.drop(value.name);
}

CallHandle open_call(const ClientPtr& self, int port, const std::string& method, const py::bytes& context,
                     PageWriter& pages, bool closed, const SharedBuffers* shared, const py::kwargs& given) {
  Client::CallOptions options = call_options(port, method, given);
  EncodedItems items = pages.finish();
  Frame frame = frame_of(context);
  if (shared != nullptr) {
    frame = shared->attach(frame);
    // Where agents get them by themselves, they are not named: slots find them when they come to them.
    const ValueId value = shared->value();
    if (self->can_broadcast() && value.bytes >= kBroadcastMinBytes && options.values.size() < kMaxCallValues)
      options.values.push_back({value, store_id()});
  }
  const GilRelease release;
  return {self, self->open_call(options, std::move(frame), std::move(items), closed)};
}

std::uint64_t deploy(Client& self, int port, std::uint32_t slots, const std::string& name,
                     const py::bytes& payload, double timeout) {
  Frame frame = frame_of(payload);
  Client::DeployResult result;
  {
    const GilRelease release;
    result = self.deploy(Port{static_cast<std::uint16_t>(port)}, slots, name, std::move(frame),
                         monotonic_now() + Duration{static_cast<std::int64_t>(timeout * 1e9)}, check_signals);
  }
  if (result.ok) return result.serial;
  if (result.error_item.empty()) throw BusError("the boxes could not be deployed: " + result.error);
  PyObject* failure = decode_failure(result.error_item.bytes(), name, Port{static_cast<std::uint16_t>(port)});
  if (failure == nullptr) throw py::error_already_set();
  const py::object error = py::reinterpret_steal<py::object>(failure);
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(failure)), failure);
  throw py::error_already_set();
}

py::list wait_boxes(Client& self, int port, std::size_t count, py::object timeout) {
  const TimePoint deadline = deadline_after(std::move(timeout));
  std::vector<BoxEntry> entries;
  {
    const GilRelease release;
    entries = self.wait_boxes(Port{static_cast<std::uint16_t>(port)}, count, deadline, check_signals);
  }
  return rows_of(entries);
}

py::object first_box(Client& self, int port, py::object timeout) {
  const TimePoint deadline = deadline_after(std::move(timeout));
  std::optional<BoxEntry> entry;
  {
    const GilRelease release;
    entry = self.first_box(Port{static_cast<std::uint16_t>(port)}, deadline, check_signals);
  }
  return entry ? py::object(row_of(*entry)) : py::object(py::none());
}

py::list boxes(Client& self, int port) {
  std::vector<BoxEntry> entries;
  {
    const GilRelease release;
    entries = self.boxes(Port{static_cast<std::uint16_t>(port)});
  }
  return rows_of(entries);
}

bool wait_connected(Client& self, py::object timeout) {
  const TimePoint deadline = deadline_after(std::move(timeout));
  const GilRelease release;
  return self.wait_connected(deadline, check_signals);
}

py::dict status(Client& self, double timeout) {
  StatusReport report;
  {
    const GilRelease release;
    report = self.status(monotonic_now() + Duration{static_cast<std::int64_t>(timeout * 1e9)}, check_signals);
  }
  return to_dict(report);
}

void hold_value(Client& self, const std::string& name, std::uint64_t serial, std::uint64_t bytes,
                const std::string& store, const std::string& label, std::uint32_t replicas) {
  self.hold({{name, serial, bytes}, store, label, replicas});
}

/// (here, busy, error, hold)
py::tuple obtain_value(Client& self, const std::string& name, std::uint64_t serial, std::uint64_t bytes,
                       const std::string& store, py::object timeout) {
  const TimePoint deadline = deadline_after(std::move(timeout));
  Client::Obtained got;
  {
    const GilRelease release;
    got = self.obtain({name, serial, bytes}, store, deadline, check_signals);
  }
  py::object hold = py::none();
  if (got.hold) {
    hold = py::capsule(new std::shared_ptr<const void>(std::move(got.hold)),
                       [](void* held) { delete static_cast<std::shared_ptr<const void>*>(held); });
  }
  return py::make_tuple(got.here, got.busy, got.error, hold);
}

}  // namespace

void register_client(py::module_& module) {
  const auto no_gil = py::call_guard<GilRelease>();
  py::class_<Client, ClientPtr>(module, "Client", "This process's connection to a bus. Thread-safe.")
      .def(py::init(&make_client), py::arg("endpoint"), py::arg("name"), py::arg("background") = false,
           py::arg("find_bus") = py::none(), py::arg("bus_file") = "")
      .def_property_readonly("peer", [](const Client& self) { return self.peer().value; })
      .def("connected", &Client::connected, no_gil)
      .def("ended", &Client::ended, no_gil)
      .def("wait_connected", &wait_connected, py::arg("timeout"))
      .def("expendable", &Client::expendable, no_gil)
      .def_property_readonly("lanes", [](Client& self) { return self.lanes(); })
      .def("drive", &Client::drive, no_gil)
      .def("close", &Client::close, no_gil)
      .def(
          "watch", [](Client& self, int port) { self.watch(Port{static_cast<std::uint16_t>(port)}); },
          py::arg("port"), no_gil)
      .def(
          "unwatch", [](Client& self, int port) { self.unwatch(Port{static_cast<std::uint16_t>(port)}); },
          py::arg("port"), no_gil)
      .def("boxes", &boxes, py::arg("port"))
      .def("wait_boxes", &wait_boxes, py::arg("port"), py::arg("count"), py::arg("timeout"))
      .def("first_box", &first_box, py::arg("port"), py::arg("timeout"))
      .def(
          "near", [](Client& self, const BoxTuples& boxes) { return self.near(box_ids(boxes)); },
          py::arg("boxes"), "True if all of these boxes share their memory with this process.",
          py::call_guard<GilRelease>())
      .def_property_readonly("can_broadcast", &Client::can_broadcast)
      .def("broadcast", &broadcast, py::arg("boxes"), py::arg("arguments"), no_gil)
      .def("end_broadcast", &end_broadcast, py::arg("arguments"), no_gil)
      .def("box_call", &box_call, py::arg("boxes"), py::arg("method"), py::arg("arguments"),
           py::arg("timeout") = py::none())
      .def("open_call", &open_call, py::arg("port"), py::arg("method"), py::arg("context"), py::arg("pages"),
           py::arg("closed"), py::arg("shared"))
      .def("deploy", &deploy, py::arg("port"), py::arg("slots"), py::arg("name"), py::arg("payload"),
           py::arg("timeout"))
      .def("undeploy", &Client::undeploy, py::arg("serial"), no_gil)
      .def("hold", &hold_value, py::arg("name"), py::arg("serial"), py::arg("bytes"), py::arg("store"),
           py::arg("label"), py::arg("replicas"), no_gil)
      .def(
          "drop", [](Client& self, const std::string& name) { self.drop(name); }, py::arg("name"), no_gil)
      .def("obtain", &obtain_value, py::arg("name"), py::arg("serial"), py::arg("bytes"), py::arg("store"),
           py::arg("timeout"))
      .def("status", &status, py::arg("timeout"));
}

}  // namespace betterbox
