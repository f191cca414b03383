// The strip between a slot and its agent: nothing is lost, nothing is seen twice, order and types are kept.
#include "runtime/strip.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace betterbox {
namespace {

constexpr ShortValue kNothing{ColumnType::kNone, 0, 0};

ShortValue whole(std::int64_t value) { return {ColumnType::kInt, 0, static_cast<std::uint64_t>(value)}; }

class StripTest : public testing::Test {
 protected:
  struct Seen {
    std::uint32_t station, generation, offset;
    std::string item;
    friend bool operator==(const Seen&, const Seen&) = default;
  };
  bool add(std::uint32_t offset, const ShortValue& value, std::int64_t busy_ns = 1) {
    return writer_.add(1, 7, offset, value, busy_ns);
  }
  /// All that is there, each as an item; the column must say the same.
  void read() {
    while (const auto part = reader_.next()) {
      const Frame page = reader_.column_of(*part);
      const auto column = PageView::parse(page.bytes());
      ASSERT_TRUE(column);
      ASSERT_EQ(column->count(), part->count);
      for (std::uint32_t i = 0; i < part->count; ++i) {
        std::string item;
        reader_.append_item(*part, i, item);
        EXPECT_EQ(item, column->copy_item(i));
        seen_.push_back({part->station, part->generation, part->first + i, std::move(item)});
      }
      busy_ns_ += part->busy_ns;
      reader_.release();
    }
  }
  std::unique_ptr<Strip> strip_ = std::make_unique<Strip>();
  StripWriter writer_{*strip_};
  StripReader reader_{*strip_};
  std::vector<Seen> seen_;
  std::int64_t busy_ns_ = 0;
};

TEST_F(StripTest, GivesOutcomesAsTheyWereWrittenHoweverOftenItIsLookedAt) {
  std::uint64_t f4 = 0;
  std::memcpy(&f4, "<f4", 3);
  const std::vector<ShortValue> values{kNothing,
                                       kNothing,
                                       whole(-5),
                                       whole(6),
                                       {ColumnType::kBool, 0, 1},
                                       {ColumnType::kFloat, 0, std::bit_cast<std::uint64_t>(-0.0)},
                                       {ColumnType::kScalars, f4, 0x40200000}};
  for (std::uint32_t i = 0; i < 500; ++i) {
    ASSERT_TRUE(add(i, values[i / 3 % values.size()], 10));
    if (i % 11 == 0) read();
  }
  read();
  ASSERT_EQ(seen_.size(), 500u);
  for (std::uint32_t i = 0; i < 500; ++i) EXPECT_EQ(seen_[i].offset, i);
  EXPECT_EQ(seen_[6].item, "\x03\xfb" + std::string(7, '\xff'));
  EXPECT_EQ(busy_ns_, 5000);
  EXPECT_FALSE(reader_.has_more());
}

TEST_F(StripTest, BeginsAnewWhereOffsetsJumpOrAnotherLeaseBegins) {
  EXPECT_TRUE(writer_.add(0, 1, 5, whole(1), 1));
  EXPECT_TRUE(writer_.add(0, 1, 7, whole(2), 1));
  EXPECT_TRUE(writer_.add(1, 2, 8, whole(3), 1));
  EXPECT_TRUE(writer_.add(1, 3, 9, whole(4), 1));
  read();
  ASSERT_EQ(seen_.size(), 4u);
  EXPECT_EQ(seen_[1].offset, 7u);
  EXPECT_EQ(seen_[2].station, 1u);
  EXPECT_EQ(seen_[3].generation, 3u);
}

TEST_F(StripTest, RefusesWhatDoesNotFitAndTakesItOnceThereIsRoom) {
  std::uint32_t offset = 0;
  bool rang = false;
  while (add(offset, whole(offset))) {
    ++offset;
    rang = writer_.half_full() || rang;
    ASSERT_LE(offset, kStripWords);
  }
  EXPECT_EQ(offset, kStripWords);
  EXPECT_TRUE(rang);
  read();
  EXPECT_FALSE(reader_.next());
  EXPECT_TRUE(add(offset, whole(1)));
  EXPECT_TRUE(writer_.add(1, 8, 0, kNothing, 1));
}

TEST_F(StripTest, RefusesAnotherSegmentWhileAllWaitToBeRead) {
  std::uint32_t offset = 0;
  while (add(offset, offset % 2 == 0 ? kNothing : whole(offset))) ASSERT_LE(++offset, kStripSegments);
  EXPECT_EQ(offset, kStripSegments);
  read();
  EXPECT_EQ(seen_.size(), kStripSegments);
  EXPECT_TRUE(add(offset, offset % 2 == 0 ? kNothing : whole(offset)));
  read();
  EXPECT_EQ(seen_.back().offset, offset);
}

TEST_F(StripTest, IsReadWholeAfterItsWriterDiedAtAnyPlace) {
  for (std::uint32_t i = 0; i < 100; ++i) ASSERT_TRUE(add(i, i < 50 ? whole(i) : kNothing));
  read();
  EXPECT_EQ(seen_.size(), 100u);
  strip_->segments[2].start = 99;  // opened, nothing counted
  strip_->opened.store(3);
  read();
  EXPECT_EQ(seen_.size(), 100u);
}

TEST_F(StripTest, SurvivesAWriterThatWritesOverIt) {
  std::mt19937 draw(1);
  for (int round = 0; round < 2000; ++round) {
    auto strip = std::make_unique<Strip>();
    StripWriter writer(*strip);
    StripReader reader(*strip);
    for (std::uint32_t i = 0; i < 20; ++i) writer.add(0, 1, i, i % 7 < 3 ? kNothing : whole(i), 1);
    auto* bytes = reinterpret_cast<unsigned char*>(strip.get());
    for (int k = 0; k < 20; ++k) bytes[draw() % offsetof(Strip, words)] = static_cast<unsigned char>(draw());
    std::size_t parts = 0;
    while (const auto part = reader.next()) {
      ASSERT_LE(part->count, kStripWords);
      ASSERT_LE(++parts, std::size_t{kStripSegments} + 1);
      EXPECT_TRUE(PageView::parse(reader.column_of(*part).bytes()));
      reader.release();
    }
  }
}

TEST(ScalarSizeTest, OnlyNumbersThatFitIntoAWordHaveOne) {
  const auto size_of = [](const char* text) {
    std::uint64_t dtype = 0;
    std::memcpy(&dtype, text, std::strlen(text));
    return scalar_size(dtype);
  };
  for (const char* number : {"|b1", "|i1", "|u1"}) EXPECT_EQ(size_of(number), 1U) << number;
  for (const char* number : {"<i8", "<u8", "<f8", "<c8"}) EXPECT_EQ(size_of(number), 8U) << number;
  EXPECT_EQ(size_of("<f2"), 2U);
  EXPECT_EQ(size_of("<i4"), 4U);
  for (const char* other : {"", "|O8", "<M8", "<x4", "<f1", "<b2", "<i3", "<c4", ">i4", "<f16", "<i"})
    EXPECT_EQ(size_of(other), 0U) << other;
}

TEST_F(StripTest, CarriesManyBetweenTwoThreads) {
  constexpr std::uint32_t kMany = 2'000'000;
  std::thread slot([this] {
    for (std::uint32_t i = 0; i < kMany;) {
      if (add(i, i / 100'000 % 2 == 0 ? whole(i) : kNothing)) {
        ++i;
      } else {
        std::this_thread::yield();
      }
    }
  });
  std::uint32_t next = 0;
  while (next < kMany) {
    while (const auto part = reader_.next()) {
      ASSERT_EQ(part->first, next);
      const Frame page = reader_.column_of(*part);
      const auto column = PageView::parse(page.bytes());
      for (std::uint32_t i = 0; i < part->count && part->type == ColumnType::kInt; ++i)
        ASSERT_EQ(column->value<std::int64_t>(i), next + i);
      next += part->count;
      reader_.release();
    }
  }
  slot.join();
}

}  // namespace
}  // namespace betterbox
