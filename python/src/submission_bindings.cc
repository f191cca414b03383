// Submitter and Submission: single submissions without Python frames or a wrapper object per call. Plain C types:
// one is made per submission, and pybind11's bookkeeping would cost more than all the rest.
//
// A Submitter stands for one function as it was when it was made. `submit` looks whether everything that its context
// was made of is still the same, and gives None if not, or if another way is needed: the caller then takes the long way.
#include <Python.h>
#include "python/src/text_caster.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <new>

#include "python/src/bindings.h"
#include "python/src/client_bindings.h"
#include "python/src/object_codec.h"
#include "python/src/process_state.h"
#include "python/src/raised_error.h"
#include "python/src/report_dicts.h"
#include "runtime/client.h"

namespace py = pybind11;

namespace betterbox {
namespace {

using ClientPtr = std::shared_ptr<Client>;

// --- what a context was made of -----------------------------------------------------------------------

/// The parts of a function that its pickle is made of. All are compared by identity, and are either immutable or must be
/// absent; of annotations, their number too: each is watched by its name (see `_submissions.watched`).
struct FunctionState {
  PyRef function;
  std::vector<PyRef> parts;
  Py_ssize_t annotations;

  static std::vector<PyObject*> parts_of(PyObject* object) {
    const auto* f = reinterpret_cast<PyFunctionObject*>(object);
    return {f->func_code, f->func_defaults,    f->func_kwdefaults, f->func_closure, f->func_doc,
            f->func_name, f->func_annotations, f->func_module,     f->func_qualname};
  }
  /// A function that was asked for its annotations keeps them in a dict.
  static Py_ssize_t count_annotations(const PyFunctionObject* f) {
    return f->func_annotations != nullptr && PyDict_Check(f->func_annotations)
               ? PyDict_GET_SIZE(f->func_annotations)
               : 0;
  }
  explicit FunctionState(PyObject* object)
      : function(PyRef::borrow(object)),
        annotations(count_annotations(reinterpret_cast<PyFunctionObject*>(object))) {
    for (PyObject* part : parts_of(object)) parts.push_back(PyRef::borrow(part));
  }
  bool same() const {
    const auto* f = reinterpret_cast<PyFunctionObject*>(function.get());
    return f->func_code == parts[0].get() && f->func_defaults == parts[1].get() &&
           f->func_kwdefaults == parts[2].get() && f->func_closure == parts[3].get() &&
           f->func_doc == parts[4].get() && f->func_name == parts[5].get() &&
           f->func_annotations == parts[6].get() && f->func_module == parts[7].get() &&
           f->func_qualname == parts[8].get() && count_annotations(f) == annotations &&
           (f->func_dict == nullptr || PyDict_GET_SIZE(f->func_dict) == 0);
  }
};

/// A name in a dict, and what it stood for (null: it was not there).
struct WatchedName {
  PyRef dict, name, value;
  bool same() const { return PyDict_GetItemWithError(dict.get(), name.get()) == value.get(); }
};

/// Between two looks at what `_surroundings.changed` looks at, and ProcessState does not.
constexpr Duration kLookInterval = milliseconds(10);

/// What a context carries of this process, and says which bus is current.
struct Surroundings {
  ProcessState process;
  PyRef modules, changed;
  Py_ssize_t module_count = 0;
  TimePoint look_at{};

  void note() {
    process.note();
    modules = PyRef::borrow(PyImport_GetModuleDict());
    module_count = PyDict_Size(modules.get());
    PyRef module(PyImport_ImportModule("betterbox._surroundings"));
    changed = PyRef(module ? PyObject_GetAttrString(module.get(), "changed") : nullptr);
    PyErr_Clear();
    look_at = monotonic_now() + kLookInterval;
  }
  bool same(TimePoint now) {
    if (PyDict_Size(modules.get()) != module_count || !process.same()) return false;
    if (now < look_at) return true;
    look_at = now + kLookInterval;
    PyRef answer(changed ? PyObject_CallNoArgs(changed.get()) : nullptr);
    if (!answer) PyErr_Clear();
    return answer.get() == Py_False;
  }
};

// --- the types ----------------------------------------------------------------------------------------

struct SubmitterObject {
  PyObject_HEAD struct Body {
    ClientPtr client;
    Client::Template common;
    PyRef type;  // of what submit gives
    Surroundings surroundings;
    std::vector<FunctionState> functions;
    std::vector<WatchedName> names;
    TimePoint until{};
    std::string item;

    bool same() {
      for (const FunctionState& function : functions)
        if (!function.same()) return false;
      for (const WatchedName& name : names)
        if (!name.same()) return false;
      const TimePoint now = monotonic_now();
      return now < until && surroundings.same(now);
    }
  };
  Body* body;
};

struct SubmissionObject {
  PyObject_HEAD ClientPtr client;
  Submission submission;
  bool light;  ///< its outcome is known to be small: it may stay with its neighbours'
};

bool is_light(const Outcome& outcome) {
  return outcome.page.size() < kPageBytes && !PageView::may_refer(outcome.page.bytes());
}

SubmissionObject* as_submission(PyObject* self) { return reinterpret_cast<SubmissionObject*>(self); }

PyObject* make_submission(PyObject* type, const ClientPtr& client, Submission&& submission) {
  PyObject* object =
      reinterpret_cast<PyTypeObject*>(type)->tp_alloc(reinterpret_cast<PyTypeObject*>(type), 0);
  if (object == nullptr) return nullptr;
  new (&as_submission(object)->client) ClientPtr(client);
  new (&as_submission(object)->submission) Submission(std::move(submission));
  return object;
}

void submission_dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  if (PyType_IS_GC(type)) PyObject_GC_UnTrack(self);
  // With the GIL: nobody who has the client's mutex wants it.
  if (!as_submission(self)->light) as_submission(self)->client->release(as_submission(self)->submission);
  as_submission(self)->client.~ClientPtr();
  as_submission(self)->submission.~Submission();
  type->tp_free(self);
  Py_DECREF(type);
}

/// Runs `body`; what C++ throws becomes the Python error.
template <class Body> PyObject* guarded(Body body) {
  try {
    return body();
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const BusError& error) {
    set_own_error("BusError", error);
  } catch (const NestingError& error) {
    set_own_error("NestingError", error);
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

PyObject* decoded(SubmissionObject* self, const Outcome& outcome, bool& failed) {
  failed = is_failure(outcome.item);
  self->light = is_light(outcome);
  const CallState& stream = *self->submission.block->stream;
  return failed ? decode_failure(outcome.item, stream.method, stream.port) : decode_item(outcome.item);
}

PyObject* submission_value(PyObject* self, PyObject* missing) {
  auto* object = as_submission(self);
  const auto outcome = object->client->try_outcome(object->submission);
  if (!outcome || is_failure(outcome->item)) return Py_NewRef(missing);
  object->light = is_light(*outcome);
  PyObject* value = decode_item(outcome->item);
  if (value == nullptr) {  // get() tells what it is
    PyErr_Clear();
    return Py_NewRef(missing);
  }
  return value;
}

std::optional<Outcome> outcome_of(SubmissionObject* object) {
  const GilRelease release;
  return object->client->outcome(object->submission);
}

PyObject* got(SubmissionObject* object, PyObject* index) {
  const auto outcome = outcome_of(object);
  const long item = PyLong_AsLong(index);
  if (item == -1 && PyErr_Occurred() != nullptr) return nullptr;
  if (!outcome || item != 0) {
    PyErr_SetString(PyExc_IndexError, "no such item has an outcome");
    return nullptr;
  }
  bool failed = false;
  PyRef value(decoded(object, *outcome, failed));
  if (!value) {
    value = take_raised_error();
    failed = true;
  }
  return PyTuple_Pack(2, failed ? Py_False : Py_True, value.get());
}

PyObject* submission_get(PyObject* self, PyObject* index) {
  return guarded([&] { return got(as_submission(self), index); });
}

PyObject* submission_wait(PyObject* self, PyObject* const* args, Py_ssize_t count) {
  return guarded([&]() -> PyObject* {
    if (count != 2) return PyErr_SetString(PyExc_TypeError, "wait takes until and timeout"), nullptr;
    const TimePoint deadline = deadline_after(py::reinterpret_borrow<py::object>(args[1]));
    auto* object = as_submission(self);
    bool met = false;
    {
      const GilRelease release;
      met = object->client->wait(object->client->settled(object->submission), deadline, check_signals,
                                 {object->submission.block->stream, false, true});
    }
    return Py_NewRef(met ? Py_True : Py_False);
  });
}

PyObject* submission_done(PyObject* self, PyObject*) {
  return guarded([&] { return Py_NewRef(outcome_of(as_submission(self)) ? Py_True : Py_False); });
}

PyObject* submission_cancelled(PyObject* self, PyObject*) {
  return guarded([&] {
    bool yes = false;
    {
      const GilRelease release;
      yes = as_submission(self)->client->cancelled(as_submission(self)->submission);
    }
    return Py_NewRef(yes ? Py_True : Py_False);
  });
}

PyObject* submission_cancel(PyObject* self, PyObject*) {
  return guarded([&] {
    bool yes = false;
    {
      const GilRelease release;
      yes = as_submission(self)->client->cancel(as_submission(self)->submission);
    }
    return Py_NewRef(yes ? Py_True : Py_False);
  });
}

PyObject* submission_notify(PyObject* self, PyObject*) {
  return guarded([&] {
    auto* object = as_submission(self);
    if (!object->client->try_notify(object->submission)) {
      const GilRelease release;
      object->client->notify(object->submission);
    }
    return Py_NewRef(Py_None);
  });
}

PyObject* submission_explain(PyObject* self, PyObject* timeout) {
  return guarded([&]() -> PyObject* {
    const TimePoint deadline = deadline_after(py::reinterpret_borrow<py::object>(timeout));
    auto* object = as_submission(self);
    CallStats stats;
    {
      const GilRelease release;
      stats = object->client->explain(object->submission.block->stream, deadline, check_signals);
    }
    return to_dict(stats).release().ptr();
  });
}

PyObject* submission_token(PyObject* self, void*) {
  return PyLong_FromUnsignedLongLong(as_submission(self)->submission.token());
}

PyObject* submission_method(PyObject* self, void*) {
  const std::string& method = as_submission(self)->submission.block->stream->method;
  return PyUnicode_FromStringAndSize(method.data(), static_cast<Py_ssize_t>(method.size()));
}

bool encode(PyObject* args, PyObject* kwargs, std::string& item, LargeBuffers* large) {
  if (encode_simple_arguments(args, kwargs, item)) return true;
  item.clear();
  PyRef both(PyTuple_Pack(2, args, kwargs));
  return both && encode_item(both.get(), "args|kwargs", item, large);
}

bool is_arguments(PyObject* const* args, Py_ssize_t count) {
  if (count == 2 && PyTuple_CheckExact(args[0]) && PyDict_CheckExact(args[1])) return true;
  PyErr_SetString(PyExc_TypeError, "submit takes a tuple and a dict");
  return false;
}

/// submit(args, kwargs): the quick way, or None.
PyObject* submitter_submit(PyObject* self, PyObject* const* args, Py_ssize_t count) {
  if (!is_arguments(args, count)) return nullptr;
  auto& body = *reinterpret_cast<SubmitterObject*>(self)->body;
  // Large integers are pickled, which may let another thread in: it finds an empty buffer.
  std::string buffer = std::exchange(body.item, {});
  buffer.clear();
  const bool quick = encode_simple_arguments(args[0], args[1], buffer) && body.same();
  body.item = std::move(buffer);
  if (!quick) Py_RETURN_NONE;
  return guarded([&]() -> PyObject* {
    const auto item = std::as_bytes(std::span(body.item));
    auto submission = body.client->try_submit(body.common, item);
    if (!submission) return Py_NewRef(Py_None);
    return make_submission(body.type.get(), body.client, std::move(*submission));
  });
}

/// submit_now(args, kwargs): any arguments, and no questions asked.
PyObject* submitter_submit_now(PyObject* self, PyObject* const* args, Py_ssize_t count) {
  if (!is_arguments(args, count)) return nullptr;
  auto& body = *reinterpret_cast<SubmitterObject*>(self)->body;
  std::string item;  // not the body's: pickling may let another thread in
  KeptBuffers large;
  if (!encode(args[0], args[1], item, &large)) return nullptr;
  return guarded([&]() -> PyObject* {
    Submission submission;
    {
      const GilRelease release;
      submission = body.client->submit(body.common, std::as_bytes(std::span(item)), large.hold());
    }
    return make_submission(body.type.get(), body.client, std::move(submission));
  });
}

/// watch(functions, names, seconds): what must stay the same, for how long at most, for `submit` to take the quick way.
PyObject* submitter_watch(PyObject* self, PyObject* args) {
  PyObject *functions = nullptr, *names = nullptr;
  double seconds = 0;
  if (!PyArg_ParseTuple(args, "O!O!d", &PyList_Type, &functions, &PyList_Type, &names, &seconds))
    return nullptr;
  auto& body = *reinterpret_cast<SubmitterObject*>(self)->body;
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(functions); ++i) {
    PyObject* function = PyList_GET_ITEM(functions, i);
    if (!PyFunction_Check(function)) return PyErr_SetString(PyExc_TypeError, "a function"), nullptr;
    body.functions.emplace_back(function);
  }
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(names); ++i) {
    PyObject *dict = nullptr, *name = nullptr, *value = nullptr;
    if (!PyArg_ParseTuple(PyList_GET_ITEM(names, i), "O!U|O", &PyDict_Type, &dict, &name, &value))
      return nullptr;
    body.names.push_back({PyRef::borrow(dict), PyRef::borrow(name), PyRef::borrow(value)});
  }
  body.surroundings.note();
  body.until = monotonic_now() + Duration{static_cast<std::int64_t>(seconds * 1e9)};
  Py_RETURN_NONE;
}

void submitter_dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  delete reinterpret_cast<SubmitterObject*>(self)->body;
  type->tp_free(self);
  Py_DECREF(type);
}

template <class F> PyCFunction c_function(F* function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

PyMethodDef submission_methods[] = {
    {"value", submission_value, METH_O, "The value if it is there, else the argument."},
    {"get", submission_get, METH_O, "As of a Call."},
    {"wait", c_function(submission_wait), METH_FASTCALL, "As of a Call."},
    {"done", submission_done, METH_NOARGS, "As of a Call."},
    {"cancelled", submission_cancelled, METH_NOARGS, "As of a Call."},
    {"cancel", submission_cancel, METH_NOARGS, "As of a Call."},
    {"notify", submission_notify, METH_NOARGS, "As of a Call."},
    {"explain", submission_explain, METH_O, "As of a Call."},
    {nullptr, nullptr, 0, nullptr}};

PyGetSetDef submission_fields[] = {{"token", submission_token, nullptr, "As of a Call.", nullptr},
                                   {"method", submission_method, nullptr, "As of a Call.", nullptr},
                                   {nullptr, nullptr, nullptr, nullptr, nullptr}};

PyType_Slot submission_slots[] = {{Py_tp_dealloc, reinterpret_cast<void*>(submission_dealloc)},
                                  {Py_tp_methods, submission_methods},
                                  {Py_tp_getset, submission_fields},
                                  {0, nullptr}};
PyType_Spec submission_spec{"betterbox._core.Submission", sizeof(SubmissionObject), 0,
                            Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
                            submission_slots};

PyMethodDef submitter_methods[] = {
    {"submit", c_function(submitter_submit), METH_FASTCALL, "The quick way, or None."},
    {"submit_now", c_function(submitter_submit_now), METH_FASTCALL, "Any arguments."},
    {"watch", submitter_watch, METH_VARARGS, "What must stay the same for the quick way."},
    {nullptr, nullptr, 0, nullptr}};

PyType_Slot submitter_slots[] = {{Py_tp_dealloc, reinterpret_cast<void*>(submitter_dealloc)},
                                 {Py_tp_methods, submitter_methods},
                                 {0, nullptr}};
PyType_Spec submitter_spec{"betterbox._core.Submitter", sizeof(SubmitterObject), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, submitter_slots};

PyTypeObject* submitter_type = nullptr;
PyTypeObject* submission_type = nullptr;

py::object make_submitter(const ClientPtr& client, const py::type& type, const std::string& method,
                          const py::bytes& context, const py::kwargs& given) {
  auto body = std::unique_ptr<SubmitterObject::Body>(
      new SubmitterObject::Body{client,
                                Client::Template(call_options(0, method, given), Frame(std::string(context))),
                                PyRef::borrow(type.ptr()),
                                {},
                                {},
                                {},
                                {},
                                {}});
  PyObject* object = submitter_type->tp_alloc(submitter_type, 0);
  if (object == nullptr) throw py::error_already_set();
  reinterpret_cast<SubmitterObject*>(object)->body = body.release();
  return py::reinterpret_steal<py::object>(object);
}

/// Which of these Submissions of one client have begun (Client::begun).
std::vector<bool> begun(const ClientPtr& client, const py::list& submissions, bool withdraw, double timeout) {
  std::vector<Submission> all;
  all.reserve(submissions.size());
  for (const py::handle& each : submissions) {
    if (PyObject_TypeCheck(each.ptr(), submission_type) == 0) throw py::type_error("a Submission is needed");
    all.push_back(as_submission(each.ptr())->submission);
  }
  const TimePoint deadline = monotonic_now() + Duration{static_cast<std::int64_t>(timeout * 1e9)};
  const GilRelease release;
  return client->begun(all, withdraw, deadline, check_signals);
}

}  // namespace

void register_submissions(py::module_& module) {
  PyObject* submission = PyType_FromSpec(&submission_spec);
  submitter_type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&submitter_spec));
  if (submission == nullptr || submitter_type == nullptr) throw py::error_already_set();
  module.attr("Submission") = py::reinterpret_steal<py::object>(submission);
  module.attr("Submitter") = py::reinterpret_borrow<py::object>(reinterpret_cast<PyObject*>(submitter_type));
  submission_type = reinterpret_cast<PyTypeObject*>(submission);
  module.def("begun", &begun, py::arg("client"), py::arg("submissions"), py::arg("withdraw"),
             py::arg("timeout"));
  module.def("make_submitter", &make_submitter, py::arg("client"), py::arg("type"), py::arg("method"),
             py::arg("context"));
}

}  // namespace betterbox
