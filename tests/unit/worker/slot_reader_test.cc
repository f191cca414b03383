// What a slot may say, and what no slot that works would say (worker/slot_reader.h).
#include "worker/slot_reader.h"

#include <gtest/gtest.h>

#include "worker/record_bytes.h"

namespace betterbox {
namespace {

class SlotReaderTest : public ::testing::Test {
 protected:
  SlotReaderTest() {
    words.install(0, 1, 10);
    reader.expect(0, 1, false);
  }

  void say_outcome(const std::string& item) {
    const SlotOutcome outcome{0, 1, 0, 1, 5, 5};
    outbox.write(static_cast<std::uint32_t>(FromSlot::kOutcome), {bytes_of_struct(outcome), bytes_of(item)});
  }
  std::vector<Event> drain() {
    std::vector<Event> events;
    reader.drain(events, 64);
    return events;
  }

  SlotArena arena = SlotArena::create_private();
  ArenaHeader& header = arena.header();
  SlotOutbox outbox{header, header.outbox, arena.outbox_data(), -1};
  StripWriter strip{header.strip};
  SlotWords words{header};
  SlotReader reader{arena, words, SeatId{0}, 1};
};

TEST_F(SlotReaderTest, GivesAnOutcomeAsAPage) {
  say_outcome("\x01");
  const auto events = drain();
  ASSERT_EQ(events.size(), 1U);
  EXPECT_EQ(std::get<SeatProgressed>(events[0]).count, 1U);
  EXPECT_TRUE(reader.sane());
}

TEST_F(SlotReaderTest, AnOutcomeWithoutAnItemIsNonsense) {
  say_outcome("");
  EXPECT_TRUE(drain().empty());
  EXPECT_FALSE(reader.sane());
}

TEST_F(SlotReaderTest, TimesWhoseSumsWouldBeNoNumberAreNonsense) {
  strip.add(0, 1, 0, {ColumnType::kNone, 0, 0}, 5);
  header.strip.segments[0].busy_squares.store(1e300);
  EXPECT_TRUE(drain().empty());
  EXPECT_FALSE(reader.sane());
}

}  // namespace
}  // namespace betterbox
