// A worker and its template, whose slots are no processes: thousands of them are forked, killed and die at once, and neither
// side ever waits for the other to read.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <deque>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "runtime/slot_limits.h"
#include "worker/template_link.h"
#include "worker/template_loop.h"

namespace betterbox {
namespace {

/// By a seed some cannot be forked and some die by themselves.
class FakeSlots : public SlotProcesses {
 public:
  explicit FakeSlots(unsigned seed) : random_(seed) {}
  ~FakeSlots() override { ::close(exits_fd_); }

  Forked fork(const int* descriptors) override {
    EXPECT_GE(::fcntl(descriptors[2], F_GETFD), 0);
    if (random_() % 16 == 0) return {0, EAGAIN, false};
    alive_.insert(++last_);
    if (random_() % 8 == 0) end(last_, 7 << 8);
    return {last_, 0, false};
  }
  void kill(pid_t slot) override { end(slot, SIGKILL); }
  std::optional<Exit> next_exit() override {
    if (exits_.empty()) {
      std::uint64_t count = 0;
      [[maybe_unused]] const ssize_t n = ::read(exits_fd_, &count, sizeof count);
      return std::nullopt;
    }
    const Exit exit = exits_.front();
    exits_.pop_front();
    return exit;
  }
  int exits_fd() const override { return exits_fd_; }
  void kill_adopted() override {}
  bool all_ended() const { return alive_.empty(); }

 private:
  void end(pid_t slot, int status) {
    if (alive_.erase(slot) == 0) return;
    exits_.push_back({slot, status, 1});
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t n = ::write(exits_fd_, &one, sizeof one);
  }
  std::mt19937 random_;
  const int exits_fd_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  pid_t last_ = 0;
  std::set<pid_t> alive_;
  std::deque<Exit> exits_;
};

class Bursts : public ::testing::Test {
 protected:
  using Life = TemplateLink::Life;

  void SetUp() override {
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    template_fd_ = ends[1];
    link_.connect(ends[0], monotonic_now());
    template_ = std::thread([this] { run_template(template_fd_, slots_); });
  }
  void TearDown() override {
    link_.disconnect();  // all slots are killed
    template_.join();
    ::close(template_fd_);
    EXPECT_TRUE(slots_.all_ended());
  }

  bool flush() {
    return link_.flush(monotonic_now(), [](Life, int* fds) {
      for (std::size_t i = 0; i < kDescriptorsPerFork; ++i) fds[i] = ::dup(2);
      return true;
    });
  }
  void turn() {
    const bool sent = flush();
    pollfd entry{link_.fd(), static_cast<short>(POLLIN | (sent ? 0 : POLLOUT)), 0};
    ::poll(&entry, 1, 1'000);
    TemplateReport report;
    std::string reason;
    while (link_.read(monotonic_now(), report, reason) == TemplateLink::Read::kReport) {
      const Life life{report.seat, report.life};
      if (report.kind == TemplateReport::kForked) {
        EXPECT_TRUE(told_.emplace(life, report.pid).second);
      }
      if (report.kind == TemplateReport::kExited) {
        EXPECT_GT(told_[life], 0);
        EXPECT_TRUE(ended_.insert(life).second);
      }
    }
  }
  template <class Done> void turn_until(Done done) {
    const TimePoint deadline = monotonic_now() + seconds(60);
    while (!done()) {
      turn();
      ASSERT_LT(monotonic_now(), deadline) << told_.size() << " told, " << ended_.size() << " ended";
    }
  }

  FakeSlots slots_{17};
  TemplateLink link_;
  std::thread template_;
  int template_fd_ = -1;
  std::map<Life, pid_t> told_;
  std::set<Life> ended_;
};

TEST_F(Bursts, OfForksKillsAndDeathsOnAllSeatsAreAllTold) {
  constexpr std::uint32_t kLives = 3;
  std::mt19937 random(4711);
  std::set<Life> killed;
  std::size_t asked = 0;
  for (std::uint32_t life = 1; life <= kLives; ++life) {
    for (std::uint32_t seat = 0; seat < kMaxSlots; ++seat) {
      if (life > 1) {  // the one before is discarded, whatever has become of it
        if (link_.forget_fork({seat, life - 1})) {
          --asked;
        } else {
          link_.ask_kill({seat, life - 1});
          killed.insert({seat, life - 1});
        }
      }
      link_.ask_fork({seat, life});
      ++asked;
      if (random() % 64 == 0) flush();  // nothing is read meanwhile
    }
    for (int turns = 0; turns < 20; ++turns) turn();
  }
  turn_until([&] { return told_.size() == asked; });
  for (std::uint32_t seat = 0; seat < kMaxSlots; ++seat) {
    link_.ask_kill({seat, kLives});
    killed.insert({seat, kLives});
  }
  turn_until([&] {
    return std::all_of(killed.begin(), killed.end(),
                       [&](Life life) { return told_[life] == 0 || ended_.contains(life); });
  });
}

TEST_F(Bursts, KillsGoBeforeForksThatWait) {
  link_.ask_fork({0, 1});
  turn_until([&] { return told_.contains({0, 1}); });
  for (std::uint32_t seat = 1; seat <= 1000; ++seat) link_.ask_fork({seat, 1});
  link_.ask_kill({0, 1});
  turn_until([&] { return told_[{0, 1}] == 0 || ended_.contains({0, 1}); });
  EXPECT_LT(told_.size(), 1000u);
}

TEST_F(Bursts, WhatIsTakenBackBeforeItWasAskedForIsNotForked) {
  for (std::uint32_t seat = 0; seat < 200; ++seat) link_.ask_fork({seat, 1});
  EXPECT_TRUE(link_.forget_fork({199, 1}));
  turn_until([&] { return told_.size() == 199; });
  EXPECT_FALSE(told_.contains({199, 1}));
}

TEST(TemplateLink, LosesPatienceWithATemplateThatSaysNothing) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
  TemplateLink link;
  link.connect(ends[0], monotonic_now());
  TemplateReport up;
  up.kind = TemplateReport::kUp;
  ASSERT_EQ(::send(ends[1], &up, sizeof up, 0), static_cast<ssize_t>(sizeof up));
  TemplateReport report;
  std::string reason;
  ASSERT_EQ(link.read(TimePoint{1}, report, reason), TemplateLink::Read::kReport);
  EXPECT_EQ(link.patience_ends(), TimePoint::never());
  link.ask_fork({0, 1});
  link.flush(TimePoint{2}, [](TemplateLink::Life, int* fds) {
    for (std::size_t i = 0; i < kDescriptorsPerFork; ++i) fds[i] = ::dup(2);
    return true;
  });
  EXPECT_EQ(link.patience_ends(), TimePoint{2} + kTemplatePatience);
  link.hang_up();
  EXPECT_EQ(link.read(TimePoint{3}, report, reason), TemplateLink::Read::kClosed);
  ::close(ends[1]);
}

}  // namespace
}  // namespace betterbox
