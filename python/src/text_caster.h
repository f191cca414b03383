// Text between Python and C++: UTF-8, where names of the system (paths, hosts, arguments) may hold other bytes. Python has these
// as surrogates, and they stay the bytes that they are. Included ahead of pybind11 by all that binds, so that there is one way.
#pragma once

#include <pybind11/cast.h>

#include <string>

namespace pybind11::detail {

template <> struct type_caster<std::string> {
  PYBIND11_TYPE_CASTER(std::string, const_name("str"));

  bool load(handle source, bool) {
    if (PyBytes_Check(source.ptr())) {
      value.assign(PyBytes_AS_STRING(source.ptr()), static_cast<std::size_t>(PyBytes_GET_SIZE(source.ptr())));
      return true;
    }
    if (!PyUnicode_Check(source.ptr())) return false;
    Py_ssize_t size = 0;
    if (const char* text = PyUnicode_AsUTF8AndSize(source.ptr(), &size)) {
      value.assign(text, static_cast<std::size_t>(size));
      return true;
    }
    PyErr_Clear();
    object bytes =
        reinterpret_steal<object>(PyUnicode_AsEncodedString(source.ptr(), "utf-8", "surrogateescape"));
    if (!bytes) {  // a surrogate that stands for no byte
      PyErr_Clear();
      bytes = reinterpret_steal<object>(PyUnicode_AsEncodedString(source.ptr(), "utf-8", "backslashreplace"));
    }
    return bytes ? load(bytes, false) : (PyErr_Clear(), false);
  }

  static handle cast(const std::string& source, return_value_policy, handle) {
    return PyUnicode_DecodeUTF8(source.data(), static_cast<Py_ssize_t>(source.size()), "surrogateescape");
  }
};

}  // namespace pybind11::detail
