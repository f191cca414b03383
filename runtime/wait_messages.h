// Messages about waits that may never end (docs/protocol.md, section "Waits"). Part of runtime/messages.h.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/ids.h"

namespace betterbox {

/// client -> scheduler: what this client's process runs for an agent has waited for some time, and for what. With nothing
/// awaited: that wait is over. Numbers of waits ascend.
struct Waits {
  std::uint64_t number = 0;
  BoxId box;                         ///< that waits, in a method; or (agent 0)
  CallId call;                       ///< of whose items one waits
  std::vector<BoxId> boxes;          ///< whose answers it waits for
  std::vector<std::uint64_t> calls;  ///< of the client, by serial
  template <class A> void serialize(A& a) { a(number, box, call, boxes, calls); }
};

/// scheduler -> client: wait `number` can never end; `text` shows the cycle.
struct Deadlock {
  std::uint64_t number = 0;
  std::string text;
  template <class A> void serialize(A& a) { a(number, text); }
};

}  // namespace betterbox
