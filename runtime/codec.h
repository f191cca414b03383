// Messages to bytes and back (docs/protocol.md, section "Encoding").
//
// First frame: a fixed header of 16 bytes, little-endian: magic u32, version u16, kind u16 (place in
// Body, from 1), payload frames u32, body bytes u32; then the body as a cereal portable binary archive
// (its first byte, 1, says little-endian). Payload frames follow as they are.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <variant>

#include "runtime/messages.h"

namespace betterbox {

inline constexpr std::size_t kHeaderBytes = 16;

/// Why bytes are not a message. Never thrown: garbage from a peer is a value.
struct DecodeError {
  std::string reason;
};

/// The first frame of `message`; its payload frames are sent behind it as they are.
std::string encode(const Message& message);

/// Result: the message, or why it is none. Every count is checked against the bytes that remain
/// before memory is taken for it; trailing bytes, unknown kinds, another version, and a number of
/// payload frames that does not fit the kind or the header are errors.
std::variant<Message, DecodeError> decode(std::span<const std::byte> first_frame, Frames payload);

/// A message of a link that goes through the scheduler; `peer` is at the link's other end.
Message wrap(PeerId peer, const Message& inner);
/// Back again. The same errors as of decode.
std::variant<Message, DecodeError> unwrap(Frames frames);

}  // namespace betterbox
