// Strong ids: what a peer, a call, a lease and a box are called on the wire and in the cores.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>

namespace betterbox {

template <class Tag, class Rep = std::uint64_t> struct StrongId {
  Rep value{};

  friend constexpr auto operator<=>(const StrongId&, const StrongId&) = default;
  explicit constexpr operator bool() const { return value != Rep{}; }
};

/// One incarnation of one process on the bus: 64 random bits drawn when the process starts. 0 is nobody.
using PeerId = StrongId<struct PeerTag>;
/// A range granted to a worker by one scheduler incarnation. 0 is none.
using LeaseId = StrongId<struct LeaseTag>;
/// A box's number on the bus, 1 to 65535. Port 0 stands for the pool of plain function slots.
using Port = StrongId<struct PortTag, std::uint16_t>;
/// A seat is a place for one slot in one agent; numbered from 0, never reused for another box.
using SeatId = StrongId<struct SeatTag, std::uint32_t>;

/// One connection of a transport: counted per transport from 1, never reused.
using ConnectionId = StrongId<struct ConnectionTag>;

inline constexpr Port kFunctionPool{0};

/// A call is known by who made it and that client's serial number (from 1).
struct CallId {
  PeerId client;
  std::uint64_t serial = 0;

  friend constexpr auto operator<=>(const CallId&, const CallId&) = default;
};

/// A served object: the agent (process) that holds it and the seat it sits in. A box that is
/// replaced after a death gets a new `life`, so a new identity.
struct BoxId {
  PeerId agent;
  SeatId seat;
  std::uint32_t life = 0;

  friend constexpr auto operator<=>(const BoxId&, const BoxId&) = default;
};

}  // namespace betterbox

template <class Tag, class Rep> struct std::hash<betterbox::StrongId<Tag, Rep>> {
  std::size_t operator()(const betterbox::StrongId<Tag, Rep>& id) const noexcept {
    return std::hash<Rep>{}(id.value);
  }
};
template <> struct std::hash<betterbox::CallId> {
  std::size_t operator()(const betterbox::CallId& id) const noexcept {
    return std::hash<std::uint64_t>{}(id.client.value * 0x9E3779B97F4A7C15ULL ^ id.serial);
  }
};
