// How the sockets of peers are called, in the folder of their bus. A name follows from the id of an incarnation, so whoever
// claims another's socket is found out.
#pragma once

#include <string>

#include "runtime/ids.h"

namespace betterbox {

/// An agent's: "a-" and its id in 16 hex digits.
inline std::string socket_name_of(PeerId agent) {
  std::string name = "a-";
  for (int shift = 60; shift >= 0; shift -= 4) name += "0123456789abcdef"[agent.value >> shift & 0xFU];
  return name;
}

}  // namespace betterbox
