#include "runtime/page.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <utility>

namespace betterbox {
namespace {

static_assert(std::endian::native == std::endian::little,
              "pages are little-endian, as is every supported machine");

constexpr std::size_t kItemsHeaderBytes = 8;
constexpr std::size_t kIntRangeBytes = 32;
constexpr std::size_t kSingleOffset = 64;
constexpr std::size_t kColumnHeaderBytes = 16;
constexpr char kShared = static_cast<char>(ItemTag::kShared);

template <class T> void append(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void append_text(std::string& out, std::string_view text) {
  append(out, static_cast<std::uint32_t>(text.size()));
  out.append(text);
}

template <class T> T load(std::span<const std::byte> bytes, std::size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

/// Reads fields one after the other; `ok` turns false at the first that is not all there.
struct FieldReader {
  std::span<const std::byte> rest;
  bool ok = true;

  template <class T> void read(T& value) {
    if (rest.size() < sizeof value) {
      ok = false;
      return;
    }
    std::memcpy(&value, rest.data(), sizeof value);
    rest = rest.subspan(sizeof value);
  }
  void read(std::string_view& text) {
    std::uint32_t size = 0;
    read(size);
    if (!ok || rest.size() < size) {
      ok = false;
      return;
    }
    text = {reinterpret_cast<const char*>(rest.data()), size};
    rest = rest.subspan(size);
  }
};

Frame make_items_page(std::string_view data, const std::vector<std::uint64_t>& starts,
                      std::uint8_t flags = 0) {
  const std::size_t table = kItemsHeaderBytes + 4 * (starts.size() + 1);
  BB_CHECK(table + data.size() <= std::numeric_limits<std::uint32_t>::max());
  std::string page;
  page.reserve(table + data.size());
  page.push_back(static_cast<char>(PageKind::kItems));
  const bool refers =
      std::any_of(starts.begin(), starts.end(), [&](std::uint64_t at) { return data[at] == kShared; });
  page.push_back(static_cast<char>(refers ? flags | 1U : flags));
  append(page, std::uint16_t{0});
  append(page, static_cast<std::uint32_t>(starts.size()));
  for (const std::uint64_t start : starts) append(page, static_cast<std::uint32_t>(table + start));
  append(page, static_cast<std::uint32_t>(table + data.size()));
  page.append(data);
  return Frame(std::move(page));
}

/// Of a value in a column without a description.
std::size_t plain_size(ColumnType type) {
  switch (type) {
    case ColumnType::kNone: return 0;
    case ColumnType::kBool: return 1;
    default: return 8;
  }
}

/// The header of a column of the same type.
std::string header_like(const PageView& column, std::uint32_t count) {
  const auto description = column.description();
  return column_header(column.column_type(), count, column.value_size(),
                       {reinterpret_cast<const char*>(description.data()), description.size()});
}

}  // namespace

std::string make_lost_item(LostCode code, std::uint64_t index, const DeathReport& death,
                           std::string_view detail) {
  std::string item(1, static_cast<char>(ItemTag::kLost));
  append(item, static_cast<std::uint16_t>(code));
  append(item, index);
  append(item, death.signal);
  append(item, death.exit_code);
  append(item, death.pid);
  append(item, death.peak_kib);
  append_text(item, death.host);
  append_text(item, death.stderr_tail);
  append_text(item, detail);
  return item;
}

std::optional<LostItemView> parse_lost_item(ItemBytes item) {
  if (item.empty() || item[0] != std::byte{static_cast<std::uint8_t>(ItemTag::kLost)}) return std::nullopt;
  LostItemView lost;
  std::uint16_t code = 0;
  FieldReader fields{item.subspan(1)};
  fields.read(code);
  fields.read(lost.index);
  fields.read(lost.signal);
  fields.read(lost.exit_code);
  fields.read(lost.pid);
  fields.read(lost.peak_kib);
  fields.read(lost.host);
  fields.read(lost.stderr_tail);
  fields.read(lost.detail);
  if (!fields.ok || !fields.rest.empty()) return std::nullopt;
  lost.code = static_cast<LostCode>(code);
  return lost;
}

void PageBuilder::add(ItemBytes item) {
  BB_CHECK(column_count_ == 0);
  starts_.push_back(data_.size());
  data_.append(reinterpret_cast<const char*>(item.data()), item.size());
}

bool PageBuilder::takes(const PageView& page) const {
  if (page.has_items()) return column_count_ == 0 && page.kind() != PageKind::kFold;
  if (page.kind() != PageKind::kColumn) return false;
  return empty() || (column_count_ > 0 && header_like(page, 0) == column_header_);
}

void PageBuilder::add(const PageView& page) {
  BB_CHECK(takes(page));
  if (page.kind() != PageKind::kColumn) {
    for (std::uint64_t i = 0; i < page.count(); ++i) add(page.item(i));
    return;
  }
  if (column_count_ == 0) column_header_ = header_like(page, 0);
  const auto values = page.values(0, page.count());
  data_.append(reinterpret_cast<const char*>(values.data()), values.size());
  column_count_ += static_cast<std::uint32_t>(page.count());
}

Frame PageBuilder::finish(std::uint8_t flags) {
  BB_CHECK(!empty());
  if (column_count_ > 0) {
    std::memcpy(column_header_.data() + 4, &column_count_, sizeof column_count_);
    column_count_ = 0;
    column_header_.append(std::exchange(data_, {}));
    return Frame(std::exchange(column_header_, {}));
  }
  Frame page = starts_.size() == 1
                   ? make_single_page(std::as_bytes(std::span(data_)), PageKind::kSingle, flags)
                   : make_items_page(data_, starts_, flags);
  data_.clear();
  starts_.clear();
  return page;
}

std::optional<PageView> PageView::parse(std::span<const std::byte> bytes) {
  if (bytes.size() < kItemsHeaderBytes) return std::nullopt;
  PageView view;
  view.bytes_ = bytes;
  view.kind_ = static_cast<PageKind>(bytes[0]);
  switch (view.kind_) {
    case PageKind::kItems: {
      view.count_ = load<std::uint32_t>(bytes, 4);
      // 64-bit arithmetic: a hostile count cannot wrap.
      const std::uint64_t table = kItemsHeaderBytes + 4 * (view.count_ + 1);
      if (view.count_ == 0 || table > bytes.size()) return std::nullopt;
      std::uint32_t previous = load<std::uint32_t>(bytes, kItemsHeaderBytes);
      if (previous != table) return std::nullopt;
      for (std::uint64_t i = 1; i <= view.count_; ++i) {
        const auto offset = load<std::uint32_t>(bytes, kItemsHeaderBytes + 4 * i);
        if (offset <= previous) return std::nullopt;  // an item has a tag byte at least
        previous = offset;
      }
      if (previous != bytes.size()) return std::nullopt;
      return view;
    }
    case PageKind::kIntRange: {
      if (bytes.size() != kIntRangeBytes) return std::nullopt;
      view.count_ = load<std::uint64_t>(bytes, 8);
      view.start_ = load<std::int64_t>(bytes, 16);
      view.step_ = load<std::int64_t>(bytes, 24);
      if (view.count_ == 0 ||
          view.count_ > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
        return std::nullopt;
      std::int64_t span = 0, last = 0;
      if (__builtin_mul_overflow(static_cast<std::int64_t>(view.count_ - 1), view.step_, &span) ||
          __builtin_add_overflow(view.start_, span, &last)) {
        return std::nullopt;
      }
      return view;
    }
    case PageKind::kColumn: return parse_column(bytes);
    case PageKind::kFold:
    case PageKind::kSingle:
      if (bytes.size() <= kSingleOffset) return std::nullopt;
      view.count_ = 1;
      return view;
  }
  return std::nullopt;
}

std::optional<PageView> PageView::parse_column(std::span<const std::byte> bytes) {
  if (bytes.size() < kColumnHeaderBytes || std::to_integer<std::size_t>(bytes[1]) >= kColumnTypes)
    return std::nullopt;
  PageView view;
  view.bytes_ = bytes;
  view.kind_ = PageKind::kColumn;
  view.header_size_ = load<std::uint16_t>(bytes, 2);
  view.count_ = load<std::uint32_t>(bytes, 4);
  view.value_size_ = load<std::uint64_t>(bytes, 8);
  const std::size_t header = view.header_size_;
  if (header < kColumnHeaderBytes || header % kColumnHeaderBytes != 0 || header > bytes.size())
    return std::nullopt;
  const bool described = view.column_type() >= ColumnType::kScalars;
  const std::size_t size = view.value_size_;
  if (described ? header == kColumnHeaderBytes || size == 0
                : header != kColumnHeaderBytes || size != plain_size(view.column_type()))
    return std::nullopt;
  std::size_t data = 0;
  if (view.count_ == 0 || __builtin_mul_overflow(view.count_, size, &data) || data != bytes.size() - header)
    return std::nullopt;
  return view;
}

std::span<const std::byte> PageView::description() const {
  BB_CHECK(kind_ == PageKind::kColumn);
  return bytes_.subspan(kColumnHeaderBytes, header_size_ - kColumnHeaderBytes);
}

std::span<const std::byte> PageView::values(std::uint64_t begin, std::uint64_t end) const {
  BB_CHECK(kind_ == PageKind::kColumn && begin <= end && end <= count_);
  return bytes_.subspan(header_size_ + begin * value_size_, (end - begin) * value_size_);
}

std::string PageView::copy_item(std::uint64_t i) const {
  if (has_items()) {
    const ItemBytes bytes = item(i);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  BB_CHECK(i < count_);
  const auto tagged = [](ItemTag tag) { return std::string(1, static_cast<char>(tag)); };
  if (kind_ == PageKind::kIntRange) {
    std::string item = tagged(ItemTag::kInt);
    append(item, int_item(i));
    return item;
  }
  const auto value = values(i, i + 1);
  std::string item;
  switch (column_type()) {
    case ColumnType::kNone: return tagged(ItemTag::kNone);
    case ColumnType::kBool: return tagged(value[0] != std::byte{0} ? ItemTag::kTrue : ItemTag::kFalse);
    case ColumnType::kInt: item = tagged(ItemTag::kInt); break;
    case ColumnType::kFloat: item = tagged(ItemTag::kFloat); break;
    case ColumnType::kScalars:
    case ColumnType::kArrays: {
      const bool scalars = column_type() == ColumnType::kScalars;
      item = tagged(scalars ? ItemTag::kScalar : ItemTag::kArray);
      const auto text = description();
      std::size_t size = 1 + std::to_integer<std::size_t>(text[0]);
      if (!scalars && size < text.size()) size += 1 + 8 * std::to_integer<std::size_t>(text[size]);
      // A description that ends too early makes an item that nobody can read, which its reader says.
      item.append(reinterpret_cast<const char*>(text.data()), std::min(size, text.size()));
      if (!scalars) item.resize((item.size() + kSingleOffset - 1) / kSingleOffset * kSingleOffset, '\0');
    }
  }
  item.append(reinterpret_cast<const char*>(value.data()), value.size());
  return item;
}

std::string column_header(ColumnType type, std::uint32_t count, std::size_t size,
                          std::string_view description) {
  const std::size_t described =
      (description.size() + kColumnHeaderBytes - 1) / kColumnHeaderBytes * kColumnHeaderBytes;
  std::string header;
  header.push_back(static_cast<char>(PageKind::kColumn));
  header.push_back(static_cast<char>(type));
  append(header, static_cast<std::uint16_t>(kColumnHeaderBytes + described));
  append(header, count);
  append(header, static_cast<std::uint64_t>(size));
  header.append(description);
  header.resize(kColumnHeaderBytes + described, '\0');
  return header;
}

bool PageView::may_refer(std::span<const std::byte> page) {
  if (page.size() < 2 || (page[1] & std::byte{1}) == std::byte{0}) return false;
  const auto kind = static_cast<PageKind>(page[0]);
  return kind == PageKind::kItems || kind == PageKind::kFold || kind == PageKind::kSingle;
}

bool PageView::is_from_near(std::span<const std::byte> page) {
  return page.size() > 2 && (page[1] & std::byte{kFromNear}) != std::byte{0};
}

ItemBytes PageView::item(std::uint64_t i) const {
  BB_CHECK(i < count_ && has_items());
  if (kind_ != PageKind::kItems) return bytes_.subspan(kSingleOffset);
  const auto begin = load<std::uint32_t>(bytes_, kItemsHeaderBytes + 4 * i);
  const auto end = load<std::uint32_t>(bytes_, kItemsHeaderBytes + 4 * (i + 1));
  return bytes_.subspan(begin, end - begin);
}

Frame make_int_range_page(std::int64_t start, std::int64_t step, std::uint64_t count) {
  std::string page;
  page.reserve(kIntRangeBytes);
  append(page, static_cast<std::uint64_t>(PageKind::kIntRange));  // the kind and seven zero bytes
  append(page, count);
  append(page, start);
  append(page, step);
  return Frame(std::move(page));
}

Frame make_single_page(ItemBytes item, PageKind kind, std::uint8_t flags) {
  BB_CHECK(kind == PageKind::kSingle || kind == PageKind::kFold);
  std::string page(kSingleOffset, '\0');
  page[0] = static_cast<char>(kind);
  const bool refers = !item.empty() && static_cast<char>(item[0]) == kShared;
  page[1] = static_cast<char>(refers ? flags | 1U : flags);
  page.append(reinterpret_cast<const char*>(item.data()), item.size());
  return Frame(std::move(page));
}

Frame with_items(const PageView& page) {
  PageBuilder builder;
  for (std::uint64_t i = 0; i < page.count(); ++i) {
    const std::string item = page.copy_item(i);
    builder.add(std::as_bytes(std::span(item)));
  }
  return builder.finish();
}

Frame slice_page(const Frame& page, const PageView& view, std::uint64_t begin, std::uint64_t end) {
  BB_CHECK(begin < end && end <= view.count() && view.kind() != PageKind::kFold);
  if (begin == 0 && end == view.count()) return page;
  if (view.kind() == PageKind::kIntRange) {
    return make_int_range_page(view.int_item(begin), view.int_step(), end - begin);
  }
  if (view.kind() == PageKind::kColumn) {
    const auto values = view.values(begin, end);
    std::string part = header_like(view, static_cast<std::uint32_t>(end - begin));
    part.append(reinterpret_cast<const char*>(values.data()), values.size());
    return Frame(std::move(part));
  }
  if (end - begin == 1) return make_single_page(view.item(begin));
  std::vector<std::uint64_t> starts;
  starts.reserve(end - begin);
  const ItemBytes first = view.item(begin);
  const ItemBytes last = view.item(end - 1);
  for (std::uint64_t i = begin; i < end; ++i) {
    starts.push_back(static_cast<std::uint64_t>(view.item(i).data() - first.data()));
  }
  const auto size = static_cast<std::size_t>(last.data() + last.size() - first.data());
  return make_items_page({reinterpret_cast<const char*>(first.data()), size}, starts);
}

}  // namespace betterbox
