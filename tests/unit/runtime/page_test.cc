#include "runtime/page.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

namespace betterbox {
namespace {

ItemBytes bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

std::string text(ItemBytes item) { return {reinterpret_cast<const char*>(item.data()), item.size()}; }

Frame page_of(const std::vector<std::string>& items) {
  PageBuilder builder;
  for (const std::string& item : items) builder.add(bytes(item));
  return builder.finish();
}

TEST(Page, GivesBackItsItemsInOrder) {
  const std::vector<std::string> items{"one", "x", "a longer item", "4"};
  const Frame page = page_of(items);
  const auto view = PageView::parse(page.bytes());
  ASSERT_TRUE(view);
  EXPECT_EQ(view->kind(), PageKind::kItems);
  ASSERT_EQ(view->count(), items.size());
  for (std::size_t i = 0; i < items.size(); ++i) EXPECT_EQ(text(view->item(i)), items[i]);
}

TEST(Page, OfOneItemAlignsItTo64Bytes) {
  const Frame page = page_of({"alone"});
  const auto view = PageView::parse(page.bytes());
  ASSERT_TRUE(view);
  EXPECT_EQ(view->kind(), PageKind::kSingle);
  EXPECT_EQ(text(view->item(0)), "alone");
  EXPECT_EQ(static_cast<std::size_t>(view->item(0).data() - page.data()), 64U);
}

TEST(Page, BuilderIsEmptyAfterFinish) {
  PageBuilder builder;
  builder.add(bytes("a"));
  builder.finish();
  EXPECT_TRUE(builder.empty());
  builder.add(bytes("b"));
  EXPECT_EQ(text(PageView::parse(builder.finish().bytes())->item(0)), "b");
}

TEST(Page, DescribesIntegersWithoutHoldingThem) {
  const Frame page = make_int_range_page(10, -3, 1'000'000'000);
  const auto view = PageView::parse(page.bytes());
  ASSERT_TRUE(view);
  EXPECT_LT(page.size(), 100U);
  EXPECT_EQ(view->count(), 1'000'000'000U);
  EXPECT_EQ(view->int_item(0), 10);
  EXPECT_EQ(view->int_item(999'999'999), 10 - 3LL * 999'999'999);
}

TEST(Page, SliceHoldsExactlyTheItemsAskedFor) {
  const std::vector<std::string> items{"aa", "b", "cccc", "dd", "e"};
  const Frame page = page_of(items);
  const auto view = PageView::parse(page.bytes());
  for (std::size_t begin = 0; begin < items.size(); ++begin) {
    for (std::size_t end = begin + 1; end <= items.size(); ++end) {
      const Frame part = slice_page(page, *view, begin, end);
      const auto part_view = PageView::parse(part.bytes());
      ASSERT_TRUE(part_view) << begin << ' ' << end;
      ASSERT_EQ(part_view->count(), end - begin);
      for (std::size_t i = begin; i < end; ++i) EXPECT_EQ(text(part_view->item(i - begin)), items[i]);
    }
  }
}

TEST(Page, SliceOfIntegersIsAgainADescription) {
  const Frame page = make_int_range_page(100, 7, 50);
  const Frame part = slice_page(page, *PageView::parse(page.bytes()), 10, 20);
  const auto view = PageView::parse(part.bytes());
  ASSERT_TRUE(view);
  EXPECT_EQ(view->count(), 10U);
  EXPECT_EQ(view->int_item(0), 170);
}

TEST(Page, SliceOfEverythingSharesItsMemory) {
  const Frame page = page_of({"a", "b"});
  EXPECT_EQ(slice_page(page, *PageView::parse(page.bytes()), 0, 2).data(), page.data());
}

TEST(Page, TruncatedAtAnyLengthIsNoPage) {
  for (const Frame& page : {page_of({"one", "two", "three"}), make_int_range_page(0, 1, 5)}) {
    for (std::size_t size = 0; size < page.size(); ++size) {
      EXPECT_FALSE(PageView::parse(page.bytes().first(size))) << size;
    }
  }
}

TEST(Page, WithOffsetsThatLieIsNoPage) {
  const Frame good = page_of({"one", "two"});
  for (std::size_t place = 4; place < 20; ++place) {
    std::string bad(good.view());
    bad[place] = static_cast<char>(0xFF);
    EXPECT_FALSE(PageView::parse(bytes(bad))) << place;
  }
}

TEST(Page, OfIntegersThatWouldOverflowIsNoPage) {
  const Frame page = make_int_range_page(std::numeric_limits<std::int64_t>::max(), 1, 2);
  EXPECT_FALSE(PageView::parse(page.bytes()));
}

TEST(LostItem, SaysEverythingThatWasPutIn) {
  const DeathReport death{11, 0, "node7", 1234, 98765, "Segmentation fault"};
  const std::string item = make_lost_item(LostCode::kPoisoned, 42, death, "three deaths");
  const auto lost = parse_lost_item(bytes(item));
  ASSERT_TRUE(lost);
  EXPECT_EQ(lost->code, LostCode::kPoisoned);
  EXPECT_EQ(lost->index, 42U);
  EXPECT_EQ(lost->signal, 11);
  EXPECT_EQ(lost->pid, 1234U);
  EXPECT_EQ(lost->peak_kib, 98765U);
  EXPECT_EQ(lost->host, "node7");
  EXPECT_EQ(lost->stderr_tail, "Segmentation fault");
  EXPECT_EQ(lost->detail, "three deaths");
  for (std::size_t size = 0; size < item.size(); ++size)
    EXPECT_FALSE(parse_lost_item(bytes(item).first(size)));
}

}  // namespace
}  // namespace betterbox
