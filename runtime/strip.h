// Strip: the short outcomes of a slot's items, one 64-bit word each, in memory shared with the agent.
//
// What None, bool, int and float results need is a word, so they take a shorter way than records of the outbox
// (runtime/shm.h): the slot writes the word and publishes a count, nothing else, and the agent copies many words at
// a time. As with the outbox, what was published when the slot died can still be read, and an outcome is there for
// the agent as soon as its item has ended.
//
// Words lie in a ring, in *segments*: outcomes of one type and lease that follow each other. A segment is closed when
// the next one is opened. `opened` and `count` are stored with release after what they count, `taken_segments` and
// `taken_words` with release after it was copied out. Single producer, single consumer. The agent believes
// nothing that it reads here: what makes no sense ends its reading.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <utility>

#include "runtime/page.h"

namespace betterbox {

inline constexpr std::uint32_t kStripWords = 32U << 10;  ///< a power of two
inline constexpr std::uint32_t kStripSegments = 64;      ///< a power of two

/// What one word stands for.
struct ShortValue {
  ColumnType type{};        ///< not kArrays
  std::uint64_t dtype = 0;  ///< of kScalars: numpy's .str, zero-padded
  std::uint64_t word = 0;
};

/// Bytes of a NumPy scalar of this dtype; 0 if it is none that a word can hold.
std::size_t scalar_size(std::uint64_t dtype);

struct StripSegment {
  alignas(64) std::atomic<std::uint32_t> count{0};  ///< outcomes so far
  std::uint32_t station = 0, generation = 0, first = 0;
  std::uint64_t start = 0;  ///< position of the first word
  std::uint64_t dtype = 0;
  std::uint32_t type = 0;  ///< ColumnType
  // Of all outcomes so far; stored before `count`.
  std::atomic<std::int64_t> busy_ns{0}, longest_ns{0};
  std::atomic<double> busy_squares{0};
};

struct Strip {
  alignas(64) std::atomic<std::uint32_t> opened{0};          ///< segments, by the slot
  alignas(64) std::atomic<std::uint32_t> taken_segments{0};  ///< read whole, by the agent
  std::atomic<std::uint64_t> taken_words{0};
  std::array<StripSegment, kStripSegments> segments;
  alignas(64) std::array<std::uint64_t, kStripWords> words;  ///< written before they are read: not cleared
};

/// The slot's end. One thread.
class StripWriter {
 public:
  explicit StripWriter(Strip& strip) : strip_(strip) {}
  /// Adds the outcome of item `offset`. Result: false if there is no room: it must take the other way.
  bool add(std::uint32_t station, std::uint32_t generation, std::uint32_t offset, const ShortValue& value,
           std::int64_t busy_ns) {
    if (segment_ == nullptr || value.type != type_ || value.dtype != dtype_ || offset != next_ ||
        station != segment_->station || generation != segment_->generation) {
      if (!open(station, generation, offset, value)) return false;
    }
    if (head_ == limit_ && !find_room()) return false;
    strip_.words[head_++ & (kStripWords - 1)] = value.word;
    const auto busy = static_cast<double>(busy_ns);
    busy_ += busy_ns;
    squares_ += busy * busy;
    if (busy_ns > longest_) longest_ = busy_ns;
    segment_->busy_ns.store(busy_, std::memory_order_relaxed);
    segment_->busy_squares.store(squares_, std::memory_order_relaxed);
    segment_->longest_ns.store(longest_, std::memory_order_relaxed);
    segment_->count.store(++count_, std::memory_order_release);
    ++next_;
    return true;
  }
  /// True once each time that half of the words wait to be read: the agent is to be rung for.
  bool half_full() { return std::exchange(half_full_, false); }

 private:
  bool open(std::uint32_t station, std::uint32_t generation, std::uint32_t offset, const ShortValue& value);
  bool find_room();
  Strip& strip_;
  StripSegment* segment_ = nullptr;
  ColumnType type_{};
  std::uint64_t dtype_ = 0;
  std::uint32_t opened_ = 0, count_ = 0, next_ = 0;
  std::uint64_t head_ = 0, limit_ = 0;
  std::int64_t busy_ = 0, longest_ = 0;
  double squares_ = 0;
  bool half_full_ = false;
};

/// Outcomes of one segment that the agent has not seen before.
struct StripPart {
  std::uint32_t station = 0, generation = 0, first = 0, count = 0;
  ColumnType type{};
  std::uint64_t dtype = 0;
  std::uint64_t start = 0;
  std::size_t value_size = 0;
  std::int64_t busy_ns = 0, longest_ns = 0;
  double busy_squares = 0;
  bool last = false;  ///< of the segment that grows: more may come at any time
};

/// The agent's end.
class StripReader {
 public:
  explicit StripReader(Strip& strip) : strip_(strip) {}
  bool has_more() const;
  /// What has come since. Who takes parts up to a `last` one has all that was there when it began.
  std::optional<StripPart> next();
  /// The parts have been used: the slot may have their words again.
  void release() {
    released_ = read_;
    strip_.taken_words.store(read_, std::memory_order_release);
  }
  /// False if what is there cannot have been written by a slot that works: nothing more is read then.
  bool possible() const {
    return !broken_ && strip_.taken_segments.load(std::memory_order_relaxed) == segment_ &&
           strip_.taken_words.load(std::memory_order_relaxed) == released_ &&
           strip_.opened.load(std::memory_order_acquire) - segment_ <= kStripSegments;
  }
  /// The part's values as a column. REQUIRES: no release() since.
  Frame column_of(const StripPart& part) const;
  /// One value as an item.
  void append_item(const StripPart& part, std::uint32_t i, std::string& out) const;

 private:
  std::uint64_t word(std::uint64_t position) const { return strip_.words[position & (kStripWords - 1)]; }
  static bool find_size(StripPart& part);
  Strip& strip_;
  std::uint32_t segment_ = 0;   // number of the one that is being read
  std::uint32_t seen_ = 0;      // of its outcomes
  std::uint64_t read_ = 0;      // words
  std::uint64_t released_ = 0;  // of these
  std::int64_t busy_ns_ = 0;
  double busy_squares_ = 0;
  bool broken_ = false;
};

}  // namespace betterbox
