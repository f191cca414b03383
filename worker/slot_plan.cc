#include "worker/slot_plan.h"

#include "python/src/object_codec.h"

namespace betterbox {

void SlotPlan::load(PyObject* hooks, SlotSurroundings& process, std::span<const std::byte> context) {
  const PyRef bytes(PyBytes_FromStringAndSize(reinterpret_cast<const char*>(context.data()),
                                              static_cast<Py_ssize_t>(context.size())));
  may_be_ended_ = may_be_ended();
  surroundings_ = PyRef(PyObject_CallMethod(hooks, "surroundings_of", "O", bytes.get()));
  const bool settled = surroundings_ && process.enter(surroundings_.get(), monotonic_now());
  PyRef loaded(settled ? PyObject_CallMethod(hooks, "load_call", "O", bytes.get()) : nullptr);
  PyObject *callable = nullptr, *args = nullptr, *kwargs = nullptr, *places = nullptr, *fold = nullptr;
  int near = 0;
  if (!loaded || !PyArg_ParseTuple(loaded.get(), "OO!O!O!Op", &callable, &PyTuple_Type, &args, &PyDict_Type,
                                   &kwargs, &PyTuple_Type, &places, &fold, &near)) {
    const std::string error = encode_current_error();
    single_error_ = PyRef(PyBytes_FromStringAndSize(error.data(), static_cast<Py_ssize_t>(error.size())));
    return;
  }
  callable_ = PyRef::borrow(callable);
  args_ = PyRef::borrow(args);
  kwargs_ = PyRef::borrow(kwargs);
  places_ = PyRef::borrow(places);
  near_ = near != 0;
  submissions_ = PyTuple_GET_SIZE(places) == 0;
  if (fold != Py_None) fold_ = PyRef::borrow(fold);
  if (PyTuple_GET_SIZE(places) == 1 && PyLong_CheckExact(PyTuple_GET_ITEM(places, 0))) prepare_vectorcall();
}

/// One positional spread argument: an array of borrowed references with one place that changes.
void SlotPlan::prepare_vectorcall() {
  simple_place_ = static_cast<int>(PyLong_AsLong(PyTuple_GET_ITEM(places_.get(), 0)));
  const Py_ssize_t positional = PyTuple_GET_SIZE(args_.get());
  const Py_ssize_t keywords = PyDict_GET_SIZE(kwargs_.get());
  vector_.push_back(nullptr);  // for PY_VECTORCALL_ARGUMENTS_OFFSET
  for (Py_ssize_t i = 0; i < positional; ++i) vector_.push_back(PyTuple_GET_ITEM(args_.get(), i));
  if (keywords == 0) return;
  kwnames_ = PyRef(PyTuple_New(keywords));
  PyObject *key = nullptr, *value = nullptr;
  Py_ssize_t place = 0;
  for (Py_ssize_t at = 0; PyDict_Next(kwargs_.get(), &at, &key, &value);) {
    vector_.push_back(value);
    PyTuple_SET_ITEM(kwnames_.get(), place++, Py_NewRef(key));
  }
}

PyObject* SlotPlan::call_simple(PyObject* item) {
  const auto positional = static_cast<std::size_t>(PyTuple_GET_SIZE(args_.get()));
  vector_[1 + static_cast<std::size_t>(simple_place_)] = item;
  return run([&] {
    return PyObject_Vectorcall(callable_.get(), vector_.data() + 1,
                               positional | PY_VECTORCALL_ARGUMENTS_OFFSET, kwnames_.get());
  });
}

/// A submission: the item holds all arguments.
PyObject* SlotPlan::call_submitted(PyObject* item) {
  PyObject *args = nullptr, *kwargs = nullptr;
  if (!PyArg_ParseTuple(item, "O!O!", &PyTuple_Type, &args, &PyDict_Type, &kwargs)) return nullptr;
  return run(
      [&] { return PyObject_Call(callable_.get(), args, PyDict_GET_SIZE(kwargs) > 0 ? kwargs : nullptr); });
}

/// Spread arguments by keyword, or several of them (the item is then a tuple of them).
PyObject* SlotPlan::call_general(PyObject* item) {
  const Py_ssize_t places = PyTuple_GET_SIZE(places_.get());
  if (places == 0) return call_submitted(item);
  PyRef args(PySequence_List(args_.get()));
  PyRef kwargs(PyDict_Copy(kwargs_.get()));
  if (!args || !kwargs) return nullptr;
  for (Py_ssize_t i = 0; i < places; ++i) {
    PyObject* value = places == 1 ? item : PyTuple_GetItem(item, i);
    if (value == nullptr) return nullptr;
    PyObject* place = PyTuple_GET_ITEM(places_.get(), i);
    const int set = PyLong_CheckExact(place)
                        ? PyList_SetItem(args.get(), PyLong_AsSsize_t(place), Py_NewRef(value))
                        : PyDict_SetItem(kwargs.get(), place, value);
    if (set < 0) return nullptr;
  }
  PyRef tuple(PyList_AsTuple(args.get()));
  if (!tuple) return nullptr;
  return run([&] { return PyObject_Call(callable_.get(), tuple.get(), kwargs.get()); });
}

}  // namespace betterbox
