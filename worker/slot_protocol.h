// What an agent and a slot say to each other through the rings of an arena (runtime/shm.h). Fixed
// structs, native byte order: both sides are one build on one machine.
#pragma once

#include <cstdint>

namespace betterbox {

/// Kinds of records, agent -> slot. `express` marks those that may come through the express ring.
enum class ToSlot : std::uint32_t {
  kInit = 1,         ///< payload: SlotInit, then what the slot is, for Python: a pickle made by betterbox
  kContext = 2,      ///< SlotContext, then the context frame
  kDropContext = 3,  ///< SlotContext (its ids)
  kLease = 4,        ///< SlotLease, then its pages: each u64 first, u64 count, u64 size, page padded to 8
  kCall = 5,         ///< SlotCall, method name, arguments frame (express for concurrent and async methods)
  kCancelCall = 6,   ///< u64 token: do not start it (it may have run)
  kOpenLane = 8,     ///< SlotLaneAsked: serve calls through this lane, until kCancelCall with its token
  kStop = 7,         ///< finish the running item or call, save, answer kStopped, end
};

/// Kinds of records, slot -> agent.
enum class FromSlot : std::uint32_t {
  kReady = 1,      ///< payload: SlotReady, then the class name and the methods (see SlotReady)
  kFailed = 2,     ///< the slot could not be made (import, __init__): payload: one error item; it ends
  kOutcome = 3,    ///< SlotOutcome, then one item
  kLeaseDone = 4,  ///< SlotLeaseDone: this station is free again
  kReply = 5,      ///< u64 token, then one item
  kLaneReply = 7,  ///< SlotLaneReply, then one item: it did not fit into the lane
  kStopped = 6,    ///< payload: empty, or one error item (saving failed); nothing comes after
};

/// A plain function slot: instance kFunctionInstance, no flags, no bytes behind it. A hosted box: its number over
/// the whole deployment (persist: NAME.instance if there are several). A box that a script serves: 0 and 0.
struct SlotInit {
  std::uint32_t instance = 0;
  std::uint32_t flags = 0;             ///< 1: several instances
  std::uint32_t environment_size = 0;  ///< bytes of NAME=VALUE lines, which follow
  std::uint32_t seat = 0, life = 0;    ///< with `agent`: the box's name on the bus
  std::uint32_t reserved = 0;
  std::uint64_t agent = 0;
};
inline constexpr std::uint32_t kFunctionInstance = 0xFFFFFFFF;

struct SlotContext {
  std::uint64_t client = 0, serial = 0;  ///< CallId
  std::uint32_t fold = 0;
  std::uint32_t depth = 0;  ///< calls that it is nested in
};
struct SlotLease {
  std::uint64_t client = 0, serial = 0;  ///< CallId: its context has been sent before
  std::uint64_t base = 0;                ///< index of offset 0
  std::uint32_t station = 0;
  std::uint32_t generation = 0;
};
struct SlotCall {
  std::uint64_t token = 0;
  std::uint32_t method_size = 0;  ///< bytes of the method's name, which follows
  std::uint32_t reserved = 0;
};
struct SlotLaneAsked {
  std::uint64_t token = 0;
  std::uint64_t nonce = 0;
  std::uint32_t pid = 0;
  std::uint32_t fd = 0;
};
struct SlotLaneReply {
  std::uint64_t token = 0;   ///< of the lane
  std::uint64_t serial = 0;  ///< of the call
};
struct SlotReady {
  std::uint32_t sandbox = 0;
  std::uint32_t class_name_size = 0;  ///< the name follows, then per method: u8 flags, u8 size, name
  std::uint32_t methods = 0;
  std::uint32_t reserved = 0;
};
struct SlotOutcome {
  std::uint32_t station = 0;
  std::uint32_t generation = 0;
  std::uint32_t first = 0;  ///< offset in the lease
  std::uint32_t count = 1;  ///< more than one only for folds
  std::int64_t busy_ns = 0;
  std::int64_t longest_ns = 0;
};
struct SlotLeaseDone {
  std::uint32_t station = 0;
  std::uint32_t generation = 0;
};

}  // namespace betterbox
