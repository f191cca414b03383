// The bytes of a packet over MPI (docs/protocol.md, "MPI carrier"): PacketHead, the sizes of the message's frames, and those of
// its frames that are not larger than kInlineBytes. Knows nothing of MPI.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "runtime/frame.h"

namespace betterbox {

/// Of kBroadcast `from_initiator` is the word, and `connection` the sequence number.
enum class PacketKind : std::uint32_t { kConnect = 1, kMessage = 2, kClose = 3, kBroadcast = 4 };

/// `connection` is the number that the side gave it that connected.
struct PacketHead {
  PacketKind kind = PacketKind::kMessage;
  std::uint32_t from_initiator = 0;
  std::uint64_t connection = 0;
  std::uint64_t frames = 0;
};

/// Larger frames follow the packet.
inline constexpr std::size_t kInlineBytes = 8U << 10;

std::string write_packet(const PacketHead& head, const Frames& frames);

struct Packet {
  PacketHead head;
  Frames frames;  ///< they share the packet's memory; those that follow it have a size and no data
};
/// Empty if `bytes` are no packet.
std::optional<Packet> read_packet(const Frame& bytes);

/// The rank and the name of "mpi://RANK/NAME"; -1 if `endpoint` is none.
std::pair<int, std::string> parse_mpi_endpoint(std::string_view endpoint);

}  // namespace betterbox
