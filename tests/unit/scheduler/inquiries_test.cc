// Inquiries: which items have begun, and cancelling only the others.
#include "tests/unit/scheduler/bus_fixture.h"

namespace betterbox::scheduler {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class InquiriesTest : public BusTest {
 protected:
  void inquire(const Actor& client, std::vector<Range> items, bool withdraw) {
    say(client, Inquire{1, 7, std::move(items), withdraw});
  }
  Begun expect_begun(const Actor& client) {
    const Begun begun = expect<Begun>(client);
    EXPECT_EQ(begun.serial, 1U);
    EXPECT_EQ(begun.number, 7U);
    return begun;
  }
};

TEST_F(InquiriesTest, WhatAnAgentKeepsHasBegunAndTheRestIsGrantedAgain) {
  const Actor w = worker(1, 2);
  const Actor c = client();
  start_call(c, 1, 10);
  const Lease lease = expect_first_lease(w);
  inquire(c, {{0, 10}}, false);
  EXPECT_EQ(expect<Revoke>(w).count, 10U);
  EXPECT_FALSE(has_message(c)) << "the agent is asked";
  say(w, Released{lease.lease, {{2, 10}}});
  EXPECT_THAT(expect_begun(c).items, ElementsAre(Range{0, 2}));
  finish(w, lease.lease, {0, 2});
  expect_results(c);
  EXPECT_EQ(expect<Lease>(w).range.begin, 2U);
}

TEST_F(InquiriesTest, WhatHasNotBegunIsWithdrawn) {
  const Actor w = worker(1, 2);
  const Actor c = client();
  start_call(c, 1, 10);
  const Lease lease = expect_first_lease(w);
  inquire(c, {{1, 6}}, true);
  expect<Revoke>(w);
  say(w, Released{lease.lease, {{2, 10}}});
  const RangeSet cancelled = expect_results(c);
  EXPECT_EQ(cancelled.ranges(), std::vector<Range>({{2, 6}}));
  EXPECT_EQ(expect_lost().code, LostCode::kCancelled);
  EXPECT_THAT(expect_begun(c).items, ElementsAre(Range{1, 2}));
  finish(w, lease.lease, {0, 2});
  EXPECT_EQ(expect_results(c).size(), 2U) << "what ran was left alone";
  EXPECT_EQ(expect<Lease>(w).range, (Range{6, 10}));
}

TEST_F(InquiriesTest, WhatNoAgentHasIsWithdrawnAtOnceAndWhatComesLaterToo) {
  const Actor c = client();
  open_call(c, 1);
  add_items(c, 1, {0, 4}, false);
  inquire(c, {{2, 6}}, true);
  EXPECT_EQ(expect_results(c).ranges(), std::vector<Range>({{2, 4}}));
  EXPECT_THAT(expect_begun(c).items, IsEmpty());
  add_items(c, 1, {4, 8}, true);
  EXPECT_EQ(expect_results(c).ranges(), std::vector<Range>({{4, 6}}));
  const Actor w = worker(1, 2);
  expect<Context>(w);
  const Lease first = expect<Lease>(w);
  EXPECT_EQ(first.range, (Range{0, 2}));
  finish(w, first.lease, {0, 2});
  expect_results(c);
  EXPECT_EQ(expect<Lease>(w).range, (Range{6, 8})) << "nobody gets what was withdrawn";
}

TEST_F(InquiriesTest, AnAgentThatWasAskedForAPartIsAskedAgainForAll) {
  const Actor w1 = worker(1, 1);
  const Actor c = client();
  start_call(c, 1, 100);
  const Lease lease = expect_first_lease(w1);
  const Actor w2 = worker(2, 1);
  const Revoke part = expect<Revoke>(w1);
  ASSERT_LT(part.count, 100U);
  inquire(c, {{0, 100}}, false);
  EXPECT_FALSE(has_message(w1)) << "one at a time";
  say(w1, Released{lease.lease, {{100 - part.count, 100}}});
  EXPECT_GE(expect<Revoke>(w1).count, 100 - part.count);
  EXPECT_FALSE(has_message(c));
  say(w1, Released{lease.lease, {{1, 100 - part.count}}});
  EXPECT_THAT(expect_begun(c).items, ElementsAre(Range{0, 1}));
  forget_unread();
}

TEST_F(InquiriesTest, AnAgentThatIsLostIsNotWaitedFor) {
  Actor w = worker(1, 2);
  const Actor c = client();
  start_call(c, 1, 10);
  expect_first_lease(w);
  inquire(c, {{0, 10}}, false);
  expect<Revoke>(w);
  kill(w);
  removed_sockets.clear();
  EXPECT_THAT(expect_begun(c).items, IsEmpty());
}

TEST_F(InquiriesTest, AnAgentWhoseConnectionBrokeIsAskedAgain) {
  Actor w = worker(1, 2);
  const Actor c = client();
  start_call(c, 1, 10);
  const Lease lease = expect_first_lease(w);
  inquire(c, {{0, 10}}, false);
  expect<Revoke>(w);
  cut(w);
  w.hello.leases = {{lease.lease, {lease.range}}};
  greet(w);
  EXPECT_EQ(expect<Revoke>(w).count, 10U) << "its answer was lost";
  EXPECT_FALSE(has_message(c));
  say(w, Released{lease.lease, {{1, 10}}});
  EXPECT_THAT(expect_begun(c).items, ElementsAre(Range{0, 1}));
  forget_unread();
}

TEST_F(InquiriesTest, AForgottenCallHasBegunNothing) {
  const Actor c = client();
  inquire(c, {{0, 10}}, true);
  EXPECT_THAT(expect_begun(c).items, IsEmpty());
}

TEST_F(InquiriesTest, WhereTooManyWaitTheOldestGetsWhatIsKnown) {
  const Actor w = worker(1, 1);
  const Actor c = client();
  start_call(c, 1, 10);
  const Lease lease = expect_first_lease(w);
  for (std::size_t i = 0; i < kMaxInquiries; ++i) inquire(c, {{0, 10}}, false);
  expect<Revoke>(w);
  EXPECT_FALSE(has_message(c));
  inquire(c, {{0, 10}}, false);
  EXPECT_THAT(expect_begun(c).items, ElementsAre(lease.range)) << "they may have begun";
  EXPECT_FALSE(has_message(c)) << "the others wait";
  say(w, Released{lease.lease, {{1, lease.range.end}}});
  for (std::size_t i = 0; i < kMaxInquiries; ++i)
    EXPECT_THAT(expect_begun(c).items, ElementsAre(Range{0, 1}));
  forget_unread();
}

}  // namespace
}  // namespace betterbox::scheduler
