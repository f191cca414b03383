// libFuzzer target: bytes as a peer could send them. What decodes must encode to a message that decodes
// again.
// Input: one byte that says how many payload frames there are, then the first frame.
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "runtime/check.h"
#include "runtime/codec.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace betterbox;
  if (size < 1) return 0;
  Frames payload(data[0] % 8, Frame(std::string("p")));
  const auto decoded = decode(std::as_bytes(std::span(data + 1, size - 1)), payload);
  const auto* message = std::get_if<Message>(&decoded);
  if (message == nullptr) return 0;
  const std::string again = encode(*message);
  BB_CHECK(again.size() == size - 1 && std::memcmp(again.data(), data + 1, size - 1) == 0);
  return 0;
}
