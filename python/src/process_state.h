// What user code changes of its process most often, and what costs little to look at: os.environ, sys.path, the working
// folder. Needs the GIL.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "python/src/py_ref.h"

namespace betterbox {

/// A dict as it was: no key and no value has been changed since.
class DictState {
 public:
  void note(PyObject* dict);
  bool same() const;

 private:
  PyRef dict_;
#if PY_VERSION_HEX < 0x030C0000
  std::uint64_t version_ = 0;
#else
  std::vector<std::pair<PyRef, PyRef>> entries_;  // in order
#endif
};

class ProcessState {
 public:
  /// What is there now is what `same` compares with.
  void note();
  bool same() const { return environ_.same() && same_path() && folder() == folder_; }

 private:
  bool same_path() const;
  static std::string folder();

  DictState environ_;
  std::vector<PyRef> path_;
  std::string folder_;
};

}  // namespace betterbox
