#include "python/src/process_state.h"

#include <unistd.h>

#include <climits>

namespace betterbox {

#if PY_VERSION_HEX < 0x030C0000

void DictState::note(PyObject* dict) {
  dict_ = PyRef::borrow(dict);
  version_ = dict != nullptr ? reinterpret_cast<PyDictObject*>(dict)->ma_version_tag : 0;
}

bool DictState::same() const {
  return dict_ && reinterpret_cast<PyDictObject*>(dict_.get())->ma_version_tag == version_;
}

#else

void DictState::note(PyObject* dict) {
  dict_ = PyRef::borrow(dict);
  entries_.clear();
  PyObject *key = nullptr, *value = nullptr;
  for (Py_ssize_t at = 0; dict != nullptr && PyDict_Next(dict, &at, &key, &value);)
    entries_.emplace_back(PyRef::borrow(key), PyRef::borrow(value));
}

bool DictState::same() const {
  if (!dict_ || PyDict_GET_SIZE(dict_.get()) != static_cast<Py_ssize_t>(entries_.size())) return false;
  PyObject *key = nullptr, *value = nullptr;
  auto entry = entries_.begin();
  for (Py_ssize_t at = 0; PyDict_Next(dict_.get(), &at, &key, &value); ++entry) {
    if (entry->first.get() != key || entry->second.get() != value) return false;
  }
  return true;
}

#endif

void ProcessState::note() {
  PyRef os(PyImport_ImportModule("os"));
  PyRef environ(os ? PyObject_GetAttrString(os.get(), "environ") : nullptr);
  PyRef data(environ ? PyObject_GetAttrString(environ.get(), "_data") : nullptr);
  PyErr_Clear();
  environ_.note(data && PyDict_CheckExact(data.get()) ? data.get() : nullptr);
  path_.clear();
  PyObject* path = PySys_GetObject("path");
  for (Py_ssize_t i = 0; path != nullptr && PyList_CheckExact(path) && i < PyList_GET_SIZE(path); ++i)
    path_.push_back(PyRef::borrow(PyList_GET_ITEM(path, i)));
  folder_ = folder();
}

bool ProcessState::same_path() const {
  PyObject* path = PySys_GetObject("path");
  if (path == nullptr || !PyList_CheckExact(path)) return false;
  if (PyList_GET_SIZE(path) != static_cast<Py_ssize_t>(path_.size())) return false;
  for (std::size_t i = 0; i < path_.size(); ++i) {
    if (PyList_GET_ITEM(path, static_cast<Py_ssize_t>(i)) != path_[i].get()) return false;
  }
  return true;
}

std::string ProcessState::folder() {
  char folder[PATH_MAX];
  return ::getcwd(folder, sizeof folder) != nullptr ? folder : "";
}

}  // namespace betterbox
