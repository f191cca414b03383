// libFuzzer target: bytes as a packet over MPI, and as an endpoint. What is a packet is the one that its frames are written as.
#include <string_view>

#include "cluster/mpi_packet.h"
#include "runtime/check.h"
#include "runtime/limits.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace betterbox;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto [rank, name] = parse_mpi_endpoint(text);
  BB_CHECK(rank < 0 || text.ends_with("/" + name));
  const auto packet = read_packet(Frame::copy_of(std::as_bytes(std::span(data, size))));
  if (!packet) return 0;
  BB_CHECK(packet->frames.size() == packet->head.frames && packet->frames.size() <= kMaxFrames + 1);
  bool whole = true;
  for (const Frame& frame : packet->frames) {
    BB_CHECK(frame.size() <= kMaxFrameBytes);
    whole = whole && frame.size() <= kInlineBytes;
  }
  if (whole) BB_CHECK(write_packet(packet->head, packet->frames) == text);
  return 0;
}
