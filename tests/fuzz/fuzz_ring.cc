// libFuzzer target: the rings of an arena. Records that are published in pieces of any size arrive as they were written; a ring
// that is written over is noticed, or read no further than what is there.
// Input: operations of a few bytes each, for the agent's end of an outbox and of an inbox.
#include <algorithm>
#include <deque>

#include "runtime/check.h"
#include "runtime/shm.h"
#include "tests/fuzz/input.h"

namespace betterbox {
namespace {

/// What one end has written into a ring: bytes that are published piece by piece.
class Pieces {
 public:
  Pieces(RingHeader& ring, std::byte* data, std::uint32_t capacity)
      : ring_(ring), data_(data), capacity_(capacity) {}

  void add(std::uint32_t kind, const std::string& payload) {
    const RecordHeader header{kind, 0, payload.size()};
    bytes_.append(reinterpret_cast<const char*>(&header), sizeof header);
    bytes_ += payload;
    bytes_.append((8 - payload.size() % 8) % 8, '\0');
  }
  void publish(std::size_t most) {
    const std::uint64_t used = head_ - ring_.tail.load();
    if (used > capacity_) return;  // written over
    const std::size_t count = std::min({most, bytes_.size(), static_cast<std::size_t>(capacity_ - used)});
    for (std::size_t i = 0; i < count; ++i)
      data_[head_++ & (capacity_ - 1)] = static_cast<std::byte>(bytes_[i]);
    bytes_.erase(0, count);
    ring_.head.store(head_);
  }
  bool all_out() const { return bytes_.empty(); }

 private:
  RingHeader& ring_;
  std::byte* data_;
  const std::uint32_t capacity_;
  std::string bytes_;
  std::uint64_t head_ = 0;
};

class Bench {
 public:
  explicit Bench(fuzz::Input& input) : input_(input) {}

  void run() {
    while (!input_.empty()) {
      switch (input_.below(7)) {
        case 0: write_outbox(); break;
        case 1: outbox_.publish(input_.word(2)); break;
        case 2: read_outbox(); break;
        case 3: write_inbox(); break;
        case 4: read_inbox(); break;
        case 5: inbox_.flush(); break;
        default:
          if (input_.below(8) == 0) write_over();
      }
      BB_CHECK(touched_ || (outbox_reader_.possible() && inbox_.possible()));
    }
    if (touched_) return;
    while (!outbox_.all_out() || outbox_reader_.has_bytes()) {
      outbox_.publish(kOutboxBytes);
      read_outbox();
    }
    BB_CHECK(written_.empty());
  }

 private:
  std::string payload() {
    const std::size_t size = input_.below(200) == 199 ? kOutboxBytes + input_.byte() : input_.word(2) % 3000;
    return std::string(size, static_cast<char>('a' + input_.below(26)));
  }

  void write_outbox() {
    if (written_.size() > 8) return;
    written_.push_back({1 + input_.below(8), payload()});
    outbox_.add(written_.back().kind, written_.back().payload);
  }

  void read_outbox() {
    Record record;
    while (outbox_reader_.next(record)) {
      if (touched_) continue;
      BB_CHECK(!written_.empty() && record.kind == written_.front().kind &&
               record.payload == written_.front().payload);
      written_.pop_front();
    }
  }

  void write_inbox() {
    if (inbox_.queued_bytes() > (1U << 20) || sent_.size() > 64) return;
    const std::string head = input_.bytes(input_.below(20)), tail = payload();
    sent_.push_back({1 + input_.below(8), head + tail});
    inbox_.push(sent_.back().kind, head, {Frame(tail)});
  }

  /// As a slot does; it waits where a record is not all there, so only once it is.
  void read_inbox() {
    if (touched_ || sent_.empty() || (!inbox_.flush() && sent_.front().payload.size() > kInboxBytes / 2))
      return;
    if (header_.inbox.head.load() - header_.inbox.tail.load() < sent_.front().payload.size() + 24) return;
    Record record;
    slot_inbox_.read(record);
    BB_CHECK(record.kind == sent_.front().kind && record.payload == sent_.front().payload);
    sent_.pop_front();
  }

  void write_over() {
    touched_ = true;
    RingHeader& ring = input_.below(2) == 0 ? header_.outbox : header_.inbox;
    switch (input_.below(4)) {
      case 0: return ring.head.store(input_.word());
      case 1: return ring.tail.store(input_.word());
      case 2: ring.capacity = static_cast<std::uint32_t>(input_.word(4)); return;
      default: arena_.outbox_data()[input_.word(3) % kOutboxBytes] = static_cast<std::byte>(input_.byte());
    }
  }

  fuzz::Input& input_;
  SlotArena arena_ = SlotArena::create_private();
  ArenaHeader& header_ = arena_.header();
  Pieces outbox_{header_.outbox, arena_.outbox_data(), kOutboxBytes};
  RingReader outbox_reader_{header_.outbox, arena_.outbox_data()};
  RingWriter inbox_{header_.inbox, header_.bell, arena_.inbox_data()};
  SlotInbox slot_inbox_{header_.inbox, header_.bell, arena_.inbox_data(), -1};
  std::deque<Record> written_, sent_;
  bool touched_ = false;
};

}  // namespace
}  // namespace betterbox

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  betterbox::fuzz::Input input(data, std::min<std::size_t>(size, 1024));
  betterbox::Bench(input).run();
  return 0;
}
