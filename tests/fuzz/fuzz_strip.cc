// libFuzzer target: the strip of a slot that may be written over. What its reader takes are whole outcomes with times that can
// be added up, the same as a column and one by one; while nobody wrote over it, those that were added.
// Input: operations of a few bytes each: add outcomes, read them, write over a counter or a field of a segment.
#include <cmath>
#include <deque>
#include <new>

#include "runtime/check.h"
#include "runtime/strip.h"
#include "tests/fuzz/input.h"

namespace betterbox {
namespace {

constexpr std::uint64_t kDtypes[] = {0x0034663C, 0x0038693C, 0x0031627C, 0x0038,
                                     0x0039693C};  // "<f4", "<i8", ...

alignas(Strip) std::byte memory[sizeof(Strip)];

class Bench {
 public:
  explicit Bench(fuzz::Input& input) : input_(input) {}

  void run() {
    while (!input_.empty()) {
      switch (input_.below(5)) {
        case 0:
        case 1: add(); break;
        case 2: read(); break;
        case 3: writer_.half_full(); break;
        default: write_over();
      }
    }
    read();
    BB_CHECK(touched_ || (reader_.possible() && added_.empty() && !reader_.has_more()));
  }

 private:
  struct Added {
    std::uint32_t station = 0, generation = 0, item = 0;
    std::uint64_t word = 0;
  };

  void add() {
    const std::uint32_t station = input_.below(2), generation = input_.below(3);
    std::uint32_t item = input_.below(4) == 0 ? input_.byte() : next_;
    ShortValue value;
    value.type = static_cast<ColumnType>(input_.below(5));
    if (value.type == ColumnType::kScalars) value.dtype = kDtypes[input_.below(3)];
    const std::uint32_t many = input_.below(256) == 255 ? 20'000 : 1 + input_.below(40);
    const auto took = static_cast<std::int64_t>(input_.number() >> 8);
    for (std::uint32_t i = 0; i < many; ++i, ++item) {
      value.word = input_.byte();
      if (!writer_.add(station, generation, item, value, took)) break;
      if (!touched_) added_.push_back({station, generation, item, value.word});
    }
    next_ = item;
  }

  void read() {
    for (bool last = false; !last;) {
      const auto part = reader_.next();
      if (!part) break;
      last = part->last;
      look_at(*part);
      reader_.release();
    }
    reader_.has_more();
    BB_CHECK(reader_.possible() || touched_);
  }

  void look_at(const StripPart& part) {
    BB_CHECK(part.count > 0 && part.count <= kStripWords);
    BB_CHECK(part.busy_ns >= 0 && part.longest_ns >= 0);
    BB_CHECK(part.busy_squares >= 0 && std::isfinite(part.busy_squares));
    const Frame column = reader_.column_of(part);
    const auto page = PageView::parse(column.bytes());
    BB_CHECK(page && page->kind() == PageKind::kColumn && page->count() == part.count);
    for (std::uint32_t i = 0; i < part.count; ++i) {
      std::string item;
      reader_.append_item(part, i, item);
      BB_CHECK(item == page->copy_item(i));
      if (touched_) continue;
      BB_CHECK(!added_.empty());
      const Added& first = added_.front();
      BB_CHECK(first.station == part.station && first.generation == part.generation &&
               first.item == part.first + i);
      if (part.type == ColumnType::kInt) BB_CHECK(page->value<std::uint64_t>(i) == first.word);
      added_.pop_front();
    }
  }

  void write_over() {
    touched_ = true;
    StripSegment& segment = strip_.segments[input_.below(4)];
    switch (input_.below(10)) {
      case 0: return strip_.opened.store(static_cast<std::uint32_t>(input_.number()));
      case 1: return strip_.taken_segments.store(static_cast<std::uint32_t>(input_.number()));
      case 2: return strip_.taken_words.store(input_.number());
      case 3: return segment.count.store(static_cast<std::uint32_t>(input_.number()));
      case 4: segment.first = static_cast<std::uint32_t>(input_.number()); return;
      case 5: segment.start = input_.number(); return;
      case 6: segment.dtype = kDtypes[input_.below(std::size(kDtypes))]; return;
      case 7: segment.type = input_.below(8); return;
      case 8: return segment.busy_ns.store(static_cast<std::int64_t>(input_.word()));
      default:
        segment.longest_ns.store(static_cast<std::int64_t>(input_.word()));
        return write_squares(segment);
    }
  }

  void write_squares(StripSegment& segment) {
    const std::uint64_t bits = input_.word();
    double squares = 0;
    std::memcpy(&squares, &bits, sizeof squares);
    segment.busy_squares.store(squares);
  }

  fuzz::Input& input_;
  Strip& strip_ = *new (memory) Strip;
  StripWriter writer_{strip_};
  StripReader reader_{strip_};
  std::deque<Added> added_;
  std::uint32_t next_ = 0;
  bool touched_ = false;
};

}  // namespace
}  // namespace betterbox

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  betterbox::fuzz::Input input(data, std::min<std::size_t>(size, 1024));
  betterbox::Bench(input).run();
  return 0;
}
