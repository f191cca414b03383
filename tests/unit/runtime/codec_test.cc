// The codec against bytes that are not what they should be; that good ones are right is tests/golden's
// matter.
#include "runtime/codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "runtime/limits.h"

namespace betterbox {
namespace {

std::variant<Message, DecodeError> decode_text(const std::string& first, Frames payload = {}) {
  return decode(std::as_bytes(std::span(first)), std::move(payload));
}
std::string reason_of(const std::string& first, Frames payload = {}) {
  const auto decoded = decode_text(first, std::move(payload));
  const auto* error = std::get_if<DecodeError>(&decoded);
  return error != nullptr ? error->reason : "decoded";
}

template <class T> void put(std::string& bytes, std::size_t at, T value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
}
/// Puts a size into the header that fits the (changed) body again.
std::string with_size_repaired(std::string first) {
  put(first, 12, static_cast<std::uint32_t>(first.size() - kHeaderBytes));
  return first;
}
const Frame kFrame{std::string("payload")};

TEST(Codec, WhatIsEncodedIsDecoded) {
  const Message message{Items{7, {{0, 2}, {2, 5}}, true}, {kFrame, Frame(std::string("b"))}};
  const auto decoded = decode_text(encode(message), message.frames);
  const auto& items = std::get<Items>(std::get<Message>(decoded).body);
  EXPECT_EQ(items.serial, 7U);
  ASSERT_EQ(items.spans.size(), 2U);
  EXPECT_EQ(items.spans[1].first, 2U);
  EXPECT_EQ(items.spans[1].count, 5U);
  EXPECT_TRUE(items.closed);
  EXPECT_EQ(std::get<Message>(decoded).frames, message.frames);
}

TEST(Codec, RefusesAWrongHeader) {
  const std::string good = encode({Bye{}, {}});
  std::string bad = good;
  put(bad, 0, std::uint32_t{0});
  EXPECT_THAT(reason_of(bad), testing::HasSubstr("no BetterBox message"));
  bad = good;
  put(bad, 4, std::uint16_t{kProtocolVersion + 1});
  EXPECT_THAT(reason_of(bad), testing::HasSubstr("protocol version " + std::to_string(kProtocolVersion + 1)));
  for (const std::uint16_t kind :
       {std::uint16_t{0}, std::uint16_t{std::variant_size_v<AnyBody> + 1}, std::uint16_t{0xFFFF}}) {
    bad = good;
    put(bad, 6, kind);
    EXPECT_THAT(reason_of(bad), testing::HasSubstr("no message kind"));
  }
  bad = good;
  put(bad, 8, std::uint32_t{1});
  EXPECT_THAT(reason_of(bad), testing::HasSubstr("payload frames"));
  bad = good;
  put(bad, 12, std::uint32_t{77});
  EXPECT_THAT(reason_of(bad), testing::HasSubstr("size of the body"));
}

TEST(Codec, RefusesEveryTruncationAndTrailingBytes) {
  Hello hello;
  hello.name = "w";
  hello.leases = {{LeaseId{1}, {{1, 2}}}};
  const std::string good = encode({hello, {}});
  for (std::size_t size = 0; size < good.size(); ++size) {
    EXPECT_NE(reason_of(good.substr(0, size)), "decoded");
    if (size < kHeaderBytes) continue;
    EXPECT_NE(reason_of(with_size_repaired(good.substr(0, size))), "decoded") << size;
  }
  EXPECT_THAT(reason_of(with_size_repaired(good + '\0')), testing::HasSubstr("bytes behind"));
}

TEST(Codec, RefusesABigEndianBody) {
  std::string bad = encode({Bye{}, {}});
  bad[kHeaderBytes] = 0;
  EXPECT_THAT(reason_of(bad), testing::HasSubstr("little-endian"));
}

TEST(Codec, RefusesCountsBeyondTheBytesThatRemain) {
  // A vector of structs: the count is checked against what each takes at least, before memory is taken.
  const Message message{Released{LeaseId{1}, {{1, 2}}}, {}};
  std::string bad = encode(message);
  const std::size_t count_at = kHeaderBytes + 1 + 8;
  for (const std::uint64_t count :
       {std::uint64_t{2}, std::uint64_t{16}, std::uint64_t{1} << 60, ~std::uint64_t{0}}) {
    put(bad, count_at, count);
    EXPECT_THAT(reason_of(bad), testing::HasSubstr("a count passes the end"));
  }
  std::string text = encode({Refused{RefusalCode::kEnding, "bye"}, {}});
  put(text, kHeaderBytes + 1 + 2, ~std::uint64_t{0});
  EXPECT_THAT(reason_of(text), testing::HasSubstr("a count passes the end"));
}

TEST(Codec, RefusesValuesOutsideTheirType) {
  std::string boolean = encode({Hosted{}, {}});
  boolean.back() = 2;
  EXPECT_THAT(reason_of(boolean), testing::HasSubstr("truth value"));
  std::string role = encode({Hello{}, {}});
  for (const char value : {0, 5, 127}) {
    role[kHeaderBytes + 1] = value;
    EXPECT_THAT(reason_of(role), testing::HasSubstr("no role"));
  }
  std::string code = encode({Refused{}, {}});
  put(code, kHeaderBytes + 1, std::uint16_t{6});
  EXPECT_THAT(reason_of(code), testing::HasSubstr("no refusal code"));
}

TEST(Codec, RefusesRangesAndSpansThatRunBackwards) {
  EXPECT_THAT(reason_of(encode({Cancel{1, {5, 4}}, {}})), testing::HasSubstr("ends before"));
  EXPECT_EQ(reason_of(encode({Cancel{1, {5, 5}}, {}})), "decoded");
  EXPECT_THAT(reason_of(encode({Items{1, {{~std::uint64_t{0}, 2}}, false}, {kFrame}}), {kFrame}),
              testing::HasSubstr("last index"));
}

TEST(Codec, EachKindHasItsNumberOfPayloadFrames) {
  const auto with_frames = [](const Message& message, std::uint32_t frames) {
    std::string first = encode(message);
    put(first, 8, frames);
    return reason_of(first, Frames(frames, kFrame));
  };
  const std::string refusal = "a wrong number of payload frames";
  for (const Message& message :
       {Message{Call{}, {kFrame}}, Message{BoxCall{}, {kFrame}}, Message{BoxReply{}, {kFrame}},
        Message{Context{}, {kFrame}}, Message{Deploy{}, {kFrame}}, Message{Host{}, {kFrame}}}) {
    EXPECT_EQ(with_frames(message, 0), refusal) << kind_name(message.body);
    EXPECT_EQ(with_frames(message, 1), "decoded") << kind_name(message.body);
    EXPECT_EQ(with_frames(message, 2), refusal) << kind_name(message.body);
  }
  Context held;
  held.held = 1;
  for (const Message& message : {Message{Hosted{}, {}}, Message{Deployed{}, {}}, Message{held, {}}}) {
    EXPECT_EQ(with_frames(message, 0), "decoded");
    EXPECT_EQ(with_frames(message, 1), "decoded");
    EXPECT_EQ(with_frames(message, 2), refusal);
  }
  EXPECT_EQ(with_frames({Lease{{}, {}, {}, 0, {{0, 1}}}, {kFrame}}, 0), refusal);
  EXPECT_EQ(with_frames({Lease{{}, {}, {}, 0, {{0, 1}}}, {kFrame}}, 1), "decoded");
  EXPECT_EQ(with_frames({Status{}, {}}, 1), refusal);
}

TEST(Codec, RefusesMoreFramesThanTheLimit) {
  Items items;
  items.spans.assign(kMaxFrames + 1, {0, 0});
  const Frames payload(kMaxFrames + 1, kFrame);
  EXPECT_THAT(reason_of(encode({items, payload}), payload), testing::HasSubstr("too many"));
}

TEST(Codec, RefusesABodyOverTheLimit) {
  const std::string too_large = encode({Refused{RefusalCode::kEnding, std::string(kMaxBodyBytes, 'x')}, {}});
  EXPECT_THAT(reason_of(too_large), testing::HasSubstr("too large"));
}

TEST(Codec, EveryKindHasAName) {
  EXPECT_STREQ(kind_name(Hello{}), "Hello");
  EXPECT_STREQ(kind_name(BoxReply{}), "BoxReply");
  EXPECT_STREQ(kind_name(Outcomes{}), "Outcomes");
  EXPECT_STREQ(kind_name(StatusReport{}), "StatusReport");
}

}  // namespace
}  // namespace betterbox
