#include "worker/slot_outlet.h"

#include <unistd.h>

namespace betterbox {

void end_forked_child() {
  const GilHold gil;
  PyObject *type = nullptr, *error = nullptr, *traceback = nullptr;
  PyErr_Fetch(&type, &error, &traceback);
  PyErr_NormalizeException(&type, &error, &traceback);
  if (traceback != nullptr) PyException_SetTraceback(error, traceback);
  PyObject* module = PyImport_ImportModule("betterbox._slot");
  if (module != nullptr) PyObject_CallMethod(module, "end_forked", "O", error != nullptr ? error : Py_None);
  PyErr_Print();  // it does not return
  ::_exit(1);
}

}  // namespace betterbox
