// Rings and arenas: every record arrives whole, once and in order; nobody sleeps through a wake-up.
// The threaded tests are the ones to run under ThreadSanitizer.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <random>
#include <thread>

#include "runtime/shm.h"

namespace betterbox {
namespace {

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

std::string record_text(std::uint64_t i, std::size_t size) {
  std::string text(size, '\0');
  for (std::size_t k = 0; k < size; ++k) text[k] = static_cast<char>(i * 31 + k * 7);
  return text;
}

/// Sizes around the interesting places: empty, unaligned, small, as large as the ring, larger.
std::size_t size_of(std::uint64_t i, std::size_t capacity) {
  switch (i % 97) {
    case 13: return 0;
    case 50: return capacity;
    case 77: return capacity * 2 + 5;
    default: return (i * 37) % 300;
  }
}

class Bell {
 public:
  Bell() : fd_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}
  ~Bell() { ::close(fd_); }
  int fd() const { return fd_; }
  bool rung() {
    std::uint64_t count = 0;
    return ::read(fd_, &count, sizeof count) == sizeof count;
  }
  /// Result: false if nobody rang for 20 s: a lost wake-up.
  bool wait() {
    pollfd entry{fd_, POLLIN, 0};
    return ::poll(&entry, 1, 20'000) == 1 && rung();
  }

 private:
  int fd_;
};

class Rings : public ::testing::Test {
 protected:
  SlotArena arena_ = SlotArena::create_private();
  Bell bell_;
  RingWriter writer_{arena_.header().inbox, arena_.header().bell, arena_.inbox_data()};
  RingReader reader_{arena_.header().outbox, arena_.outbox_data()};
  SlotInbox inbox_{arena_.header().inbox, arena_.header().bell, arena_.inbox_data(), bell_.fd()};
  SlotOutbox outbox_{arena_.header(), arena_.header().outbox, arena_.outbox_data(), bell_.fd()};
};

TEST_F(Rings, CarryARecordOfSeveralPartsEachWay) {
  writer_.push(7, "head-", {Frame(std::string("middle-")), Frame(std::string("tail"))});
  EXPECT_TRUE(writer_.flush());
  ASSERT_TRUE(inbox_.has_bytes());
  Record record;
  inbox_.read(record);
  EXPECT_EQ(record.kind, 7u);
  EXPECT_EQ(record.payload, "head-middle-tail");
  EXPECT_FALSE(inbox_.has_bytes());

  outbox_.write(3, {bytes_of("one"), bytes_of(""), bytes_of("two")});
  ASSERT_TRUE(reader_.next(record));
  EXPECT_EQ(record.kind, 3u);
  EXPECT_EQ(record.payload, "onetwo");
  EXPECT_FALSE(reader_.next(record));
}

TEST_F(Rings, GiveAnEmptyRecordAtOnce) {
  outbox_.write(6, {});
  Record record;
  record.payload = "old";
  ASSERT_TRUE(reader_.next(record));
  EXPECT_EQ(record.kind, 6u);
  EXPECT_TRUE(record.payload.empty());
}

TEST_F(Rings, KeepWhatDoesNotFitUntilThereIsRoom) {
  const std::string large = record_text(1, kInboxBytes + 1000);
  writer_.push(1, large);
  EXPECT_FALSE(writer_.flush());
  EXPECT_GT(writer_.queued_bytes(), 0u);
  EXPECT_FALSE(bell_.rung());
  Record record;
  std::thread slot([&] { inbox_.read(record); });
  while (!writer_.flush()) ASSERT_TRUE(bell_.wait());
  slot.join();
  EXPECT_EQ(record.payload, large);
  EXPECT_EQ(writer_.queued_bytes(), 0u);
}

TEST_F(Rings, SayHowMuchFits) {
  EXPECT_TRUE(outbox_.fits(kOutboxBytes - sizeof(RecordHeader)));
  EXPECT_FALSE(outbox_.fits(kOutboxBytes - sizeof(RecordHeader) + 1));
  outbox_.write(1, {bytes_of("12345678")});
  EXPECT_FALSE(outbox_.fits(kOutboxBytes - sizeof(RecordHeader)));
  EXPECT_TRUE(outbox_.fits(kOutboxBytes - 2 * sizeof(RecordHeader) - 8));
}

TEST_F(Rings, RingTheBellOnlyWhenAsked) {
  outbox_.write(1, {});
  outbox_.ring_bell();
  EXPECT_FALSE(bell_.rung());
  arena_.header().agent_wants_bell.store(1);
  outbox_.ring_bell();
  outbox_.ring_bell();
  std::uint64_t count = 0;
  ASSERT_EQ(::read(bell_.fd(), &count, sizeof count), static_cast<ssize_t>(sizeof count));
  EXPECT_EQ(count, 1u);
}

TEST_F(Rings, WaitingEndsAtTheDeadline) { EXPECT_FALSE(inbox_.wait(monotonic_now() + milliseconds(1))); }

TEST_F(Rings, SurviveASlotThatWritesOverItsArena) {
  arena_.header().outbox.head.store(~std::uint64_t{0} / 2);
  Record record;
  EXPECT_FALSE(reader_.next(record));
  EXPECT_FALSE(reader_.has_bytes());
  EXPECT_FALSE(reader_.possible());
  EXPECT_TRUE(writer_.possible());
  arena_.header().inbox.tail.store(12345);
  writer_.push(1, "text");
  EXPECT_FALSE(writer_.flush());
  EXPECT_FALSE(writer_.possible());
}

TEST_F(Rings, CarryManyRecordsToASleepingSlot) {
  constexpr std::uint64_t kRecords = 6'000;
  std::uint64_t wrong = 0;
  std::thread slot([&] {
    Record record;
    for (std::uint64_t i = 0; i < kRecords; ++i) {
      while (!inbox_.wait(TimePoint::never())) {}
      inbox_.read(record);
      if (record.kind != i % 1000 || record.payload != record_text(i, size_of(i, kInboxBytes))) ++wrong;
    }
  });
  std::mt19937 random(1);
  for (std::uint64_t i = 0; i < kRecords; ++i) {
    const std::string text = record_text(i, size_of(i, kInboxBytes));
    const std::size_t cut = text.empty() ? 0 : random() % text.size();
    writer_.push(static_cast<std::uint32_t>(i % 1000), text.substr(0, cut), {Frame(text.substr(cut))});
    if (random() % 3 == 0) {
      while (!writer_.flush()) ASSERT_TRUE(bell_.wait());
    }
    if (random() % 500 == 0) std::this_thread::yield();
  }
  while (!writer_.flush()) ASSERT_TRUE(bell_.wait());
  slot.join();
  EXPECT_EQ(wrong, 0u);
}

TEST_F(Rings, CarryManyRecordsToASleepingAgent) {
  constexpr std::uint64_t kRecords = 6'000;
  std::thread slot([&] {
    for (std::uint64_t i = 0; i < kRecords; ++i) {
      const std::string text = record_text(i, size_of(i, kOutboxBytes));
      const std::string head = text.substr(0, text.size() / 2);
      const std::string rest = text.substr(text.size() / 2);
      outbox_.write(static_cast<std::uint32_t>(i % 1000), {bytes_of(head), bytes_of(rest)});
      outbox_.ring_bell();
    }
  });
  Record record;
  std::uint64_t wrong = 0;
  for (std::uint64_t i = 0; i < kRecords;) {
    while (i < kRecords && reader_.next(record)) {
      if (record.kind != i % 1000 || record.payload != record_text(i, size_of(i, kOutboxBytes))) ++wrong;
      ++i;
    }
    if (i == kRecords) break;
    // The agent's way to sleep: ask for the bell, fence, look once more.
    arena_.header().agent_wants_bell.store(1, std::memory_order_seq_cst);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (!reader_.has_bytes()) {
      ASSERT_TRUE(bell_.wait());
    }
    arena_.header().agent_wants_bell.store(0);
  }
  slot.join();
  EXPECT_EQ(wrong, 0u);
}

TEST(Arena, OutlivesTheProcessThatWroteToIt) {
  SlotArena arena = SlotArena::create();
  const int fd = ::dup(arena.fd());
  const pid_t child = ::fork();
  if (child == 0) {
    SlotArena attached = SlotArena::attach(fd);
    SlotOutbox outbox(attached.header(), attached.header().outbox, attached.outbox_data(), -1);
    outbox.write(3, {bytes_of("last words")});
    attached.header().stations[0].done.store(1);
    ::_exit(0);
  }
  ::close(fd);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  RingReader reader(arena.header().outbox, arena.outbox_data());
  Record record;
  ASSERT_TRUE(reader.next(record));
  EXPECT_EQ(record.payload, "last words");
  EXPECT_EQ(arena.header().stations[0].done.load(), 1u);
}

TEST(Arena, MovesWithItsMemory) {
  SlotArena first = SlotArena::create();
  first.header().stations[1].word.install(5);
  SlotArena second = std::move(first);
  EXPECT_EQ(second.header().stations[1].word.position().end, 5u);
  first = SlotArena::create_private();
  second = std::move(first);
  EXPECT_EQ(second.header().stations[1].word.position().end, 0u);
}

}  // namespace
}  // namespace betterbox
