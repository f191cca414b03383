// The message that carries others (docs/protocol.md, section "Links that are relayed"). Part of runtime/messages.h.
#pragma once

#include "runtime/ids.h"

namespace betterbox {

/// client -> scheduler -> agent and back: a message of a link between these two that cannot be made directly. `peer`: to
/// whom; where it arrives, from whom. `over`: the link has ended. frames: [first frame, its payload...], none if over
struct Relay {
  PeerId peer;
  bool over = false;
  template <class A> void serialize(A& a) { a(peer, over); }
};

}  // namespace betterbox
