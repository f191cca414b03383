// Which items have begun (docs/protocol.md, section "Calls"). Part of runtime/messages.h.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/range.h"

namespace betterbox {

/// client -> scheduler: which of these items have begun? `withdraw`: those that have not, and items in the range that
/// come later, are cancelled (their outcomes come before the answer). Answered by Begun.
struct Inquire {
  std::uint64_t serial = 0;
  std::uint64_t number = 0;  ///< of the inquiry
  std::vector<Range> items;
  bool withdraw = false;
  template <class A> void serialize(A& a) { a(serial, number, items, withdraw); }
};

/// scheduler -> client: those of an Inquire's items that have no outcome and may have begun.
struct Begun {
  std::uint64_t serial = 0;
  std::uint64_t number = 0;
  std::vector<Range> items;
  template <class A> void serialize(A& a) { a(serial, number, items); }
};

}  // namespace betterbox
