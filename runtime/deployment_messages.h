// Messages that put boxes onto workers and take them away (docs/protocol.md, section "Deployment"). Part of
// runtime/messages.h.
#pragma once

#include <cstdint>
#include <string>

#include "runtime/ids.h"

namespace betterbox {

/// client -> scheduler: host `slots` instances of a box on the workers there are. frames: [box]
struct Deploy {
  std::uint64_t serial = 0;
  Port port;
  std::uint32_t slots = 1;
  std::string name;
  template <class A> void serialize(A& a) { a(serial, port, slots, name); }
};
/// scheduler -> worker. `first` numbers the instances over the whole deployment. frames: [box]
struct Host {
  CallId deployment;
  Port port;
  std::uint32_t first = 0;
  std::uint32_t slots = 1;
  std::uint32_t total = 1;  ///< of the whole deployment
  std::string name;
  template <class A> void serialize(A& a) { a(deployment, port, first, slots, total, name); }
};
/// worker -> scheduler: outcome of one Host: all its boxes are offered, or an error. frames: [] or [one error item]
struct Hosted {
  CallId deployment;
  bool ok = true;
  template <class A> void serialize(A& a) { a(deployment, ok); }
};
/// scheduler -> client: the deployment is up or has failed (and was taken down). frames: [] or [one error item]
struct Deployed {
  std::uint64_t serial = 0;
  bool ok = true;
  std::string error;  ///< where no item says it: no workers
  template <class A> void serialize(A& a) { a(serial, ok, error); }
};
/// client -> scheduler (deployment.client is the sender) -> worker: stop these boxes.
struct Undeploy {
  CallId deployment;
  template <class A> void serialize(A& a) { a(deployment); }
};

}  // namespace betterbox
