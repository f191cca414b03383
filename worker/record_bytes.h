// Records of an arena or a lane as bytes: fixed structs at the front, the rest behind them.
#pragma once

#include <cstddef>
#include <cstring>
#include <span>
#include <string>

#include "runtime/check.h"

namespace betterbox {

inline std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

template <class T> std::span<const std::byte> bytes_of_struct(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

/// Takes a fixed struct off the front of a record's payload. REQUIRES: it is there.
template <class T> T take(std::span<const std::byte>& rest) {
  T value;
  BB_CHECK(rest.size() >= sizeof value);
  std::memcpy(&value, rest.data(), sizeof value);
  rest = rest.subspan(sizeof value);
  return value;
}

}  // namespace betterbox
