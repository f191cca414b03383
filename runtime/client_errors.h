// What clients throw. The texts are for people.
#pragma once

#include <stdexcept>

namespace betterbox {

/// No scheduler, wrong version, bus lost: the text is for people.
class BusError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Thrown by what finds the bus again: it is gone for good, so nobody is to look for it.
class BusEnded : public BusError {
 public:
  using BusError::BusError;
};

/// Calls are nested deeper than kMaxCallDepth.
class NestingError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace betterbox
