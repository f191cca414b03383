// Pages: how items and outcomes travel (docs/protocol.md, section "Pages"). Pure bytes: what a pickle
// means is Python's business.
//
// An *item* is a tag byte and its payload (all numbers little-endian):
//   0 None  1 True  2 False  3 int (i64)  4 float (f64)  5 str (UTF-8)  6 bytes
//   7 pickle (protocol 5, nothing out of band)
//   8 pickle with out-of-band buffers: u32 n, n x u64 length, u64 pickle length, pickle, then the buffers,
//     each at the next multiple of 64 from the start of the item
//   9 ndarray: u8 dtype length, dtype (numpy's .str), u8 ndim, ndim x u64 shape, then the data (C order)
//     at the next multiple of 64 from the start of the item
//  10 error: an exception. u32 length + text, three times (type name, message, traceback), then a pickle
//     of the exception (may be empty)
//  11 lost: an outcome made by the system, not by user code: u16 LostCode, u64 index, i32 signal,
//     i32 exit code, u32 pid, u64 peak memory in KiB, then u32 length + text, three times (host,
//     tail of stderr, detail)
//  12 arguments of a call: u32 positional, u32 by keyword, then the values in this order, each u32 length + item,
//     the ones by keyword behind u32 length + name (UTF-8)
//  13 shared: one of 6, 8 and 9 whose bytes or buffers lie in shared memory: u8 which of them, u32 n, u64 serial,
//     u32 length + name of the segment, u32 length + store, n x (u64 offset, u64 size), then of 8 the pickle, of 9
//     u8 dtype length, dtype, u8 ndim, ndim x u64 shape
//  16 NumPy scalar: u8 dtype length, dtype (numpy's .str), then its bytes
//
// A *page* is a kind byte, then by kind:
//   1 items: u8 flags, 2 zero bytes, u32 count, (count + 1) x u32 offsets from the start of the page (ascending,
//     the last one is the page's size), then the items without gaps
//   2 int range: 7 zero bytes, u64 count, i64 start, i64 step: item i is int start + i * step
//   3 fold: u8 flags, 62 zero bytes, then one item: the fold of all items that the page's span covers
//   4 single: u8 flags, 62 zero bytes, then one item of any size (so that its buffers are aligned)
//   5 column: u8 type, u16 header size h (a multiple of 16), u32 count, u64 size s of a value, a description of h - 16
//     bytes, then count x s bytes: many values of one type. By type: 0 None (s 0), 1 bool (s 1), 2 int (i64),
//     3 float (f64): without a description; 4 NumPy scalars: u8 dtype length, dtype, zeros; 5 NumPy arrays of one
//     shape: u8 dtype length, dtype, u8 ndim, ndim x u64 shape, zeros
// Flags: 1 if an item is shared; 2, of arguments: the reply may be.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "runtime/frame.h"
#include "runtime/messages.h"

namespace betterbox {

enum class ItemTag : std::uint8_t {
  kNone = 0,
  kTrue = 1,
  kFalse = 2,
  kInt = 3,
  kFloat = 4,
  kStr = 5,
  kBytes = 6,
  kPickle = 7,
  kPickleBuffers = 8,
  kArray = 9,
  kError = 10,
  kLost = 11,
  kArguments = 12,
  kShared = 13,
  kScalar = 16,
};

/// A flag of a page of arguments.
inline constexpr std::uint8_t kFromNear = 2;

enum class PageKind : std::uint8_t { kItems = 1, kIntRange = 2, kFold = 3, kSingle = 4, kColumn = 5 };

/// What the values of a column are.
enum class ColumnType : std::uint8_t {
  kNone = 0,
  kBool = 1,
  kInt = 2,
  kFloat = 3,
  kScalars = 4,
  kArrays = 5
};
inline constexpr std::size_t kColumnTypes = 6;

enum class LostCode : std::uint16_t {
  kPoisoned = 1,  ///< its process died more often than `retries` allows
  kCancelled = 2,
  kTimeout = 3,
  kBoxLost = 4,  ///< the box (or every box at the port) is gone
  kWorkerLost = 5,
  kNoSuchBox = 6,       ///< a direct call for a box that does not sit there (any more)
  kNoSuchMethod = 7,    ///< detail: the nearest names
  kBadRequest = 8,      ///< bytes that are no arguments
  kBusLost = 9,         ///< made by the client itself: the bus is gone
  kUnsatisfiable = 10,  ///< no agent can ever give what the item needs; detail: what, and what there is
  kDeadlock = 11,       ///< who waits for it can never have it; detail: why
};

using ItemBytes = std::span<const std::byte>;

/// The parsed form of an item with tag kLost. Texts live as long as the item.
struct LostItemView {
  LostCode code{};
  std::uint64_t index = 0;
  std::int32_t signal = 0;
  std::int32_t exit_code = 0;
  std::uint32_t pid = 0;
  std::uint64_t peak_kib = 0;
  std::string_view host, stderr_tail, detail;
};
std::string make_lost_item(LostCode code, std::uint64_t index, const DeathReport& death,
                           std::string_view detail);
std::optional<LostItemView> parse_lost_item(ItemBytes item);

class PageView;

/// Collects items, or columns of one type, into one page. The owner finishes a page at kPageBytes, so offsets fit
/// 32 bits.
class PageBuilder {
 public:
  /// REQUIRES: no column was added.
  void add(ItemBytes item);
  /// True if add(page) is allowed: all items so far, and all of this page, or all columns of one type.
  bool takes(const PageView& page) const;
  /// All items of the page. REQUIRES: takes(page).
  void add(const PageView& page);
  std::uint32_t count() const { return column_count_ + static_cast<std::uint32_t>(starts_.size()); }
  std::size_t bytes() const { return data_.size() + 4 * starts_.size() + 12; }
  bool empty() const { return count() == 0; }
  /// The page (kSingle for one item, kColumn of columns, else kItems); the builder is empty afterwards.
  Frame finish(std::uint8_t flags = 0);

 private:
  std::string data_;
  std::vector<std::uint64_t> starts_;
  std::string column_header_;
  std::uint32_t column_count_ = 0;
};

/// A checked look at a page. parse() validates every offset once, so item(i) needs no checks.
class PageView {
 public:
  /// Empty if `bytes` is no page. The view refers to `bytes`.
  static std::optional<PageView> parse(std::span<const std::byte> bytes);

  /// False if no item of the page can be kShared: a look at two bytes.
  static bool may_refer(std::span<const std::byte> page);
  /// These are arguments of a client with which this process shares its memory.
  static bool is_from_near(std::span<const std::byte> page);

  PageKind kind() const { return kind_; }
  /// Items in the page (a fold has one).
  std::uint64_t count() const { return count_; }
  /// True if item(i) may be asked for: neither integers that are described nor a column.
  bool has_items() const { return kind_ != PageKind::kIntRange && kind_ != PageKind::kColumn; }
  /// REQUIRES: i < count(), has_items().
  ItemBytes item(std::uint64_t i) const;
  /// The bytes of item i, of whatever kind the page is. REQUIRES: i < count().
  std::string copy_item(std::uint64_t i) const;
  /// REQUIRES: kind kIntRange.
  std::int64_t int_item(std::uint64_t i) const { return start_ + static_cast<std::int64_t>(i) * step_; }
  std::int64_t int_step() const { return step_; }

  /// True for a page that may settle so many items: one outcome for each, or one item for all.
  bool holds_outcomes_of(std::uint64_t items) const {
    return kind_ != PageKind::kIntRange && (count_ == items || (count_ == 1 && has_items()));
  }

  // REQUIRES: kind kColumn.
  ColumnType column_type() const { return static_cast<ColumnType>(bytes_[1]); }
  std::size_t value_size() const { return value_size_; }
  /// What kScalars and kArrays are, behind it zeros.
  std::span<const std::byte> description() const;
  /// Values [begin, end).
  std::span<const std::byte> values(std::uint64_t begin, std::uint64_t end) const;
  template <class T> T value(std::uint64_t i) const {
    T value;
    std::memcpy(&value, values(i, i + 1).data(), sizeof value);
    return value;
  }

 private:
  static std::optional<PageView> parse_column(std::span<const std::byte> bytes);
  PageKind kind_{};
  std::size_t header_size_ = 0, value_size_ = 0;  // of a column
  std::uint64_t count_ = 0;
  std::int64_t start_ = 0, step_ = 0;
  std::span<const std::byte> bytes_;
};

/// A page that describes the integers start, start + step, ... (count of them).
Frame make_int_range_page(std::int64_t start, std::int64_t step, std::uint64_t count);
/// What stands before `count` values of `size` bytes each in a column.
std::string column_header(ColumnType type, std::uint32_t count, std::size_t size,
                          std::string_view description = {});
/// One item as a page.
Frame make_single_page(ItemBytes item, PageKind kind = PageKind::kSingle, std::uint8_t flags = 0);
/// The same values as items. REQUIRES: not a fold.
Frame with_items(const PageView& page);
/// Items [begin, end) of a page as a page of their own. REQUIRES: not a fold, end <= count.
/// Shares memory when the whole page is asked for.
Frame slice_page(const Frame& page, const PageView& view, std::uint64_t begin, std::uint64_t end);

}  // namespace betterbox
