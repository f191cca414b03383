// The wire of published versions does not change: every message is encoded exactly as its golden vector says.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "runtime/codec.h"
#include "tests/golden/samples.h"

namespace betterbox {
namespace {

std::string read_golden(const Message& message) {
  std::ifstream file(std::filesystem::path(BETTERBOX_GOLDEN_FOLDER) / golden_file_name(message));
  EXPECT_TRUE(file) << "no golden vector " << golden_file_name(message) << ": run make_golden";
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

Frame from_hex(const std::string& line) {
  std::string bytes;
  for (std::size_t i = 0; i + 1 < line.size(); i += 2)
    bytes.push_back(static_cast<char>(std::stoi(line.substr(i, 2), nullptr, 16)));
  return Frame(std::move(bytes));
}

TEST(GoldenVectors, ThereIsOneForEveryKindOfMessage) {
  std::set<std::size_t> kinds;
  for (const Message& message : golden_messages()) kinds.insert(message.body.index());
  EXPECT_EQ(kinds.size(), std::variant_size_v<AnyBody>);
}

TEST(GoldenVectors, EveryMessageIsEncodedAsItsVectorSays) {
  for (const Message& message : golden_messages())
    EXPECT_EQ(golden_text(message), read_golden(message)) << golden_file_name(message);
}

TEST(GoldenVectors, EveryVectorIsDecodedToItsMessage) {
  for (const Message& message : golden_messages()) {
    std::istringstream lines(read_golden(message));
    std::string line;
    std::getline(lines, line);
    const Frame first = from_hex(line);
    Frames payload;
    while (std::getline(lines, line)) payload.push_back(from_hex(line));
    const auto decoded = decode(first.bytes(), payload);
    const auto* got = std::get_if<Message>(&decoded);
    ASSERT_NE(got, nullptr) << golden_file_name(message) << ": " << std::get<DecodeError>(decoded).reason;
    EXPECT_EQ(got->body.index(), message.body.index());
    EXPECT_EQ(golden_text(*got), golden_text(message));
    EXPECT_EQ(got->frames, message.frames);
  }
}

}  // namespace
}  // namespace betterbox
