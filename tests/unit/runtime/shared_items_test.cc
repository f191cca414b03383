#include "runtime/shared_items.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <string>

namespace betterbox {
namespace {

ItemBytes bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

/// An item of tag kShared whose bytes were sent.
std::string sent_item(char fill, std::size_t size = kSharedItemMinBytes) {
  const std::string bytes(size, fill);
  const std::span<const std::byte> part = std::as_bytes(std::span(bytes));
  auto refs = SentBuffers().put(std::span(&part, 1));
  // A warm file that a test has removed is given up at the next write.
  for (int i = 0; i < 5 && !refs; ++i) refs = SentBuffers().put(std::span(&part, 1));
  std::string item;
  append_shared_item(item, ItemTag::kBytes, refs.value());
  return item;
}

std::string path_of(const std::string& item) {
  return std::string(kSegmentFolder) + "/" + std::string(parse_shared_item(bytes_of(item)).value().name);
}

char first_byte(const std::string& item) {
  const auto view = parse_shared_item(bytes_of(item));
  const auto held = held_for(*view);
  const auto mapped = held ? MappedSegment::map(held, view->parts[0].first, view->parts[0].second) : nullptr;
  return mapped ? static_cast<char>(mapped->bytes()[0]) : '?';
}

class SharedItemsTest : public testing::Test {
 protected:
  void SetUp() override {
    if (store_id().empty()) GTEST_SKIP() << "no shared memory here";
  }
};

TEST_F(SharedItemsTest, AnItemSaysWhereItsBytesLie) {
  std::string item;
  append_shared_item(item, ItemTag::kPickleBuffers, {{"name", 7, 4096, 10}, {"name", 7, 8192, 20}});
  item += "pickle";
  const auto view = parse_shared_item(bytes_of(item));
  ASSERT_TRUE(view);
  EXPECT_EQ(view->form, ItemTag::kPickleBuffers);
  EXPECT_EQ(view->name, "name");
  EXPECT_EQ(view->serial, 7U);
  EXPECT_EQ(view->end(), 8212U);
  EXPECT_EQ(view->rest.size(), 6U);
  for (std::size_t size = 0; size < item.size() - 6; ++size)
    EXPECT_FALSE(parse_shared_item(bytes_of(item).first(size)));
}

TEST_F(SharedItemsTest, APageSaysThatItRefers) {
  const std::string item = sent_item('a'), plain(1, '\0');
  EXPECT_TRUE(PageView::may_refer(make_single_page(bytes_of(item)).bytes()));
  EXPECT_FALSE(PageView::may_refer(make_single_page(bytes_of(plain)).bytes()));
  PageBuilder builder;
  builder.add(bytes_of(plain)), builder.add(bytes_of(item)), builder.add(bytes_of(plain));
  const Frame page = builder.finish();
  EXPECT_TRUE(PageView::may_refer(page.bytes()));
  EXPECT_TRUE(PageView::may_refer(slice_page(page, *PageView::parse(page.bytes()), 1, 3).bytes()));
  EXPECT_FALSE(PageView::may_refer(slice_page(page, *PageView::parse(page.bytes()), 0, 1).bytes()));
  take_shared(page, 0);
}

TEST_F(SharedItemsTest, WhatWasTakenStaysAsLongAsItsFrame) {
  const std::string item = sent_item('a');
  Frame page = take_shared(make_single_page(bytes_of(item)), 0);
  ASSERT_EQ(::unlink(path_of(item).c_str()), 0);  // as an owner does that ends
  EXPECT_EQ(first_byte(item), 'a');
  EXPECT_EQ(first_byte(item), 'a') << "a second time";
  page = Frame();
  EXPECT_EQ(first_byte(item), '?');
}

TEST_F(SharedItemsTest, WhatComesTwiceIsTakenOnce) {
  const std::string item = sent_item('a');
  Frame one = take_shared(make_single_page(bytes_of(item)), 0);
  Frame other = take_shared(make_single_page(bytes_of(item)), 0);
  ::unlink(path_of(item).c_str());
  one = Frame();
  EXPECT_EQ(first_byte(item), 'a');
}

TEST_F(SharedItemsTest, AValueThatIsGoneBecomesALostItem) {
  const std::string item = sent_item('a'), there = sent_item('b');
  ::unlink(path_of(item).c_str());
  PageBuilder builder;
  builder.add(bytes_of(there)), builder.add(bytes_of(item));
  const Frame page = take_shared(builder.finish(), 40);
  const auto view = PageView::parse(page.bytes());
  ASSERT_TRUE(view);
  EXPECT_TRUE(parse_shared_item(view->item(0)));
  const auto lost = parse_lost_item(view->item(1));
  ASSERT_TRUE(lost);
  EXPECT_EQ(lost->code, LostCode::kWorkerLost);
  EXPECT_EQ(lost->index, 41U);
}

TEST_F(SharedItemsTest, RubbishIsNoReason) {
  std::string item;
  append_shared_item(item, ItemTag::kBytes, {{"../../etc/passwd", 1, 4096, 10}});
  const Frame page = take_shared(make_single_page(bytes_of(item)), 0);
  EXPECT_TRUE(parse_lost_item(PageView::parse(page.bytes())->item(0)));
  const std::string truncated = item.substr(0, 9);
  EXPECT_TRUE(parse_lost_item(
      PageView::parse(take_shared(make_single_page(bytes_of(truncated)), 0).bytes())->item(0)));
  const Frame none = Frame(std::string("\x01\x01\x00\x00\xff\xff\xff\xff", 8));
  EXPECT_EQ(take_shared(none, 0), none);
}

TEST_F(SharedItemsTest, KeptBuffersLiveAsLongAsTheirHold) {
  KeptBuffers kept;
  const std::string bytes(kSharedItemMinBytes, 'k');
  const std::span<const std::byte> part = std::as_bytes(std::span(bytes));
  const auto refs = kept.put(std::span(&part, 1));
  ASSERT_TRUE(refs);
  EXPECT_EQ(kept.bytes(), bytes.size());
  auto hold = kept.hold();
  EXPECT_EQ(kept.hold(), nullptr);
  EXPECT_TRUE(MappedSegment::open(kSegmentFolder, refs->front()));
  hold.reset();
  for (int i = 0; i < 5 && !kept.put(std::span(&part, 1)); ++i) {}
  EXPECT_FALSE(MappedSegment::open(kSegmentFolder, refs->front())) << "it has been written again";
}

}  // namespace
}  // namespace betterbox
