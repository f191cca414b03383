// What a fuzzer gives a target, as the numbers, texts and bytes that the target draws from it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <string>

namespace betterbox::fuzz {

/// The input, byte by byte; zeros behind its end.
class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : at_(data), end_(data + size) {}
  bool empty() const { return at_ == end_; }
  std::uint8_t byte() { return at_ == end_ ? std::uint8_t{0} : *at_++; }
  /// A number below `bound`, at most 256.
  unsigned below(unsigned bound) { return byte() % bound; }
  /// A number of any of so many bytes.
  std::uint64_t word(std::size_t bytes = 8) {
    std::uint64_t value = 0;
    bytes = std::min<std::size_t>(bytes, static_cast<std::size_t>(end_ - at_));
    if (bytes > 0) std::memcpy(&value, at_, bytes);
    at_ += bytes;
    return value;
  }
  /// A small number mostly, else one at the end of a range.
  std::uint64_t number() {
    const std::uint8_t first = byte();
    if (first < 224) return first % 8;
    if (first < 244) return byte();
    constexpr std::uint64_t kOdd[] = {~0ULL, ~0ULL - 1, 1ULL << 63, (1ULL << 63) - 1, 1ULL << 32, 0xFFFFFFFF,
                                      65535, 65536,     1'000'000,  1ULL << 40,       4096,       4097};
    return kOdd[(first - 244) % std::size(kOdd)];
  }
  /// At most so many bytes.
  std::string bytes(std::size_t most) {
    const std::size_t size = std::min<std::size_t>(most, static_cast<std::size_t>(end_ - at_));
    std::string taken(reinterpret_cast<const char*>(at_), size);
    at_ += size;
    return taken;
  }
  /// One that means something to peers.
  std::string text() {
    constexpr const char* kTexts[] = {"",
                                      "here",
                                      "boot",
                                      "3.11",
                                      "there",
                                      "shm:0",
                                      "ipc:///tmp/x/a-1",
                                      "a",
                                      "tcp://10.0.0.1:1",
                                      "betterbox-0-1-1",
                                      "static",
                                      "mpi://1/a"};
    return kTexts[below(std::size(kTexts))];
  }

 private:
  const std::uint8_t* at_;
  const std::uint8_t* end_;
};

}  // namespace betterbox::fuzz
