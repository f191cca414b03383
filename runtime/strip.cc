#include "runtime/strip.h"

#include <algorithm>
#include <cmath>

namespace betterbox {

std::size_t scalar_size(std::uint64_t dtype) {
  char text[8];
  std::memcpy(text, &dtype, sizeof text);
  if ((text[0] != '<' && text[0] != '|') || text[3] != 0) return 0;
  const int size = text[2] - '0';
  const bool power = size == 1 || size == 2 || size == 4 || size == 8;
  switch (text[1]) {
    case 'b': return size == 1 ? 1 : 0;
    case 'i':
    case 'u': return power ? static_cast<std::size_t>(size) : 0;
    case 'f': return power && size > 1 ? static_cast<std::size_t>(size) : 0;
    case 'c': return size == 8 ? 8 : 0;
    default: return 0;
  }
}

bool StripWriter::open(std::uint32_t station, std::uint32_t generation, std::uint32_t offset,
                       const ShortValue& value) {
  if (opened_ - strip_.taken_segments.load(std::memory_order_acquire) >= kStripSegments) {
    half_full_ = true;
    return false;
  }
  segment_ = &strip_.segments[opened_ & (kStripSegments - 1)];
  segment_->count.store(0, std::memory_order_relaxed);
  segment_->station = station;
  segment_->generation = generation;
  segment_->first = next_ = offset;
  segment_->start = head_;
  segment_->type = static_cast<std::uint32_t>(type_ = value.type);
  segment_->dtype = dtype_ = value.dtype;
  count_ = 0;
  busy_ = longest_ = 0;
  squares_ = 0;
  strip_.opened.store(++opened_, std::memory_order_release);
  return true;
}

/// Moves `limit_`, where the counter of the other side is looked at again: at half, at three quarters, when full.
bool StripWriter::find_room() {
  const std::uint64_t used = head_ - strip_.taken_words.load(std::memory_order_acquire);
  if (used >= kStripWords / 2) half_full_ = true;
  if (used >= kStripWords) return false;
  limit_ = head_ + std::min<std::uint64_t>(kStripWords - used,
                                           used < kStripWords / 2 ? kStripWords / 2 - used : kStripWords / 4);
  return true;
}

bool StripReader::has_more() const {
  const std::uint32_t opened = strip_.opened.load(std::memory_order_acquire);
  if (broken_ || opened == segment_) return false;
  return opened - segment_ > 1 ||
         strip_.segments[segment_ & (kStripSegments - 1)].count.load(std::memory_order_acquire) != seen_;
}

std::optional<StripPart> StripReader::next() {
  for (;;) {
    const std::uint32_t opened = strip_.opened.load(std::memory_order_acquire);
    if (broken_ || opened == segment_) return std::nullopt;
    const StripSegment& segment = strip_.segments[segment_ & (kStripSegments - 1)];
    // Read after `opened`: of a segment that is closed this is all.
    const std::uint32_t count = segment.count.load(std::memory_order_acquire);
    if (count != seen_) {
      StripPart part;
      part.station = segment.station;
      part.generation = segment.generation;
      part.first = segment.first + seen_;
      part.count = count - seen_;
      part.type = static_cast<ColumnType>(segment.type);
      part.dtype = segment.dtype;
      part.start = read_;
      part.last = opened - segment_ == 1;
      const std::int64_t busy_ns = segment.busy_ns.load(std::memory_order_relaxed);
      const double squares = segment.busy_squares.load(std::memory_order_relaxed);
      const std::int64_t longest_ns = segment.longest_ns.load(std::memory_order_relaxed);
      broken_ = part.count > kStripWords || segment.start + seen_ != read_ || !find_size(part) ||
                busy_ns < 0 || longest_ns < 0 || !(squares >= 0) || std::isinf(squares);
      if (broken_) return std::nullopt;
      part.busy_ns = std::max<std::int64_t>(0, busy_ns - std::exchange(busy_ns_, busy_ns));
      part.busy_squares = std::max(0.0, squares - std::exchange(busy_squares_, squares));
      part.longest_ns = longest_ns;
      seen_ = count;
      read_ += part.count;
      return part;
    }
    if (opened - segment_ == 1) return std::nullopt;
    broken_ = opened - segment_ > kStripSegments;
    ++segment_;
    seen_ = 0;
    busy_ns_ = 0;
    busy_squares_ = 0;
    strip_.taken_segments.store(segment_, std::memory_order_release);
  }
}

/// Result: false for values that are none.
bool StripReader::find_size(StripPart& part) {
  switch (part.type) {
    case ColumnType::kNone: return true;
    case ColumnType::kBool: part.value_size = 1; return true;
    case ColumnType::kInt:
    case ColumnType::kFloat: part.value_size = 8; return true;
    case ColumnType::kScalars: part.value_size = scalar_size(part.dtype); return part.value_size > 0;
    default: return false;
  }
}

Frame StripReader::column_of(const StripPart& part) const {
  const std::size_t size = part.value_size;
  std::string description;
  if (part.type == ColumnType::kScalars) {
    description.push_back(3);
    description.append(reinterpret_cast<const char*>(&part.dtype), 3);
  }
  std::string page = column_header(part.type, part.count, size, description);
  page.reserve(page.size() + part.count * size);
  if (size == 8) {
    const std::uint64_t from = part.start & (kStripWords - 1);
    const std::size_t until_end = std::min<std::uint64_t>(part.count, kStripWords - from);
    page.append(reinterpret_cast<const char*>(&strip_.words[from]), until_end * 8);
    page.append(reinterpret_cast<const char*>(strip_.words.data()), (part.count - until_end) * 8);
  } else if (size > 0) {
    const bool truth = part.type == ColumnType::kBool;
    for (std::uint32_t i = 0; i < part.count; ++i) {
      const std::uint64_t value = truth ? (word(part.start + i) != 0 ? 1 : 0) : word(part.start + i);
      page.append(reinterpret_cast<const char*>(&value), size);
    }
  }
  return Frame(std::move(page));
}

void StripReader::append_item(const StripPart& part, std::uint32_t i, std::string& out) const {
  const std::uint64_t value = word(part.start + i);
  const auto tag = [&out](ItemTag which) { out.push_back(static_cast<char>(which)); };
  switch (part.type) {
    case ColumnType::kNone: return tag(ItemTag::kNone);
    case ColumnType::kBool: return tag(value != 0 ? ItemTag::kTrue : ItemTag::kFalse);
    case ColumnType::kInt: tag(ItemTag::kInt); break;
    case ColumnType::kFloat: tag(ItemTag::kFloat); break;
    default:
      tag(ItemTag::kScalar);
      out.push_back(3);
      out.append(reinterpret_cast<const char*>(&part.dtype), 3);
  }
  out.append(reinterpret_cast<const char*>(&value), part.value_size);
}

}  // namespace betterbox
