// Rings, template and slot processes together, with a slot written in C++ instead of Python: exits are
// reported, groups are killed, output is kept, and nothing outlives the worker.
#include "worker/executor.h"
#include "runtime/slot_limits.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>
#include <sstream>

#include "worker/template_loop.h"

namespace betterbox {
namespace {

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

template <class T> std::string packed(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

/// As a wild pointer would: some words of what the slot shares with its agent.
void write_over(ArenaHeader& arena, unsigned seed) {
  std::mt19937_64 random(seed);
  auto* words = reinterpret_cast<std::uint64_t*>(&arena);
  const std::size_t count = offsetof(ArenaHeader, strip.words) / sizeof *words;
  for (int i = 0; i < 4; ++i) {
    const std::uint64_t values[] = {
        0, 1, 0xFF, ~std::uint64_t{0}, random(), std::uint64_t{1} << random() % 64};
    const std::size_t at = random() % 2 == 0 ? random() % count : random() % (8192 / sizeof *words);
    reinterpret_cast<std::atomic<std::uint64_t>&>(words[at]).store(values[random() % 6]);
  }
}

/// The slot: runs leases item by item; a direct call's method says what to do.
void run_test_slot(SlotArena& arena, int bell_fd) {
  SlotInbox inbox(arena.header().inbox, arena.header().bell, arena.inbox_data(), bell_fd);
  SlotOutbox outbox(arena.header(), arena.header().outbox, arena.outbox_data(), bell_fd);
  auto say = [&](FromSlot kind, const std::string& head, const std::string& tail = {}) {
    outbox.write(static_cast<std::uint32_t>(kind), {bytes_of(head), bytes_of(tail)});
    outbox.ring_bell();
  };
  const SlotReady head{0, 4, 1, 0};
  say(FromSlot::kReady, packed(head), std::string("TestX\1f").replace(4, 1, 1, '\0'));
  for (Record record;;) {
    while (!inbox.wait(TimePoint::never())) {}
    inbox.read(record);
    const auto kind = static_cast<ToSlot>(record.kind);
    if (kind == ToSlot::kStop) return say(FromSlot::kStopped, "");
    if (kind == ToSlot::kLease) {
      SlotLease lease;
      std::memcpy(&lease, record.payload.data(), sizeof lease);
      LeaseStation& station = arena.header().stations[lease.station];
      while (const auto item = station.word.claim()) {
        if (lease.base + *item == 13) ::raise(SIGSEGV);
        const SlotOutcome outcome{lease.station, lease.generation, *item, 1, 10, 10};
        say(FromSlot::kOutcome, packed(outcome), std::string(1, '\0'));
        station.done.store(*item + 1, std::memory_order_release);
      }
      const SlotLeaseDone done{lease.station, lease.generation};
      say(FromSlot::kLeaseDone, packed(done));
    }
    if (kind == ToSlot::kCall) {
      SlotCall call;
      std::memcpy(&call, record.payload.data(), sizeof call);
      const std::string method = record.payload.substr(sizeof call, call.method_size);
      const std::string arguments = record.payload.substr(sizeof call + call.method_size);
      if (method == "exit") ::_exit(std::atoi(arguments.c_str()));
      if (method == "print") std::fprintf(stderr, "%s\n", arguments.c_str());
      if (method == "write over")
        write_over(arena.header(), static_cast<unsigned>(std::atoi(arguments.c_str())));
      if (method == "skip") {  // the next record is lost
        RingHeader& ring = arena.header().inbox;
        while (ring.head.load() == ring.tail.load()) ::usleep(100);
        ring.tail.store(ring.head.load());
      }
      if (method == "child") {
        const pid_t child = ::fork();
        if (child == 0) {
          for (;;) ::pause();
        }
        say(FromSlot::kReply, packed(call.token), std::to_string(child));
        continue;
      }
      say(FromSlot::kReply, packed(call.token), "done " + arguments);
    }
  }
}

bool alive(pid_t pid) { return ::kill(pid, 0) == 0; }

class Processes : public ::testing::Test {
 protected:
  void SetUp() override {
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
    char folder[] = "/tmp/betterbox-test-XXXXXX";
    folder_ = ::mkdtemp(folder);
    bell_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    Executor::Options options;
    options.templates.start = [this](std::uint64_t, std::string_view) { return start_template(); };
    options.bell_fd = bell_;
    options.log_folder = folder_;
    options.name = "w0";
    executor_.emplace(options);
  }
  int start_template() {
    if (template_ > 0) {
      ::kill(template_, SIGKILL);
      ::waitpid(std::exchange(template_, -1), nullptr, 0);
    }
    if (templates_++ == most_templates_) return -1;
    int ends[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    template_ = ::fork();
    EXPECT_GE(template_, 0);
    if (template_ == 0) {
      ::close(ends[0]);
      TemplateHooks hooks;
      hooks.run_slot = &run_test_slot;
      ForkedSlots slots(bell_, hooks);
      run_template(ends[1], slots);
      ::_exit(0);
    }
    ::close(ends[1]);
    return ends[0];
  }
  void TearDown() override {
    executor_.reset();
    int status = 0;
    if (template_ > 0) {
      EXPECT_EQ(::waitpid(template_, &status, 0), template_);
    }
    for (const std::string name : {"slot-0.log", "slot-1.log"}) ::unlink((folder_ + "/" + name).c_str());
    ::rmdir(folder_.c_str());
  }

  /// The next event of this kind; others before it are dropped. Fails after 30 s.
  template <class T> T next() {
    const TimePoint deadline = monotonic_now() + seconds(30);
    while (monotonic_now() < deadline) {
      while (!events_.empty()) {
        Event event = std::move(events_.front());
        events_.erase(events_.begin());
        if (auto* found = std::get_if<T>(&event)) return std::move(*found);
      }
      executor_->flush();
      if (executor_->prepare_sleep()) {
        pollfd entry{executor_->wait_fd(), POLLIN, 0};
        ::poll(&entry, 1, 30'000);
      }
      executor_->wake_up();
      executor_->collect(events_, true);
    }
    ADD_FAILURE() << "an event did not come";
    return {};
  }
  void spawn(std::uint32_t id, std::uint32_t life = 1) {
    executor_->spawn({{id}, life, std::string(8, '\0'), Frame()});
  }
  std::string call(std::uint32_t id, const std::string& method, const std::string& arguments) {
    executor_->call({{id}, ++token_, method, Frame(arguments), false});
    const auto reply = next<SeatReplied>();
    EXPECT_EQ(reply.token, token_);
    return std::string(reply.item.view());
  }
  /// Waits until two calls are answered and two leases done (true), or the slot has died (false).
  bool settles(std::uint32_t id) {
    const TimePoint deadline = monotonic_now() + seconds(30);
    TimePoint now = monotonic_now();  // passes faster than it does
    bool up = false;
    std::size_t replies = 0, leases = installed_ ? 0 : 2;
    while (monotonic_now() < deadline) {
      executor_->flush();
      pollfd entry{executor_->wait_fd(), POLLIN, 0};
      ::poll(&entry, 1, 2);
      executor_->collect(events_, true);
      if (up) executor_->look(now = now + kSeatLookInterval);
      for (const Event& event : std::exchange(events_, {})) {
        if (std::holds_alternative<SeatDied>(event)) return false;
        up = up || std::holds_alternative<SeatReady>(event);
        replies += std::holds_alternative<SeatReplied>(event);
        leases += std::holds_alternative<SubLeaseDone>(event);
      }
      if (replies == 2 && leases == 2) return true;
    }
    ADD_FAILURE() << "seat " << id << " neither answers nor dies: " << replies << " replies, " << leases
                  << " leases";
    return true;
  }
  void install(std::uint32_t id, std::uint32_t station, std::uint64_t base, std::uint32_t count) {
    installed_ = true;
    const PagePart page{base, count, make_int_range_page(0, 1, count)};
    executor_->install({{id}, station, ++generation_, {{5}, 1}, base, count, false, {page}});
  }

  std::optional<Executor> executor_;
  std::vector<Event> events_;
  pid_t template_ = -1;
  int bell_ = -1;
  int templates_ = 0, most_templates_ = 100;
  std::string folder_;
  std::uint64_t token_ = 0;
  std::uint32_t generation_ = 0;
  bool installed_ = false;
};

TEST_F(Processes, SayWhoTheyAre) {
  spawn(0);
  const auto ready = next<SeatReady>();
  EXPECT_EQ(ready.class_name, "Test");
  ASSERT_EQ(ready.methods.size(), 1u);
  EXPECT_EQ(ready.methods[0].name, "f");
  EXPECT_TRUE(executor_->own_template()->up());
}

TEST_F(Processes, AnswerCallsOfAnySize) {
  spawn(0);
  EXPECT_EQ(call(0, "f", "x"), "done x");
  const std::string large(3 * kInboxBytes + 1, 'y');
  EXPECT_EQ(call(0, "f", large), "done " + large);
}

TEST_F(Processes, RunLeasesAndGatherTheirOutcomes) {
  spawn(0);
  install(0, 0, 100, 1000);
  std::uint32_t items = 0;
  while (items < 1000) {
    const auto progress = next<SeatProgressed>();
    EXPECT_EQ(progress.first, items);
    EXPECT_EQ(PageView::parse(progress.page.bytes())->count(), progress.count);
    items += progress.count;
  }
  EXPECT_EQ(next<SubLeaseDone>().generation, 1u);
}

TEST_F(Processes, ReportWhatWasPublishedBeforeADeathAndTheSuspect) {
  spawn(0);
  install(0, 1, 10, 100);
  const auto progress = next<SeatProgressed>();
  EXPECT_EQ(progress.first, 0u);
  const auto died = next<SeatDied>();
  EXPECT_EQ(died.death.signal, SIGSEGV);
  EXPECT_GT(died.death.peak_kib, 0u);
  EXPECT_EQ(died.stations[1].generation, 1u);
  EXPECT_EQ(died.stations[1].done, 3u);
  EXPECT_EQ(died.stations[1].position.next, 4u);
}

TEST_F(Processes, ReportExitCodesAndTheTailOfStderr) {
  spawn(0);
  call(0, "print", "last words");
  executor_->call({{0}, 99, "exit", Frame(std::string("7")), false});
  const auto died = next<SeatDied>();
  EXPECT_EQ(died.death.exit_code, 7);
  EXPECT_EQ(died.death.signal, 0);
  EXPECT_EQ(died.death.stderr_tail, "last words\n");
  executor_.reset();  // by then all is written
  std::ifstream log(folder_ + "/slot-0.log");
  std::stringstream text;
  text << log.rdbuf();
  EXPECT_NE(text.str().find("err last words"), std::string::npos);
}

TEST_F(Processes, AreKilledWithTheirGroup) {
  spawn(0);
  spawn(1);
  const pid_t child = std::atoi(call(0, "child", "").c_str());
  ASSERT_TRUE(alive(child));
  executor_->kill({0});
  EXPECT_EQ(next<SeatDied>().death.signal, SIGKILL);
  while (alive(child)) ::usleep(1000);  // an orphan now: the template reaps it
  EXPECT_EQ(call(1, "f", "still here"), "done still here");
}

TEST_F(Processes, TakeTheirChildrenAlongWhenTheyExit) {
  spawn(0);
  const pid_t child = std::atoi(call(0, "child", "").c_str());
  executor_->call({{0}, 99, "exit", Frame(std::string("0")), false});
  next<SeatDied>();
  while (alive(child)) ::usleep(1000);
}

TEST_F(Processes, ThatWriteOverTheirArenaAreKilledOrGoOnAndLeaveNothingWaiting) {
  int survived = 0;
  constexpr unsigned kSeeds = 150;
  for (unsigned seed = 1; seed <= kSeeds; ++seed) {
    spawn(0, seed);
    install(0, 0, 100, 20);
    executor_->call({{0}, ++token_, "write over", Frame(std::to_string(seed)), false});
    executor_->call({{0}, ++token_, "f", Frame(std::string("x")), false});
    install(0, 1, 200, 20);
    survived += settles(0) ? 1 : 0;
    ASSERT_FALSE(HasFailure()) << "seed " << seed;
    executor_->discard({0});
    events_.clear();
  }
  EXPECT_GT(survived, 0);
  EXPECT_LT(survived, static_cast<int>(kSeeds));
}

TEST_F(Processes, ThatSleepThoughTheyWereGivenSomethingAreKilled) {
  spawn(0);
  executor_->call({{0}, ++token_, "skip", Frame(), false});
  executor_->call({{0}, ++token_, "f", Frame(), false});
  EXPECT_FALSE(settles(0));
}

TEST_F(Processes, ThatSleepSinceTheyWereGivenNothingAreLeftAlone) {
  spawn(0);
  call(0, "f", "");
  for (int look = 1; look < 5; ++look) executor_->look(monotonic_now() + kSeatLookInterval * look);
  EXPECT_EQ(call(0, "f", "x"), "done x");
}

TEST_F(Processes, StopWhenAsked) {
  spawn(0);
  executor_->stop({0});
  next<SeatStopped>();
  EXPECT_EQ(next<SeatDied>().death.exit_code, 0);
}

TEST_F(Processes, ThatAreDiscardedAreNotHeardOfAgain) {
  spawn(0);
  call(0, "f", "");
  executor_->discard({0});
  spawn(0, 2);
  EXPECT_EQ(next<SeatReady>().life, 2u);
  EXPECT_EQ(call(0, "f", "second"), "done second");
}

TEST_F(Processes, EndWithTheWorker) {
  spawn(0);
  const pid_t child = std::atoi(call(0, "child", "").c_str());
  executor_.reset();  // as if the worker had been killed: its end of the socket is closed
  ASSERT_EQ(::waitpid(template_, nullptr, 0), template_);
  template_ = -1;
  while (alive(child)) {
    while (::waitpid(-1, nullptr, WNOHANG) > 0) {}
    ::usleep(1000);
  }
}

TEST_F(Processes, DieWithTheTemplateAndAnotherOneMakesNewOnes) {
  spawn(0);
  const pid_t child = std::atoi(call(0, "child", "").c_str());
  const pid_t slot = ::getpgid(child);
  ::kill(template_, SIGKILL);
  const auto died = next<SeatDied>();
  EXPECT_EQ(died.life, 1u);
  EXPECT_EQ(died.death.signal, SIGKILL);
  for (const pid_t pid : {slot, child}) {  // this process adopts and reaps them
    while (alive(pid)) {
      while (::waitpid(pid, nullptr, WNOHANG) > 0) {}
      ::usleep(1000);
    }
  }
  spawn(0, 2);
  EXPECT_EQ(call(0, "f", "again"), "done again");
  EXPECT_EQ(templates_, 2);
}

TEST_F(Processes, WaitForTheNextTemplateIfItIsKilledBeforeItMadeThem) {
  ::kill(template_, SIGKILL);
  siginfo_t info{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(template_), &info, WEXITED | WNOWAIT), 0);
  spawn(0);
  EXPECT_EQ(call(0, "f", "x"), "done x");
}

TEST_F(Processes, AreGivenUpWhenNoTemplateLives) {
  most_templates_ = 1;
  spawn(0);
  call(0, "f", "");
  ::kill(template_, SIGKILL);
  next<SeatDied>();
  EXPECT_TRUE(executor_->own_template()->gone);
}

/// A bell that the agent answered while it was awake must not be the last: it may go on to wait without another word
/// to the slots (AgentLoop::wait, while outcomes come fast).
TEST(Bells, RingAgainForWhatIsUrgentAfterALookThatAnsweredOne) {
  Executor::Options options;
  options.in_process = true;
  options.bell_fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  Executor executor(options);
  executor.spawn({SeatId{0}, 1, "", Frame()});
  SlotArena& arena = *executor.arena(SeatId{0});
  SlotOutbox outbox(arena.header(), arena.header().outbox, arena.outbox_data(), options.bell_fd);
  const auto rings = [&] {
    pollfd entry{executor.wait_fd(), POLLIN, 0};
    return ::poll(&entry, 1, 0) == 1;
  };
  std::vector<Event> events;
  for (std::uint64_t token = 1; token <= 3; ++token) {
    executor.call({SeatId{0}, token, "f", Frame(), false});
    EXPECT_FALSE(rings());
    outbox.write(static_cast<std::uint32_t>(FromSlot::kReply), {bytes_of(packed(token))});
    outbox.ring_bell();
    EXPECT_TRUE(rings());
    executor.collect(events, true);
  }
  EXPECT_EQ(events.size(), 3u);
}

}  // namespace
}  // namespace betterbox
