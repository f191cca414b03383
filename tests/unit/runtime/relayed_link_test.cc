// Calls to a box that the client cannot reach: the dialogue with its agent goes through the scheduler.
#include <algorithm>
#include <mutex>

#include "runtime/codec.h"
#include "tests/unit/runtime/client_fixture.h"

namespace betterbox {
namespace {

constexpr PeerId kAgent{11};

/// The scheduler, and an agent behind it that nobody else reaches. It answers calls when it is told to.
class SchedulerThatRelays {
 public:
  explicit SchedulerThatRelays(EchoScheduler& echo) : echo_(echo) {}

  void operator()(PlayedPeer& peer, ConnectionId from, Message& message) {
    const auto* relay = std::get_if<Relay>(&message.body);
    if (relay == nullptr) return echo_(peer, from, message);
    const std::scoped_lock lock(mutex_);
    peer_ = &peer, client_ = from;
    if (relay->over) return void(over_ = true);
    auto inner = unwrap(std::move(message.frames));
    auto& told = std::get<Message>(inner);
    if (auto* hello = std::get_if<Hello>(&told.body)) {
      if (there) peer.send(from, wrap(kAgent, {Welcome{kAgent, hello->session, "there", 1, {}, {}, {}}, {}}));
      if (!there) peer.send(from, {Relay{kAgent, true}, {}});
    } else if (auto* call = std::get_if<BoxCall>(&told.body)) {
      calls_.push_back(call->serial);
    }
  }
  std::size_t calls() const {
    const std::scoped_lock lock(mutex_);
    return calls_.size();
  }
  void answer(std::size_t i) {
    const std::scoped_lock lock(mutex_);
    peer_->send(client_, wrap(kAgent, {BoxReply{calls_.at(i)}, {Frame(int_item(static_cast<int>(i)))}}));
  }
  void end_link() {
    const std::scoped_lock lock(mutex_);
    peer_->send(client_, {Relay{kAgent, true}, {}});
  }
  std::atomic<bool> there{true};

 private:
  EchoScheduler& echo_;
  mutable std::mutex mutex_;
  PlayedPeer* peer_ = nullptr;
  ConnectionId client_;
  std::vector<std::uint64_t> calls_;
  bool over_ = false;
};

class RelayedLinkTest : public ClientTest {
 protected:
  RelayedLinkTest() : relays_(echo_), scheduler_(network_, "scheduler", std::ref(relays_)) {
    echo_.add_box(kAgent, "nobody listens here", 1);
    client_ = connect();
    client_->watch(Port{80});
    box_ = client_->wait_boxes(Port{80}, 1, kSoon, {}).at(0).info.box;
  }
  CallPtr call(std::size_t bytes = 4) {
    return client_->box_call({box_}, "name", Frame(std::string(bytes, 'a')), {});
  }
  /// Waits for so many calls to be at the agent. Result: false if more are.
  bool arrive(std::size_t calls) {
    while (relays_.calls() < calls && monotonic_now() < kSoon) client_->status(kSoon, {});
    client_->status(kSoon, {});  // answered after all that was sent before
    return relays_.calls() == calls;
  }

  SchedulerThatRelays relays_;
  PlayedPeer scheduler_;
  std::unique_ptr<Client> client_;
  BoxId box_;
};

TEST_F(RelayedLinkTest, CallsToABoxThatCannotBeReachedAreAnsweredThroughTheScheduler) {
  const CallPtr first = call(), second = call();
  ASSERT_TRUE(arrive(2));
  relays_.answer(1);
  relays_.answer(0);
  ASSERT_TRUE(client_->wait(client_->over(second), kSoon, {}));
  ASSERT_TRUE(client_->wait(client_->over(first), kSoon, {}));
  EXPECT_EQ(int_outcome(*client_, first, 0), 0);
  EXPECT_EQ(int_outcome(*client_, second, 0), 1);
}

TEST_F(RelayedLinkTest, ALinkThatEndsLosesItsCalls) {
  const CallPtr lost = call();
  ASSERT_TRUE(arrive(1));
  relays_.end_link();
  ASSERT_TRUE(client_->wait(client_->over(lost), kSoon, {}));
  EXPECT_EQ(lost_code(*client_, lost, 0), LostCode::kBoxLost);
}

TEST_F(RelayedLinkTest, NoMoreCallsAreUnderWayThanTheSchedulerShouldHold) {
  std::vector<CallPtr> calls;
  for (std::size_t i = 0; i <= kMaxRelayedCallsInFlight; ++i) calls.push_back(call());
  ASSERT_TRUE(arrive(kMaxRelayedCallsInFlight));
  relays_.answer(0);
  EXPECT_TRUE(arrive(kMaxRelayedCallsInFlight + 1));
}

TEST_F(RelayedLinkTest, NorMoreBytes) {
  const CallPtr large = call(kMaxRelayedBytesInFlight), next = call(), another = call();
  ASSERT_TRUE(arrive(1));
  relays_.answer(0);
  ASSERT_TRUE(arrive(3));
  relays_.answer(1);
  relays_.answer(2);
  EXPECT_TRUE(client_->wait(client_->over(another), kSoon, {}));
}

TEST_F(RelayedLinkTest, ACancelledCallMakesRoomForOthers) {
  const CallPtr large = call(kMaxRelayedBytesInFlight), next = call();
  ASSERT_TRUE(arrive(1));
  client_->cancel(large);
  EXPECT_TRUE(arrive(2));
}

}  // namespace
}  // namespace betterbox
