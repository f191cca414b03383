// Agents far away: how far is measured, and they get and look for work that much earlier.
#include <deque>

#include "tests/unit/scheduler/bus_fixture.h"

namespace betterbox::scheduler {
namespace {

class FarAgentsTest : public BusTest {
 public:
  const RoundTrip& round_trip_of(const Actor& agent) {
    return core.state().peers.at(agent.hello.peer).agent.round_trip;
  }
};

TEST_F(FarAgentsTest, AWorkerFarAwayGetsMoreARoundTripEarlier) {
  const Actor far = worker(1, 1);
  worker(2, 1);
  const Actor c = client();
  start_call(c, 1, 100'000);
  const Lease probe = expect_first_lease(far);
  pass(milliseconds(41));
  finish(far, probe.lease, probe.range, milliseconds(1), milliseconds(1));
  EXPECT_EQ(expect<Lease>(far).low_water, 16U) << "a few times what was seen";
  RoundTrip forty;
  forty.add(milliseconds(40));
  EXPECT_EQ(round_trip_of(far).ahead(), forty.ahead());
  forget_unread();
}

TEST_F(FarAgentsTest, OutcomesThatAreSentAgainSayNothingOfTheWay) {
  Actor w = worker(1, 1);
  const Actor c = client();
  start_call(c, 1, 2);
  const Lease lease = expect_first_lease(w);
  cut(w);
  pass(seconds(3));
  w.hello.leases = {{lease.lease, {lease.range}}};
  greet(w);
  finish(w, lease.lease, {0, 1}, milliseconds(1), milliseconds(1));
  EXPECT_FALSE(round_trip_of(w).is_far());
  forget_unread();
}

TEST(RoundTripTest, IsThatOfTheSameRoomUntilMoreIsSeenAndRemembersStalls) {
  RoundTrip round_trip;
  EXPECT_EQ(round_trip.ahead(), kRoundTrip);
  for (int i = 0; i < 100; ++i) round_trip.add(microseconds(100));
  EXPECT_FALSE(round_trip.is_far());
  for (int i = 0; i < 1000; ++i) round_trip.add(milliseconds(40));
  EXPECT_NEAR(static_cast<double>(round_trip.expected().ns), 40e6, 1e6);
  round_trip.add(milliseconds(300));
  EXPECT_GT(round_trip.ahead(), milliseconds(300));
  for (int i = 0; i < 20; ++i) round_trip.add(milliseconds(40));
  EXPECT_GT(round_trip.ahead(), milliseconds(200)) << "they come again";
  round_trip.add(seconds(1000));
  EXPECT_LT(round_trip.ahead(), seconds(3)) << "a cut is no distance";
}

TEST_F(FarAgentsTest, AWorkerFarAwayTakesFromOthersBeforeItIsIdle) {
  const Actor near = worker(1, 1);
  const Actor c = client();
  start_call(c, 1, 1000);
  const Lease all = expect_first_lease(near);
  finish(near, all.lease, {0, 1}, milliseconds(10));
  const Actor far = worker(2, 1);
  const std::uint64_t count = expect<Revoke>(near).count;
  say(near, Released{all.lease, {{1000 - count, 1000}}});
  const Lease probe = expect_first_lease(far);
  pass(milliseconds(50));
  finish(far, probe.lease, probe.range, milliseconds(10), milliseconds(10));

  std::uint64_t held = 0;
  std::deque<Lease> leases;
  const auto take_leases = [&] {
    for (Lease& lease : expect_leases(far)) held += lease.range.size(), leases.push_back(std::move(lease));
  };
  for (take_leases(); held > 0 && !has_message(near); --held, take_leases()) {
    Lease& lease = leases.front();
    const std::uint64_t item = lease.range.begin++;
    finish(far, lease.lease, {item, item + 1}, milliseconds(10));
    if (lease.range.empty()) leases.pop_front();
  }
  expect<Revoke>(near);
  EXPECT_GT(held, 10U) << "what it does while others come";
  forget_unread();
}

}  // namespace
}  // namespace betterbox::scheduler
