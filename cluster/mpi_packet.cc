#include "cluster/mpi_packet.h"

#include <cstring>

#include "runtime/limits.h"

namespace betterbox {
namespace {

constexpr std::string_view kScheme = "mpi://";

}  // namespace

std::string write_packet(const PacketHead& head, const Frames& frames) {
  std::size_t bytes = sizeof head + 8 * frames.size();
  for (const Frame& frame : frames) bytes += frame.size() <= kInlineBytes ? frame.size() : 0;
  std::string packet;
  packet.reserve(bytes);
  packet.append(reinterpret_cast<const char*>(&head), sizeof head);
  for (const Frame& frame : frames) {
    const std::uint64_t frame_bytes = frame.size();
    packet.append(reinterpret_cast<const char*>(&frame_bytes), sizeof frame_bytes);
  }
  for (const Frame& frame : frames) {
    if (frame.size() <= kInlineBytes) packet.append(frame.view());
  }
  return packet;
}

std::optional<Packet> read_packet(const Frame& bytes) {
  Packet packet;
  PacketHead& head = packet.head;
  if (bytes.size() < sizeof head) return std::nullopt;
  std::memcpy(&head, bytes.data(), sizeof head);
  if (head.kind < PacketKind::kConnect || head.kind > PacketKind::kBroadcast) return std::nullopt;
  if (head.frames > kMaxFrames + 1 || bytes.size() - sizeof head < 8 * head.frames) return std::nullopt;
  packet.frames.reserve(head.frames);
  std::size_t at = sizeof head + 8 * head.frames;
  for (std::uint64_t i = 0; i < head.frames; ++i) {
    std::uint64_t size = 0;
    std::memcpy(&size, bytes.data() + sizeof head + 8 * i, sizeof size);
    if (size > kInlineBytes) {
      if (size > kMaxFrameBytes) return std::nullopt;
      packet.frames.emplace_back(nullptr, nullptr, size);
      continue;
    }
    if (size > bytes.size() - at) return std::nullopt;
    packet.frames.push_back(bytes.slice(at, size));
    at += size;
  }
  if (at != bytes.size()) return std::nullopt;
  return packet;
}

std::pair<int, std::string> parse_mpi_endpoint(std::string_view endpoint) {
  const std::size_t slash = endpoint.find('/', kScheme.size());
  if (!endpoint.starts_with(kScheme) || slash == std::string_view::npos) return {-1, {}};
  const std::string rank(endpoint.substr(kScheme.size(), slash - kScheme.size()));
  if (rank.empty() || rank.size() > 9 || rank.find_first_not_of("0123456789") != std::string::npos)
    return {-1, {}};
  return {std::stoi(rank), std::string(endpoint.substr(slash + 1))};
}

}  // namespace betterbox
