// The one owner of cereal: messages to bytes and back (docs/protocol.md, section "Encoding").
//
// The archives write and read what cereal's portable binary archives do (little-endian), but over a string
// and a span: no streams, and every size is checked against the bytes that remain before memory is taken.
#include "runtime/codec.h"

#include <array>
#include <bit>
#include <cereal/cereal.hpp>
#include <cstring>
#include <type_traits>
#include <utility>

#include "runtime/check.h"
#include "runtime/limits.h"

namespace betterbox {
namespace {

static_assert(std::endian::native == std::endian::little, "the archives copy numbers as they lie in memory");

/// Leaves the input archive from any depth; never leaves this file.
struct Malformed {
  std::string reason;
};

class BodyWriter : public cereal::OutputArchive<BodyWriter, cereal::AllowEmptyClassElision> {
 public:
  explicit BodyWriter(std::string& out) : OutputArchive(this), out_(out) { out_.push_back('\1'); }
  void write(const void* data, std::size_t size) { out_.append(static_cast<const char*>(data), size); }

 private:
  std::string& out_;
};

class BodyReader : public cereal::InputArchive<BodyReader, cereal::AllowEmptyClassElision> {
 public:
  explicit BodyReader(std::span<const std::byte> bytes) : InputArchive(this), rest_(bytes) {
    std::uint8_t little = 0;
    read(&little, 1);
    if (little != 1) throw Malformed{"the body is not little-endian"};
  }

  void read(void* to, std::size_t size) {
    if (size > rest_.size()) throw Malformed{"the body ends too early"};
    std::memcpy(to, rest_.data(), size);
    rest_ = rest_.subspan(size);
  }
  /// A count of elements of which each takes at least `element_bytes`.
  std::size_t read_count(std::size_t element_bytes) {
    std::uint64_t count = 0;
    read(&count, sizeof count);
    if (count > rest_.size() / element_bytes) throw Malformed{"a count passes the end of the body"};
    return static_cast<std::size_t>(count);
  }
  std::size_t remaining() const { return rest_.size(); }

 private:
  std::span<const std::byte> rest_;
};

}  // namespace
}  // namespace betterbox

CEREAL_SETUP_ARCHIVE_TRAITS(betterbox::BodyReader, betterbox::BodyWriter)

namespace cereal {
// Enumerations of ours are checked when read, so cereal's own way with enumerations must not apply.
template <class A> struct specialize<A, betterbox::Role, specialization::non_member_load_save> {};
template <class A> struct specialize<A, betterbox::RefusalCode, specialization::non_member_load_save> {};
}  // namespace cereal

// How cereal reads and writes what has no serialize() member; found by argument-dependent lookup.
namespace betterbox {
namespace {

template <class A, class Tag, class Rep> void serialize(A& a, StrongId<Tag, Rep>& id) { a(id.value); }
template <class A> void serialize(A& a, CallId& id) { a(id.client, id.serial); }
template <class A> void serialize(A& a, BoxId& id) { a(id.agent, id.seat, id.life); }

template <class T> std::enable_if_t<std::is_arithmetic_v<T>> save(BodyWriter& a, const T& value) {
  a.write(&value, sizeof value);
}
template <class T> std::enable_if_t<std::is_arithmetic_v<T>> load(BodyReader& a, T& value) {
  if constexpr (std::is_same_v<T, bool>) {
    std::uint8_t byte = 0;
    a.read(&byte, 1);
    if (byte > 1) throw Malformed{"a truth value is neither 0 nor 1"};
    value = byte == 1;
  } else {
    a.read(&value, sizeof value);
  }
}

template <class Enum, class A> void load_enum(A& a, Enum& to, unsigned last, const char* what) {
  std::underlying_type_t<Enum> value = 0;
  a(value);
  if (value < 1 || value > last)
    throw Malformed{std::string("there is no ") + what + " " + std::to_string(value)};
  to = static_cast<Enum>(value);
}
template <class A> void save(A& a, const Role& role) { a(static_cast<std::uint8_t>(role)); }
template <class A> void load(A& a, Role& role) { load_enum(a, role, 4, "role"); }
template <class A> void save(A& a, const RefusalCode& code) { a(static_cast<std::uint16_t>(code)); }
template <class A> void load(A& a, RefusalCode& code) { load_enum(a, code, 5, "refusal code"); }

template <class A> void save(A& a, const Range& range) { a(range.begin, range.end); }
template <class A> void load(A& a, Range& range) {
  a(range.begin, range.end);
  if (range.end < range.begin) throw Malformed{"a range ends before it begins"};
}

void save(BodyWriter& a, const std::string& text) {
  a(static_cast<std::uint64_t>(text.size()));
  a.write(text.data(), text.size());
}
void load(BodyReader& a, std::string& text) {
  text.resize(a.read_count(1));
  a.read(text.data(), text.size());
}

/// What one element takes at least: a default one has only empty strings and vectors.
template <class T> std::size_t least_bytes() {
  static const std::size_t bytes = [] {
    std::string encoded;
    BodyWriter writer(encoded);
    writer(T{});
    return encoded.size() - 1;
  }();
  return bytes;
}

template <class T> void save(BodyWriter& a, const std::vector<T>& elements) {
  a(static_cast<std::uint64_t>(elements.size()));
  for (const T& element : elements) a(element);
}
template <class T> void load(BodyReader& a, std::vector<T>& elements) {
  elements.resize(a.read_count(least_bytes<T>()));
  for (T& element : elements) a(element);
}

}  // namespace
}  // namespace betterbox

namespace betterbox {
namespace {

struct Header {
  std::uint32_t magic = kMagic;
  std::uint16_t version = kProtocolVersion;
  std::uint16_t kind = 0;
  std::uint32_t frames = 0;
  std::uint32_t body_bytes = 0;
};
static_assert(sizeof(Header) == kHeaderBytes);

// --- the rule of each kind for its payload frames ---------------------------------------------------

template <class T>
constexpr bool kHasOneFrame =
    std::is_same_v<T, Call> || std::is_same_v<T, BoxCall> || std::is_same_v<T, BoxReply> ||
    std::is_same_v<T, Deploy> || std::is_same_v<T, Host>;
template <class T>
constexpr bool kMayHaveOneFrame =
    std::is_same_v<T, Hosted> || std::is_same_v<T, Deployed> || std::is_same_v<T, Chunk>;

template <class T> bool frames_fit(const T& body, std::size_t frames) {
  if constexpr (kHasOneFrame<T>) {
    return frames == 1;
  } else if constexpr (std::is_same_v<T, Context>) {
    return frames == 1 || (frames == 0 && body.held != 0);
  } else if constexpr (kMayHaveOneFrame<T>) {
    return frames <= 1;
  } else if constexpr (std::is_same_v<T, Relay>) {
    return body.over ? frames == 0
                     : frames == 1 || frames == 2;  // none of a link has more than one of its own
  } else if constexpr (requires { body.spans; }) {
    return frames == body.spans.size();
  } else {
    return frames == 0;
  }
}

template <class T> void check_spans(const T& body) {
  if constexpr (requires { body.spans; }) {
    for (const auto& span : body.spans)
      if (span.first + span.count < span.first) throw Malformed{"a span passes the last index"};
  }
}

// --- from the wire number to the type ---------------------------------------------------------------

template <std::size_t kIndex> Body read_body(BodyReader& reader, std::size_t frames) {
  std::variant_alternative_t<kIndex, AnyBody> body;
  reader(body);
  if (reader.remaining() != 0) throw Malformed{"bytes behind the body"};
  check_spans(body);
  if (!frames_fit(body, frames)) throw Malformed{"a wrong number of payload frames"};
  return body;
}

using BodyParser = Body (*)(BodyReader&, std::size_t);
template <std::size_t... kIndex>
constexpr std::array<BodyParser, sizeof...(kIndex)> make_parsers(std::index_sequence<kIndex...>) {
  return {&read_body<kIndex>...};
}
constexpr auto kParsers = make_parsers(std::make_index_sequence<std::variant_size_v<AnyBody>>{});

Header read_header(std::span<const std::byte> frame, std::size_t payload_frames) {
  Header header;
  if (frame.size() < kHeaderBytes) throw Malformed{"shorter than a header"};
  std::memcpy(&header, frame.data(), kHeaderBytes);
  if (header.magic != kMagic) throw Malformed{"no BetterBox message"};
  if (header.version != kProtocolVersion)
    throw Malformed{"protocol version " + std::to_string(header.version) + ", here it is " +
                    std::to_string(kProtocolVersion)};
  if (header.kind < 1 || header.kind > kParsers.size())
    throw Malformed{"there is no message kind " + std::to_string(header.kind)};
  if (header.frames != payload_frames || payload_frames > kMaxFrames)
    throw Malformed{"another number of payload frames than the header says, or too many"};
  if (header.body_bytes != frame.size() - kHeaderBytes || header.body_bytes > kMaxBodyBytes)
    throw Malformed{"another size of the body than the header says, or too large"};
  return header;
}

}  // namespace

std::string encode(const Message& message) {
  std::string out(kHeaderBytes, '\0');
  {
    BodyWriter writer(out);
    std::visit(
        [&](const auto& body) {
          BB_CHECK(frames_fit(body, message.frames.size()));
          writer(body);
        },
        message.body);
  }
  Header header;
  header.kind = static_cast<std::uint16_t>(message.body.index() + 1);
  header.frames = static_cast<std::uint32_t>(message.frames.size());
  header.body_bytes = static_cast<std::uint32_t>(out.size() - kHeaderBytes);
  std::memcpy(out.data(), &header, kHeaderBytes);
  return out;
}

std::variant<Message, DecodeError> decode(std::span<const std::byte> first_frame, Frames payload) {
  try {
    const Header header = read_header(first_frame, payload.size());
    BodyReader reader(first_frame.subspan(kHeaderBytes));
    Body body = kParsers[header.kind - 1](reader, payload.size());
    return Message{std::move(body), std::move(payload)};
  } catch (Malformed& problem) {
    return DecodeError{std::move(problem.reason)};
  }
}

Message wrap(PeerId peer, const Message& inner) {
  Message outer{Relay{peer, false}, {Frame(encode(inner))}};
  outer.frames.insert(outer.frames.end(), inner.frames.begin(), inner.frames.end());
  return outer;
}

std::variant<Message, DecodeError> unwrap(Frames frames) {
  if (frames.empty()) return DecodeError{"nothing is wrapped"};
  const Frame first = std::move(frames.front());
  frames.erase(frames.begin());
  return decode(first.bytes(), std::move(frames));
}

}  // namespace betterbox
