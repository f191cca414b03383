// What the items of a call run: function, fixed arguments, and the places of what is spread. Needs the GIL.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "python/src/py_ref.h"
#include "worker/slot_surroundings.h"

namespace betterbox {

/// Unpickled once per call and slot.
class SlotPlan {
 public:
  /// Loads a context by `betterbox._slot.load_call`, in its surroundings. One that cannot be loaded makes an error of every
  /// item.
  void load(PyObject* hooks, SlotSurroundings& process, std::span<const std::byte> context);

  /// What the process must match when items run; None: it does not matter.
  PyObject* surroundings() const { return surroundings_.get(); }
  /// Its items are calls of their own.
  bool submissions() const { return submissions_; }

  /// bytes: the error item that stands for every item; null: the context was loaded.
  PyObject* single_error() const { return single_error_.get(); }
  /// `reduce=`, or null.
  PyObject* fold() const { return fold_.get(); }
  /// Calls that this one is nested in.
  std::uint32_t depth = 0;
  /// This process shares its memory with the client.
  bool near() const { return near_; }
  /// Runs one item. Null: a Python error is set. REQUIRES: single_error() is null.
  PyObject* call(PyObject* item) { return simple_place_ >= 0 ? call_simple(item) : call_general(item); }

 private:
  void prepare_vectorcall();
  /// On the thread that loaded this plan.
  template <class Call> PyObject* run(Call&& call) const {
    return may_be_ended_ ? rest_if_ended(call) : call();
  }
  PyObject* call_simple(PyObject* item);
  PyObject* call_submitted(PyObject* item);
  PyObject* call_general(PyObject* item);

  PyRef callable_;
  PyRef args_;    // tuple with places for the spread arguments
  PyRef kwargs_;  // dict, maybe empty
  PyRef places_;  // tuple of int (position) or str (keyword)
  PyRef fold_;
  PyRef single_error_;
  PyRef surroundings_;
  bool near_ = false;
  bool submissions_ = false;
  bool may_be_ended_ = true;       // this thread
  int simple_place_ = -1;          // one spread argument, positional: the fast way
  std::vector<PyObject*> vector_;  // borrowed from args_, for vectorcall; one free place in front
  PyRef kwnames_;
};

}  // namespace betterbox
