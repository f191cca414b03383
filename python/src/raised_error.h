// The exception that is being raised, with its traceback: taken, and raised again. Python 3.12 has calls for it; those of
// earlier versions hand out three parts.
#pragma once

#include "python/src/py_ref.h"

namespace betterbox {

/// None is raised any more. Empty if none was.
inline PyRef take_raised_error() {
#if PY_VERSION_HEX >= 0x030C0000
  return PyRef(PyErr_GetRaisedException());
#else
  PyObject *type = nullptr, *error = nullptr, *traceback = nullptr;
  PyErr_Fetch(&type, &error, &traceback);
  if (type == nullptr) return {};
  PyErr_NormalizeException(&type, &error, &traceback);
  if (traceback != nullptr) PyException_SetTraceback(error, traceback);
  Py_DECREF(type), Py_XDECREF(traceback);
  return PyRef(error);
#endif
}

/// What `take_raised_error` gave is raised again, in place of what is raised now.
inline void raise_again(PyRef error) {
#if PY_VERSION_HEX >= 0x030C0000
  PyErr_SetRaisedException(error.release());
#else
  if (!error) return PyErr_Clear();
  PyObject* type = reinterpret_cast<PyObject*>(Py_TYPE(error.get()));
  PyObject* traceback = PyException_GetTraceback(error.get());
  PyErr_Restore(Py_NewRef(type), error.release(), traceback);
#endif
}

}  // namespace betterbox
