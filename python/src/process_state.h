// What user code changes of its process most often, and what costs little to look at: the environment, sys.path, the
// working folder. Needs the GIL.
#pragma once

#include <string>
#include <vector>

#include "python/src/py_ref.h"

namespace betterbox {

/// The C library's environment: os.environ and os.putenv write to it, and child processes inherit it.
class EnvironState {
 public:
  /// What is there now is what `same` compares with.
  void note();
  /// By the addresses of the entries: glibc never uses those of an entry that was replaced for another.
  bool same() const;

 private:
  std::vector<const char*> entries_;
};

class ProcessState {
 public:
  /// What is there now is what `same` compares with.
  void note();
  bool same() const;

 private:
  bool same_path() const;
  static std::string folder();

  EnvironState environ_;
  PyRef names_, mapping_;  // what is in os, and os.environ
  std::vector<PyRef> path_;
  std::string folder_;
};

}  // namespace betterbox
