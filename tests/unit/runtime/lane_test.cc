// Lanes: whole records in order, both ends wake each other, and nothing that one end writes hurts the other.
#include "runtime/lane.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <csignal>

#include <climits>
#include <cstddef>
#include <cstring>
#include <fstream>
#include <thread>
#include <vector>

namespace betterbox {
namespace {

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

std::string text_of(std::uint64_t i) {
  std::string text((i * 37) % 500, '\0');
  for (std::size_t k = 0; k < text.size(); ++k) text[k] = static_cast<char>(i * 31 + k * 7);
  return text;
}

class Lanes : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(::pipe2(pipe_, O_CLOEXEC | O_NONBLOCK), 0);
    client_ = ClientLane::create(pipe_[1]);
    ASSERT_TRUE(client_);
  }
  void TearDown() override {
    ::close(pipe_[0]);
    ::close(pipe_[1]);
  }
  std::unique_ptr<SlotLane> open() {
    return SlotLane::open(static_cast<std::uint32_t>(::getpid()), static_cast<std::uint32_t>(client_->fd()),
                          client_->nonce(), arena_);
  }
  /// The client's memory as somebody else would see it who writes over it.
  LaneHeader& header() {
    void* memory = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, client_->fd(), 0);
    return *static_cast<LaneHeader*>(memory);
  }
  /// Result: false if nobody rang for 20 s: a lost wake-up.
  bool wait_for_ring() {
    pollfd entry{pipe_[0], POLLIN, 0};
    if (::poll(&entry, 1, 20'000) != 1) return false;
    char rings[64];
    while (::read(pipe_[0], rings, sizeof rings) > 0) {}
    return true;
  }
  bool rung() {
    pollfd entry{pipe_[0], POLLIN, 0};
    return ::poll(&entry, 1, 0) == 1;
  }

  SlotArena arena_ = SlotArena::create();
  int pipe_[2] = {-1, -1};
  std::unique_ptr<ClientLane> client_;
};

TEST_F(Lanes, CarryACallAndItsReply) {
  EXPECT_FALSE(client_->up());
  auto slot = open();
  ASSERT_TRUE(slot);
  ASSERT_TRUE(client_->up());
  ASSERT_TRUE(client_->send(LaneRecord::kCall, {bytes_of("one"), bytes_of(""), bytes_of("two")}));
  Record record;
  ASSERT_TRUE(slot->has_requests());
  ASSERT_TRUE(slot->receive(record));
  EXPECT_EQ(record.payload, "onetwo");
  EXPECT_FALSE(slot->receive(record));
  ASSERT_TRUE(slot->reply(LaneRecord::kReply, {bytes_of("three")}));
  ASSERT_TRUE(client_->has_replies());
  ASSERT_TRUE(client_->receive(record));
  EXPECT_EQ(record.kind, static_cast<std::uint32_t>(LaneRecord::kReply));
  EXPECT_EQ(record.payload, "three");
}

TEST_F(Lanes, RefuseWhatHasNoRoomAndTakeItLater) {
  auto slot = open();
  ASSERT_TRUE(slot && client_->up());
  const std::string half(kLaneRingBytes / 2, 'x');
  EXPECT_TRUE(LaneRing::may_fit(half.size()));
  ASSERT_TRUE(client_->send(LaneRecord::kCall, {bytes_of(half)}));
  EXPECT_FALSE(client_->send(LaneRecord::kCall, {bytes_of(half)}));
  Record record;
  ASSERT_TRUE(slot->receive(record));
  EXPECT_EQ(record.payload, half);
  EXPECT_TRUE(client_->send(LaneRecord::kCall, {bytes_of(half)}));
}

TEST_F(Lanes, RingOnlyWhenAsked) {
  auto slot = open();
  ASSERT_TRUE(slot && client_->up());
  ASSERT_TRUE(slot->reply(LaneRecord::kReply, {}));
  EXPECT_FALSE(rung());
  client_->want_bell(true);
  ASSERT_TRUE(slot->reply(LaneRecord::kReply, {}));
  EXPECT_TRUE(rung());
}

TEST_F(Lanes, CarryManyRecordsBetweenSleepers) {
  constexpr std::uint64_t kRecords = 20'000;
  auto slot = open();
  ASSERT_TRUE(slot && client_->up());
  SlotInbox inbox(arena_.header().inbox, arena_.header().bell, arena_.inbox_data(), -1);
  std::thread serving([&] {
    Record record;
    for (std::uint64_t i = 0; i < kRecords;) {
      inbox.wait(TimePoint::never(), [&] { return slot->has_requests(); });
      while (slot->receive(record)) {
        while (!slot->reply(LaneRecord::kReply, {bytes_of(record.payload)})) std::this_thread::yield();
        ++i;
      }
    }
  });
  Record record;
  std::uint64_t sent = 0, got = 0;
  while (got < kRecords) {
    while (sent < kRecords && sent < got + 1 + sent % 50) {
      if (!client_->send(LaneRecord::kCall, {bytes_of(text_of(sent))})) break;
      ++sent;
    }
    client_->want_bell(true);
    if (!client_->has_replies()) {
      ASSERT_TRUE(wait_for_ring());
    }
    while (client_->receive(record)) ASSERT_EQ(record.payload, text_of(got++));
  }
  serving.join();
}

TEST_F(Lanes, AreNotOpenedForSomethingElse) {
  const auto pid = static_cast<std::uint32_t>(::getpid());
  const auto fd = static_cast<std::uint32_t>(client_->fd());
  EXPECT_FALSE(SlotLane::open(pid, fd, client_->nonce() + 1, arena_));
  EXPECT_FALSE(SlotLane::open(pid, static_cast<std::uint32_t>(pipe_[0]), client_->nonce(), arena_));
  EXPECT_FALSE(SlotLane::open(pid, 99'999, client_->nonce(), arena_));
  EXPECT_FALSE(SlotLane::open(0, fd, client_->nonce(), arena_));
  SlotArena private_arena = SlotArena::create_private();
  EXPECT_FALSE(SlotLane::open(pid, fd, client_->nonce(), private_arena));
  EXPECT_FALSE(client_->up());
}

TEST_F(Lanes, DoWithoutABellThatIsNotTheirs) {
  auto slot = open();
  ASSERT_TRUE(slot);
  header().slot_nonce += 1;
  EXPECT_FALSE(client_->up());
  EXPECT_FALSE(client_->up());
}

TEST_F(Lanes, BreakWhereTheCountersAreWrittenOver) {
  auto slot = open();
  ASSERT_TRUE(slot && client_->up());
  LaneHeader& shared = header();
  Record record;
  shared.requests.head.store(~std::uint64_t{0} / 2);
  EXPECT_FALSE(slot->receive(record));
  EXPECT_TRUE(slot->broken());
  EXPECT_FALSE(slot->has_requests());
  shared.replies.tail.store(12345);
  EXPECT_FALSE(slot->reply(LaneRecord::kReply, {bytes_of("x")}));
  shared.replies.tail.store(0);
  shared.replies.head.store(3);  // less than a header
  EXPECT_FALSE(client_->receive(record));
  EXPECT_TRUE(client_->broken());
  EXPECT_FALSE(client_->has_replies());
}

TEST_F(Lanes, BreakWhereASizePassesTheEnd) {
  auto slot = open();
  ASSERT_TRUE(slot && client_->up());
  ASSERT_TRUE(client_->send(LaneRecord::kCall, {bytes_of("12345678")}));
  const std::size_t header_space = (sizeof(LaneHeader) + 4095) / 4096 * 4096;
  const std::uint64_t size = ~std::uint64_t{0} - 7;
  ASSERT_EQ(::pwrite(client_->fd(), &size, sizeof size, static_cast<off_t>(header_space + 8)), 8);
  Record record;
  EXPECT_FALSE(slot->receive(record));
  EXPECT_TRUE(slot->broken());
}

TEST_F(Lanes, KeepWhatASlotHadRepliedBeforeItWasKilled) {
  const std::uint64_t nonce = client_->nonce();
  const pid_t child = ::fork();
  if (child == 0) {
    SlotArena own = SlotArena::create();
    auto slot = SlotLane::open(static_cast<std::uint32_t>(::getppid()),
                               static_cast<std::uint32_t>(client_->fd()), nonce, own);
    if (slot) slot->reply(LaneRecord::kReply, {bytes_of("last words")});
    ::kill(::getpid(), SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  Record record;
  ASSERT_TRUE(client_->receive(record));
  EXPECT_EQ(record.payload, "last words");
  EXPECT_FALSE(client_->up()) << "its bell went with it";
}

/// This process dies when it is about to wake somebody.
void die_at_the_next_wake_up() {
  sock_filter program[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
                           BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_futex, 0, 1),
                           BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
                           BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  const sock_fprog filter{static_cast<unsigned short>(std::size(program)), program};
  ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter);
}

bool sleeps_on_a_futex(pid_t thread) {
  std::ifstream file("/proc/self/task/" + std::to_string(thread) + "/syscall");
  long number = -1;
  return file >> number && number == SYS_futex;
}

// A client may be killed or stopped anywhere, and the slot has others who ring.
TEST_F(Lanes, LoseNoWakeUpToAClientThatDiesWhileItWakes) {
  SlotBell& bell = arena_.header().bell;
  std::atomic<bool> ready{false}, slept{false};
  std::atomic<pid_t> sleeper{0};
  std::thread slot([&] {
    sleeper = static_cast<pid_t>(::syscall(SYS_gettid));
    slept = slot_sleep(bell, TimePoint::never(), [&] { return ready.load(); });
  });
  while (sleeper == 0 || bell.slot_waits == 0 || !sleeps_on_a_futex(sleeper)) std::this_thread::yield();
  const pid_t client = ::fork();
  if (client == 0) {
    SlotArena attached = SlotArena::attach(arena_.fd());
    die_at_the_next_wake_up();
    wake_slot(attached.header().bell);
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(client, &status, 0), client);
  EXPECT_TRUE(WIFSIGNALED(status)) << "it was to die while it wakes the slot";
  EXPECT_NE(bell.slot_waits, 0U) << "the slot still sleeps, and nobody else would wake it";
  ready = true;
  if (bell.slot_waits == 0) {  // so that the test ends
    ::syscall(SYS_futex, &bell.signal, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
  } else {
    wake_slot(bell);
  }
  slot.join();
  EXPECT_TRUE(slept);
}

TEST_F(Lanes, StayWithASlotWhoseClientIsGone) {
  auto slot = open();
  ASSERT_TRUE(slot && client_->up());
  ASSERT_TRUE(client_->send(LaneRecord::kCall, {bytes_of("x")}));
  client_->want_bell(true);
  client_.reset();
  ::close(pipe_[0]);
  Record record;
  EXPECT_TRUE(slot->receive(record));
  EXPECT_TRUE(slot->reply(LaneRecord::kReply, {bytes_of("nobody reads this")}));
  pipe_[0] = ::dup(pipe_[1]);
}

TEST_F(Lanes, AreNotThereInAChildThatIsForked) {
  auto slot = open();
  ASSERT_TRUE(slot && client_->up());
  const auto mapped = [] {
    std::ifstream maps("/proc/self/maps");
    int count = 0;
    for (std::string line; std::getline(maps, line);) {
      count += line.find("memfd:betterbox-slot") != std::string::npos;
      count += line.find("memfd:betterbox-lane") != std::string::npos;
    }
    return count;
  };
  EXPECT_GE(mapped(), 4);
  const pid_t child = ::fork();
  if (child == 0) {
    slot.reset();  // unmaps nothing that the child may have put in its place
    ::_exit(mapped());
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

TEST_F(Lanes, NoticeASlotThatSleepsAlthoughItHasReadACall) {
  auto slot = open();
  ASSERT_TRUE(slot && client_->up());
  ASSERT_TRUE(client_->send(LaneRecord::kCall, {bytes_of("12345678")}));
  SlotBell& bell = arena_.header().bell;
  bell.slot_waits.store(1);
  const std::uint32_t before = bell.signal.load();
  EXPECT_TRUE(client_->slot_attends()) << "it has not read it";
  EXPECT_NE(bell.signal.load(), before) << "it is woken whatever it said";
  Record record;
  ASSERT_TRUE(slot->receive(record));
  EXPECT_TRUE(client_->slot_attends());
  EXPECT_FALSE(client_->slot_attends());
  slot->replied_through_agent();
  EXPECT_TRUE(client_->slot_attends());
  EXPECT_TRUE(client_->slot_attends());
}

TEST(Spinning, IsGivenUpWhileItDoesNotHelp) {
  Spinner spinner;
  int looks = 0;
  for (int i = 0; i < 100; ++i) {
    spinner.spin([&] { return ++looks, false; });
  }
  // Whatever the number of cpus: at least one look each time, many only a few times.
  EXPECT_GE(looks, 100);
  EXPECT_TRUE(spinner.spin([] { return true; }));
}

}  // namespace
}  // namespace betterbox
