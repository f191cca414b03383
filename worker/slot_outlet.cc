#include "worker/slot_outlet.h"

#include <unistd.h>

#include "python/src/raised_error.h"

namespace betterbox {

void end_forked_child() {
  const GilHold gil;
  const PyRef error = take_raised_error();
  PyObject* module = PyImport_ImportModule("betterbox._slot");
  if (module != nullptr) PyObject_CallMethod(module, "end_forked", "O", error ? error.get() : Py_None);
  PyErr_Print();  // it does not return
  ::_exit(1);
}

}  // namespace betterbox
