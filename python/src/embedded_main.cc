// betterbox-python: the interpreter of a build from source, with libpython inside (`--python embedded`). It needs the
// standard library of its version, and no interpreter beside it.
#include <Python.h>

int main(int argc, char** argv) { return Py_BytesMain(argc, argv); }
