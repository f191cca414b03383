// Bindings of runtime/client.h: Client and Call as betterbox._core.pyi describes them.
#include <pybind11/functional.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <unistd.h>

#include <random>

#include "python/src/bindings.h"
#include "python/src/client_bindings.h"
#include "python/src/item_bindings.h"
#include "python/src/object_codec.h"
#include "python/src/py_ref.h"
#include "python/src/report_dicts.h"
#include "python/src/shared_buffers.h"
#include "runtime/bus_file.h"
#include "runtime/client.h"
#include "runtime/zmq_transport.h"

namespace py = pybind11;

namespace betterbox {
namespace {

constexpr std::int64_t kWaitAll = -1;
constexpr std::int64_t kWaitAny = -2;
constexpr std::int64_t kWaitLanded = -3;

PeerId random_peer_id() {
  std::random_device device;
  std::uint64_t id = 0;
  while (id == 0) id = (std::uint64_t{device()} << 32) | device();
  return PeerId{id};
}

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

// --- Call -----------------------------------------------------------------------------------------

/// What Python holds of a call. Shares the client, so that it outlives its users.
class CallHandle {
 public:
  CallHandle(std::shared_ptr<Client> client, CallPtr call)
      : client_(std::move(client)), call_(std::move(call)) {}
  CallHandle(CallHandle&&) = default;
  CallHandle& operator=(CallHandle&&) = default;
  ~CallHandle() {
    if (!call_ || keep_) return;
    if (PyGILState_Check() != 0) {
      py::gil_scoped_release release;
      client_->release(call_, false);
    } else {
      client_->release(call_, false);
    }
  }

  const CallState& state() const { return *call_; }  // constant fields only
  void keep() { keep_ = true; }

  Client::Progress progress() const {
    py::gil_scoped_release release;
    return client_->progress(call_);
  }
  py::object total() const {
    const auto now = progress();
    return now.closed ? py::object(py::int_(now.known)) : py::object(py::none());
  }
  void feed(PageWriter& pages, bool closed) {
    EncodedItems items = pages.finish();
    py::gil_scoped_release release;
    client_->feed(call_, std::move(items), closed);
  }
  void fail_feed(py::object error) {
    error_ = std::move(error);
    py::gil_scoped_release release;
    client_->feed(call_, {}, true);
  }
  std::uint64_t feed_room(double timeout) {
    const TimePoint deadline = monotonic_now() + Duration{static_cast<std::int64_t>(timeout * 1e9)};
    py::gil_scoped_release release;
    return client_->feed_room(call_, deadline);
  }
  void free_running(bool on) {
    py::gil_scoped_release release;
    client_->free_running(call_, on);
  }
  bool wait(std::int64_t until, py::object timeout) {
    const TimePoint deadline = deadline_after(std::move(timeout));
    bool met = false;
    {
      py::gil_scoped_release release;
      met = client_->wait(condition(until), deadline, check_signals);
    }
    const auto now = progress();
    if (!now.failure.empty() && now.settled < now.known) throw BusError(now.failure);
    return met;
  }
  /// wait(0) and get(0) with the GIL released once; None if it is not there in time.
  py::object answer(double timeout) {
    const TimePoint deadline = monotonic_now() + Duration{static_cast<std::int64_t>(timeout * 1e9)};
    std::optional<Outcome> outcome;
    {
      py::gil_scoped_release release;
      if (client_->wait(client_->settled_item(call_, 0), deadline, check_signals)) {
        outcome = client_->outcome(call_, 0, false);
      }
    }
    if (outcome) return decode(outcome->item);
    return wait(0, py::float_(0.0)) ? py::object(get(0, false)) : py::object(py::none());
  }
  bool cancel() {
    py::gil_scoped_release release;
    return client_->cancel(call_);
  }
  void notify() {
    py::gil_scoped_release release;
    client_->notify(call_);
  }
  py::tuple get(std::uint64_t index, bool take) {
    std::optional<Outcome> outcome;
    {
      py::gil_scoped_release release;
      outcome = client_->outcome(call_, index, take);
    }
    if (!outcome) {
      if (error_) return py::make_tuple(false, error_);
      throw py::index_error("item " + std::to_string(index) + " has no outcome");
    }
    return decode(outcome->item);
  }
  py::list values(std::uint64_t first, std::uint64_t limit, bool take) {
    std::vector<Client::Span> spans;
    {
      py::gil_scoped_release release;
      spans = client_->successes(call_, first, limit);
    }
    py::list result;
    for (const Client::Span& span : spans) {
      const py::list part = values_of(span);
      if (result.empty()) {
        result = part;
      } else if (PyList_SetSlice(result.ptr(), PY_SSIZE_T_MAX, PY_SSIZE_T_MAX, part.ptr()) < 0) {
        throw py::error_already_set();
      }
      if (part.size() < span.items.size()) break;
    }
    if (take) {
      const Range taken{first, first + result.size()};
      py::gil_scoped_release release;
      client_->take(call_, taken);
    }
    return result;
  }
  /// ([(index, value)], arrivals, items, failed index or None): see Client::landed.
  py::tuple landed(std::uint64_t arrivals, std::uint64_t items, std::uint64_t limit, bool take) {
    Client::Landing at{arrivals, items};
    std::optional<std::uint64_t> failed;
    std::vector<Client::Span> spans;
    {
      py::gil_scoped_release release;
      spans = client_->landed(call_, at, limit, failed);
    }
    py::list pairs;
    std::size_t count = 0;
    for (const Client::Span& span : spans) {
      const py::list part = values_of(span);
      count += part.size();
      for (std::size_t i = 0; i < part.size(); ++i) {
        PyObject* value = PyList_GET_ITEM(part.ptr(), static_cast<Py_ssize_t>(i));
        const auto pair = py::reinterpret_steal<py::object>(
            Py_BuildValue("(KO)", static_cast<unsigned long long>(span.items.begin + i), value));
        if (!pair || PyList_Append(pairs.ptr(), pair.ptr()) < 0) throw py::error_already_set();
      }
      // One that cannot be loaded ends the round; who comes back to it hears why.
      if (part.size() == span.items.size()) continue;
      if (pairs.empty()) failed = span.items.begin;
      at = {arrivals, items};
      std::optional<std::uint64_t> none;
      py::gil_scoped_release release;
      spans = client_->landed(call_, at, std::max<std::size_t>(1, count), none);
      if (failed) spans.clear();
      break;
    }
    if (take) {
      py::gil_scoped_release release;
      for (const Client::Span& span : spans) client_->take(call_, span.items);
    }
    return py::make_tuple(pairs, at.arrivals, at.items, failed);
  }
  py::list results(bool with_exceptions) {
    const auto spans = all_spans();
    std::uint64_t total = 0;
    for (const auto& span : spans) total += span.count;
    PyObject* list = PyList_New(static_cast<Py_ssize_t>(total));
    if (list == nullptr) throw py::error_already_set();
    // Nobody else sees the list before it is full, but for the garbage collector, which takes empty places.
    auto values = py::reinterpret_steal<py::list>(list);
    Py_ssize_t at = 0;
    for (const auto& span : spans) {
      const bool each = span.view.count() == span.count;
      if (each && span.view.kind() == PageKind::kColumn) {
        if (!decode_column(span.view, 0, span.count, list, at)) throw py::error_already_set();
        at += static_cast<Py_ssize_t>(span.count);
        continue;
      }
      for (std::uint64_t i = 0; i < span.count; ++i) {
        PyList_SET_ITEM(list, at++, value_or_raise(span.view.item(each ? i : 0), with_exceptions));
      }
    }
    if (error_) {
      if (!with_exceptions) raise(error_);
      values.append(error_);
    }
    return values;
  }
  py::list folds() {
    py::list values;
    for (const auto& span : all_spans()) {
      const py::tuple part = decode(span.view.item(0));
      if (!part[0].cast<bool>()) raise(part[1]);
      values.append(part[1]);
    }
    if (error_) raise(error_);
    return values;
  }
  py::object first_success() {
    std::optional<std::uint64_t> index;
    {
      py::gil_scoped_release release;
      index = client_->first_success(call_);
    }
    return index ? py::object(py::int_(*index)) : py::object(py::none());
  }
  py::dict explain(double timeout) {
    const TimePoint deadline = monotonic_now() + Duration{static_cast<std::int64_t>(timeout * 1e9)};
    CallStats stats;
    {
      py::gil_scoped_release release;
      stats = client_->explain(call_, deadline, check_signals);
    }
    return to_dict(stats);
  }

 private:
  Client::Condition condition(std::int64_t until) {
    switch (until) {
      case kWaitAll: return client_->over(call_);
      case kWaitAny: return client_->any_success(call_);
      default: break;
    }
    if (until >= 0) return client_->settled_item(call_, static_cast<std::uint64_t>(until));
    return client_->more_landed(call_, static_cast<std::uint64_t>(kWaitLanded - until));
  }
  /// Values up to the first that cannot be loaded: whoever asks for that one gets the error.
  static py::list values_of(const Client::Span& span) {
    const auto size = static_cast<Py_ssize_t>(span.items.size());
    if (span.is_column()) {
      auto values = py::reinterpret_steal<py::list>(PyList_New(size));
      if (!values) throw py::error_already_set();
      if (decode_column(span.view, span.place, span.place + span.items.size(), values.ptr(), 0))
        return values;
      PyErr_Clear();
      return py::list();
    }
    py::list values;
    for (std::uint64_t i = 0; i < span.items.size(); ++i) {
      PyRef value(decode_item(span.item(i)));
      if (!value) {
        PyErr_Clear();
        break;
      }
      if (PyList_Append(values.ptr(), value.get()) < 0) throw py::error_already_set();
    }
    return values;
  }
  std::vector<Client::ResultSpan> all_spans() {
    py::gil_scoped_release release;
    auto spans = client_->result_spans(call_);
    const auto now = client_->progress(call_);
    if (now.cancelled) {
      spans.clear();
      if (const auto outcome = client_->outcome(call_, now.known, false)) {
        spans.push_back({0, std::max<std::uint64_t>(1, now.known), outcome->page,
                         *PageView::parse(outcome->page.bytes())});
      }
    }
    return spans;
  }
  /// A new reference to an item's value; of one that failed: raises, or the exception.
  PyObject* value_or_raise(ItemBytes item, bool with_exceptions) const {
    if (!is_failure(item)) {
      PyObject* value = decode_item(item);
      if (value != nullptr) return value;
      if (!with_exceptions) throw py::error_already_set();
      return current_exception().release().ptr();
    }
    py::object failure = decode(item)[1];
    if (!with_exceptions) raise(failure);
    return failure.release().ptr();
  }
  static py::object current_exception() {
    PyObject *type = nullptr, *value = nullptr, *traceback = nullptr;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    Py_XDECREF(type), Py_XDECREF(traceback);
    return py::reinterpret_steal<py::object>(value);
  }
  [[noreturn]] static void raise(py::handle error) {
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.ptr())), error.ptr());
    throw py::error_already_set();
  }
  /// (True, value) or (False, exception). A value that cannot be loaded here is an exception, too.
  py::tuple decode(ItemBytes item) const {
    if (is_failure(item)) {
      PyObject* failure = decode_failure(item, call_->method, call_->port);
      if (failure == nullptr) return py::make_tuple(false, current_exception());
      return py::make_tuple(false, py::reinterpret_steal<py::object>(failure));
    }
    PyObject* value = decode_item(item);
    if (value == nullptr) return py::make_tuple(false, current_exception());
    return py::make_tuple(true, py::reinterpret_steal<py::object>(value));
  }

  std::shared_ptr<Client> client_;
  CallPtr call_;
  py::object error_;  ///< what the generator raised
  bool keep_ = false;
};

// --- Client ---------------------------------------------------------------------------------------

using ClientPtr = std::shared_ptr<Client>;

ClientPtr make_client(const std::string& endpoint, const std::string& name, bool background,
                      py::object find_bus) {
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
  if (!find_bus.is_none()) {
    options.find_bus = [find_bus = std::move(find_bus)]() -> std::string {
      py::gil_scoped_acquire gil;
      try {
        return find_bus().cast<std::string>();
      } catch (py::error_already_set& error) {
        throw std::runtime_error(py::str(error.value()).cast<std::string>());
      }
    };
  }
  py::gil_scoped_release release;
  return std::make_shared<Client>(std::make_unique<ZmqTransport>(), std::move(options));
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
  py::gil_scoped_release release;
  return {self, self->box_call(ids, method, std::move(frame), duration_of(timeout))};
}

CallHandle open_call(const ClientPtr& self, int port, const std::string& method, const py::bytes& context,
                     PageWriter& pages, bool closed, const SharedBuffers* shared, const py::kwargs& given) {
  const Client::CallOptions options = call_options(port, method, given);
  EncodedItems items = pages.finish();
  Frame frame = frame_of(context);
  if (shared != nullptr) frame = shared->attach(frame);
  py::gil_scoped_release release;
  return {self, self->open_call(options, std::move(frame), std::move(items), closed)};
}

std::uint64_t deploy(Client& self, int port, std::uint32_t slots, const std::string& name,
                     const py::bytes& payload, double timeout) {
  Frame frame = frame_of(payload);
  Client::DeployResult result;
  {
    py::gil_scoped_release release;
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
    py::gil_scoped_release release;
    entries = self.wait_boxes(Port{static_cast<std::uint16_t>(port)}, count, deadline, check_signals);
  }
  return rows_of(entries);
}

py::object first_box(Client& self, int port, py::object timeout) {
  const TimePoint deadline = deadline_after(std::move(timeout));
  std::optional<BoxEntry> entry;
  {
    py::gil_scoped_release release;
    entry = self.first_box(Port{static_cast<std::uint16_t>(port)}, deadline, check_signals);
  }
  return entry ? py::object(row_of(*entry)) : py::object(py::none());
}

py::list boxes(Client& self, int port) {
  std::vector<BoxEntry> entries;
  {
    py::gil_scoped_release release;
    entries = self.boxes(Port{static_cast<std::uint16_t>(port)});
  }
  return rows_of(entries);
}

py::dict status(Client& self, double timeout) {
  StatusReport report;
  {
    py::gil_scoped_release release;
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
    py::gil_scoped_release release;
    got = self.obtain({name, serial, bytes}, store, deadline, check_signals);
  }
  py::object hold = py::none();
  if (got.hold) {
    hold = py::capsule(new std::shared_ptr<const void>(std::move(got.hold)),
                       [](void* held) { delete static_cast<std::shared_ptr<const void>*>(held); });
  }
  return py::make_tuple(got.here, got.busy, got.error, hold);
}

void register_call(py::module_& module) {
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
      .def("notify", &CallHandle::notify)
      .def("keep", &CallHandle::keep)
      .def("explain", &CallHandle::explain, py::arg("timeout"));
}

}  // namespace

void register_client(py::module_& module) {
  module.attr("ALL") = kWaitAll;
  module.attr("ANY") = kWaitAny;
  module.attr("LANDED") = kWaitLanded;
  register_call(module);
  const auto no_gil = py::call_guard<py::gil_scoped_release>();
  py::class_<Client, ClientPtr>(module, "Client", "This process's connection to a bus. Thread-safe.")
      .def(py::init(&make_client), py::arg("endpoint"), py::arg("name"), py::arg("background") = false,
           py::arg("find_bus") = py::none())
      .def_property_readonly("peer", [](const Client& self) { return self.peer().value; })
      .def("connected", &Client::connected, no_gil)
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
          py::call_guard<py::gil_scoped_release>())
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
