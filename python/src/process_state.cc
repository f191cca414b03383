#include "python/src/process_state.h"

#include <pybind11/pybind11.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <utility>

#include "python/src/bindings.h"

namespace py = pybind11;

namespace betterbox {
namespace {

/// How OpenMP's runtime of LLVM and Intel notes that it was loaded into this process, with the process's id: nobody else's.
constexpr std::string_view kOfThisProcess = "__KMP_REGISTERED_LIB_";

/// NAME of NAME=VALUE; empty: no variable that is anybody's.
std::string_view name_of(std::string_view entry) {
  const std::string_view name = entry.substr(0, std::min(entry.find('='), entry.size()));
  return name.size() == entry.size() || name.starts_with(kOfThisProcess) ? std::string_view() : name;
}

/// A dict of bytes, the same one until something changes: not to be changed.
PyObject* read_environ() {
  static auto* state = new EnvironState();
  static PyObject* made = nullptr;
  if (made != nullptr && state->same()) return Py_NewRef(made);
  PyRef dict(PyDict_New());
  for (char** entry = environ; dict && entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view name = name_of(*entry);
    if (name.empty()) continue;
    PyRef key(PyBytes_FromStringAndSize(name.data(), static_cast<Py_ssize_t>(name.size())));
    PyRef value(PyBytes_FromString(*entry + name.size() + 1));
    if (!key || !value || PyDict_SetDefault(dict.get(), key.get(), value.get()) == nullptr) return nullptr;
  }
  if (!dict) return nullptr;
  state->note();
  PyRef before(std::exchange(made, dict.release()));
  return Py_NewRef(made);
}

/// Makes the environment what `wanted` says, a dict of bytes.
void write_environ(const py::dict& wanted) {
  std::vector<std::string> gone;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view name = name_of(*entry);
    if (!name.empty() && !wanted.contains(py::bytes(name.data(), name.size()))) gone.emplace_back(name);
  }
  for (const std::string& name : gone) ::unsetenv(name.c_str());
  for (const auto& [key, value] : wanted) {
    const std::string name = key.cast<py::bytes>(), text = value.cast<py::bytes>();
    const char* there = std::getenv(name.c_str());
    if (there == nullptr || text != there) ::setenv(name.c_str(), text.c_str(), 1);
  }
}

}  // namespace

void EnvironState::note() {
  entries_.clear();
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) entries_.push_back(*entry);
}

bool EnvironState::same() const {
  std::size_t place = 0;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry, ++place) {
    if (place == entries_.size() || entries_[place] != *entry) return false;
  }
  return place == entries_.size();
}

void ProcessState::note() {
  environ_.note();
  PyRef os(PyImport_ImportModule("os"));
  names_ = PyRef::borrow(os ? PyModule_GetDict(os.get()) : nullptr);
  mapping_ = PyRef::borrow(names_ ? PyDict_GetItemString(names_.get(), "environ") : nullptr);
  PyErr_Clear();
  path_.clear();
  PyObject* path = PySys_GetObject("path");
  for (Py_ssize_t i = 0; path != nullptr && PyList_CheckExact(path) && i < PyList_GET_SIZE(path); ++i)
    path_.push_back(PyRef::borrow(PyList_GET_ITEM(path, i)));
  folder_ = folder();
}

bool ProcessState::same() const {
  static PyObject* const name = PyUnicode_InternFromString("environ");
  return names_ && PyDict_GetItemWithError(names_.get(), name) == mapping_.get() && environ_.same() &&
         same_path() && folder() == folder_;
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

void register_process_state(py::module_& module) {
  module.def("environment", [] {
    auto dict = py::reinterpret_steal<py::object>(read_environ());
    if (!dict) throw py::error_already_set();
    return dict;
  });
  module.def("set_environment", &write_environ, py::arg("wanted"));
}

}  // namespace betterbox
