// What a slot's process says of the item that it runs, and what its client says of its calls.
#include "runtime/slot_place.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <ctime>
#include <mutex>

#include "runtime/limits.h"
#include "tests/unit/runtime/client_fixture.h"

namespace betterbox {
namespace {

constexpr CallId kCall{{7}, 1};

class SlotPlaceTest : public ::testing::Test {
 protected:
  SlotPlaceTest() : place_(new SlotPlace(arena_.header(), bell_, true)) {}
  ~SlotPlaceTest() override {
    if (place_ != nullptr) SlotPlace::close(place_);
    ::close(bell_);
  }
  bool lends() { return arena_.header().slot_lends.load() != 0; }

  SlotArena arena_ = SlotArena::create_private();
  int bell_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  SlotPlace* place_;
};

TEST_F(SlotPlaceTest, CallsOfItemsAreNestedOneDeeper) {
  EXPECT_EQ(SlotPlace::current(), place_);
  EXPECT_EQ(SlotPlace::depth_of_calls(), 1U) << "of a box: its methods are called";
  place_->enter(kCall, 4);
  EXPECT_EQ(SlotPlace::depth_of_calls(), 5U);
  EXPECT_EQ(place_->call(), kCall);
  place_->leave();
  EXPECT_EQ(SlotPlace::depth_of_calls(), 1U);
  std::thread([] { EXPECT_EQ(SlotPlace::depth_of_calls(), 0U) << "a thread that is no slot's"; }).join();
  SlotPlace::close(std::exchange(place_, nullptr));
  EXPECT_EQ(SlotPlace::current(), nullptr);
}

TEST_F(SlotPlaceTest, APlaceIsLentWhileAThreadOfAnItemWaits) {
  arena_.header().agent_wants_bell.store(static_cast<std::uint32_t>(Bell::kUrgent));
  place_->wait_begins();
  EXPECT_FALSE(lends()) << "nothing runs";
  place_->wait_ends();
  place_->enter(kCall, 0);
  place_->wait_begins();
  place_->wait_begins();
  EXPECT_TRUE(lends());
  std::uint64_t rings = 0;
  EXPECT_EQ(::read(bell_, &rings, sizeof rings), static_cast<ssize_t>(sizeof rings));
  place_->wait_ends();
  EXPECT_TRUE(lends());
  place_->wait_ends();
  EXPECT_FALSE(lends());
  place_->wait_begins();
  place_->leave();
  EXPECT_FALSE(lends()) << "the item has ended, a thread that it left behind waits on";
}

/// Of a process, in a child: there can be one only.
TEST(SlotPlaceDeathTest, AnItemThatComputesNothingWhileItsCallsAreOpenWaits) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        SlotArena arena = SlotArena::create_private();
        auto* place = new SlotPlace(arena.header(), -1, false);
        const auto lends = [&] { return arena.header().slot_lends.load() != 0; };
        const TimePoint now = monotonic_now();
        place->enter(kCall, 0);
        place->look(now, true);
        place->look(now + seconds(10), false);
        bool good = !lends();  // it waits for nothing
        place->look(now + seconds(20), true);
        place->look(now + seconds(30), true);
        good = good && lends();
        const std::clock_t begun = std::clock();
        while (std::clock() - begun < CLOCKS_PER_SEC / 20) {}
        place->look(now + seconds(30) + milliseconds(50), true);
        good = good && !lends();  // it computes
        std::_Exit(good ? 7 : 1);
      },
      ::testing::ExitedWithCode(7), "");
}

TEST_F(SlotPlaceTest, AClientSaysHowDeepItsCallsAreAndRefusesThoseThatAreTooDeep) {
  FakeNetwork network;
  EchoScheduler echo;
  std::atomic<std::uint32_t> depth{0};
  PlayedPeer scheduler(network, "scheduler", [&](PlayedPeer& peer, ConnectionId from, Message& message) {
    if (const auto* call = std::get_if<Call>(&message.body)) depth = call->depth;
    echo(peer, from, message);
  });
  Client::Options options;
  options.endpoint = "scheduler";
  options.peer = PeerId{5};
  Client client(network.make_transport(), options);
  place_->enter(kCall, 3);
  const CallPtr call = client.open_call({}, Frame("f"), int_items(0, 1), true);
  ASSERT_TRUE(client.wait(client.over(call), kSoon, {}));
  EXPECT_EQ(depth, 4U);
  place_->enter(kCall, kMaxCallDepth);
  EXPECT_THROW(client.open_call({}, Frame("f"), int_items(0, 1), true), NestingError);
  EXPECT_THROW(client.submit(Client::Template({}, Frame("f")), bytes(int_item(1))), NestingError);
}

TEST_F(SlotPlaceTest, ABoxThatWaitsForLongIsToldOfAndFailsWithTheCycle) {
  FakeNetwork network;
  std::mutex mutex;
  std::vector<Waits> told;
  PlayedPeer scheduler(network, "scheduler", [&](PlayedPeer& peer, ConnectionId from, Message& message) {
    if (auto* hello = std::get_if<Hello>(&message.body)) {
      peer.send(from, {Welcome{{1}, hello->session, "here", 1, {}, {}, {}}, {}});
    } else if (const auto* waits = std::get_if<Waits>(&message.body)) {
      const std::lock_guard lock(mutex);
      told.push_back(*waits);
      if (!waits->calls.empty()) peer.send(from, {Deadlock{waits->number, "round and round"}, {}});
    }
  });
  Client::Options options;
  options.endpoint = "scheduler";
  options.peer = PeerId{5};
  Client client(network.make_transport(), options);
  place_->host({PeerId{9}, SeatId{2}, 1});
  const CallPtr call = client.open_call({}, Frame("f"), int_items(0, 2), true);
  ASSERT_TRUE(client.wait(client.over(call), kSoon, {}, {call, true, true}));
  EXPECT_EQ(parse_lost_item(client.outcome(call, 1, false)->item)->detail, "round and round");
  client.close();
  const std::lock_guard lock(mutex);
  ASSERT_GE(told.size(), 1U);
  EXPECT_EQ(told[0].box, (BoxId{PeerId{9}, SeatId{2}, 1}));
  EXPECT_EQ(told[0].calls, std::vector<std::uint64_t>{1});
}

}  // namespace
}  // namespace betterbox
