// PyRef: owns one reference. GilRelease / GilHold: scopes without and with the interpreter lock.
//
// An interpreter that ends ends each other thread that asks for its lock, by pthread_exit(), which unwinds the stack: through
// destructors that need the lock, and through functions that let nothing out (std::terminate). So a thread that has C++
// below it never unwinds: it rests where it asked, until the process ends.
#pragma once

#include <Python.h>
#include <cxxabi.h>
#include <unistd.h>

#include <utility>

namespace betterbox {

class PyRef {
 public:
  PyRef() = default;
  explicit PyRef(PyObject* owned) : object_(owned) {}
  static PyRef borrow(PyObject* object) { return PyRef(Py_XNewRef(object)); }
  PyRef(PyRef&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  PyRef& operator=(PyRef&& other) noexcept {
    PyObject* old = std::exchange(object_, std::exchange(other.object_, nullptr));
    Py_XDECREF(old);
    return *this;
  }
  ~PyRef() { Py_XDECREF(object_); }

  PyObject* get() const { return object_; }
  PyObject* release() { return std::exchange(object_, nullptr); }
  explicit operator bool() const { return object_ != nullptr; }

 private:
  PyObject* object_ = nullptr;
};

/// What `call` gives. If the interpreter ends this thread in it, the thread rests.
template <class Call> decltype(auto) rest_if_ended(Call&& call) {
  try {
    return call();
  } catch (abi::__forced_unwind&) {  // never left: leaving it goes on unwinding, or aborts
    for (;;) ::pause();
  }
}

class GilRelease {
 public:
  GilRelease() : state_(PyEval_SaveThread()) {}
  ~GilRelease() {
    rest_if_ended([this] { PyEval_RestoreThread(state_); });
  }
  GilRelease(const GilRelease&) = delete;
  GilRelease& operator=(const GilRelease&) = delete;

 private:
  PyThreadState* state_;
};

class GilHold {
 public:
  GilHold() : state_(rest_if_ended([] { return PyGILState_Ensure(); })) {}
  ~GilHold() { PyGILState_Release(state_); }
  GilHold(const GilHold&) = delete;
  GilHold& operator=(const GilHold&) = delete;

 private:
  PyGILState_STATE state_;
};

}  // namespace betterbox
