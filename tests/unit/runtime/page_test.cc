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

// --- columns --------------------------------------------------------------------------------------

std::vector<std::string> sample_columns() {
  std::vector<std::string> pages{column_header(ColumnType::kNone, 5, 0),
                                 column_header(ColumnType::kBool, 3, 1) + std::string("\1\0\1", 3),
                                 column_header(ColumnType::kInt, 3, 8),
                                 column_header(ColumnType::kFloat, 2, 8)};
  for (const std::int64_t value :
       {std::int64_t{1}, std::int64_t{-1}, std::numeric_limits<std::int64_t>::min()})
    pages[2].append(reinterpret_cast<const char*>(&value), 8);
  for (const double value : {-0.0, 2.5}) pages[3].append(reinterpret_cast<const char*>(&value), 8);
  pages.push_back(column_header(ColumnType::kScalars, 4, 2, "\3<i2") + "aabbccdd");
  const std::uint64_t extent = 3;
  pages.push_back(column_header(ColumnType::kArrays, 2, 3,
                                "\3|u1\1" + std::string(reinterpret_cast<const char*>(&extent), 8)) +
                  "abcdef");
  return pages;
}

TEST(Column, IsSlicedAndJoinedAgainAtEveryPlace) {
  for (const std::string& bytes_of_page : sample_columns()) {
    const Frame page{std::string(bytes_of_page)};
    const auto view = PageView::parse(page.bytes());
    ASSERT_TRUE(view);
    EXPECT_FALSE(view->has_items());
    for (std::uint64_t cut = 1; cut < view->count(); ++cut) {
      const Frame front = slice_page(page, *view, 0, cut), back = slice_page(page, *view, cut, view->count());
      const auto front_view = PageView::parse(front.bytes()), back_view = PageView::parse(back.bytes());
      ASSERT_TRUE(front_view && back_view);
      EXPECT_EQ(back_view->copy_item(0), view->copy_item(cut));
      PageBuilder builder;
      builder.add(*front_view);
      ASSERT_TRUE(builder.takes(*back_view));
      builder.add(*back_view);
      EXPECT_EQ(builder.finish().view(), page.view());
    }
  }
}

TEST(Column, IsNotJoinedWithAnotherTypeOrWithItems) {
  const auto pages = sample_columns();
  for (std::size_t i = 0; i < pages.size(); ++i) {
    PageBuilder builder;
    builder.add(*PageView::parse(bytes(pages[i])));
    for (std::size_t k = 0; k < pages.size(); ++k)
      EXPECT_EQ(builder.takes(*PageView::parse(bytes(pages[k]))), i == k);
    EXPECT_FALSE(builder.takes(*PageView::parse(make_single_page(bytes("x")).bytes())));
  }
}

TEST(Column, AsItemsSaysTheSame) {
  for (const std::string& page : sample_columns()) {
    const auto view = PageView::parse(bytes(page));
    const Frame items = with_items(*view);
    const auto items_view = PageView::parse(items.bytes());
    ASSERT_EQ(items_view->count(), view->count());
    for (std::uint64_t i = 0; i < view->count(); ++i) EXPECT_EQ(items_view->copy_item(i), view->copy_item(i));
  }
}

TEST(Column, IsRefusedIfItsNumbersDoNotFit) {
  for (const std::string& page : sample_columns()) {
    EXPECT_FALSE(PageView::parse(bytes(page + 'x')));
    for (std::size_t size = 0; size < page.size(); ++size)
      EXPECT_FALSE(PageView::parse(bytes(page.substr(0, size))));
    for (std::size_t place = 1; place < 16; ++place) {
      for (int bit = 0; bit < 8; ++bit) {
        std::string bad = page;
        bad[place] = static_cast<char>(bad[place] ^ (1 << bit));
        const auto view = PageView::parse(bytes(bad));
        if (!view) continue;  // what is taken holds what it says
        EXPECT_EQ(view->values(0, view->count()).size(), view->count() * view->value_size());
        view->copy_item(view->count() - 1);
      }
    }
  }
}

TEST(Column, SettlesAsManyItemsAsItHasValues) {
  const std::string page = column_header(ColumnType::kNone, 1, 0);
  EXPECT_TRUE(PageView::parse(bytes(page))->holds_outcomes_of(1));
  EXPECT_FALSE(PageView::parse(bytes(page))->holds_outcomes_of(2));
  EXPECT_TRUE(PageView::parse(make_single_page(bytes("x")).bytes())->holds_outcomes_of(2));
}

}  // namespace
}  // namespace betterbox
