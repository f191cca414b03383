// Each rule of the ledger is broken once.
#include "simulator/ledger.h"

#include <gtest/gtest.h>

namespace betterbox::sim {
namespace {

constexpr CallId kCall{{7}, 1};
constexpr PeerId kAgent{100}, kOther{101};

class LedgerTest : public ::testing::Test {
 protected:
  LedgerTest() { ledger.scheduler_began(); }
  void grant(std::uint64_t lease, PeerId agent, Range range) {
    Lease message;
    message.lease = {lease};
    message.call = kCall;
    message.range = range;
    ledger.lease_sent(agent, message);
  }
  std::uint64_t execute(std::uint64_t item, PeerId agent = kAgent) {
    time += 10;
    return ledger.executed(kCall, item, agent, 0, time, time + 10);
  }
  void report(std::uint64_t lease, PeerId agent, std::uint64_t item, std::uint64_t number) {
    Outcomes outcomes;
    outcomes.lease = {lease};
    outcomes.spans.push_back({item, 1, 10});
    ledger.outcomes_arrived(agent, outcomes, {Ledger::page(number, 1)});
  }
  void deliver(std::uint64_t item, std::uint64_t number) {
    ledger.results_leave(kCall.client, {1, kCall.serial, {{item, 1}}}, {Ledger::page(number, 1)});
  }
  Ledger ledger;
  std::int64_t time = 0;
};

TEST_F(LedgerTest, LetsTheHoldersOutcomePassAlsoAgain) {
  grant(1, kAgent, {0, 4});
  const std::uint64_t number = execute(2);
  report(1, kAgent, 2, number);
  deliver(2, number);
  ledger.agent_gone(kAgent);
  deliver(2, number);
}

TEST_F(LedgerTest, CatchesOutcomesOfItemsThatWereGivenBack) {
  grant(1, kAgent, {0, 4});
  ledger.released(kAgent, {{1}, {{2, 4}}});
  const std::uint64_t number = execute(3);
  report(1, kAgent, 3, number);
  EXPECT_THROW(deliver(3, number), Violation);
}

TEST_F(LedgerTest, CatchesOutcomesOfAgentsThatAreGone) {
  grant(1, kAgent, {0, 4});
  ledger.agent_gone(kAgent);
  grant(2, kOther, {0, 4});
  const std::uint64_t number = execute(0);
  report(1, kAgent, 0, number);
  EXPECT_THROW(deliver(0, number), Violation);
}

TEST_F(LedgerTest, CatchesOutcomesOfAnEarlierScheduler) {
  grant(1, kAgent, {0, 4});
  const std::uint64_t number = execute(0);
  report(1, kAgent, 0, number);
  ledger.scheduler_began();
  EXPECT_THROW(deliver(0, number), Violation);
}

TEST_F(LedgerTest, CatchesOutcomesOfOtherItems) {
  grant(1, kAgent, {0, 4});
  const std::uint64_t number = execute(0);
  report(1, kAgent, 0, number);
  EXPECT_THROW(deliver(1, number), Violation);
}

TEST_F(LedgerTest, CatchesASlotThatRunsTwoItems) {
  ledger.executed(kCall, 0, kAgent, 0, 100, 200);
  ledger.executed(kCall, 1, kAgent, 1, 150, 250);
  EXPECT_THROW(ledger.executed(kCall, 2, kAgent, 0, 199, 250), Violation);
}

TEST_F(LedgerTest, CountsItemsThatRanTwice) {
  execute(0);
  execute(1);
  execute(0);
  execute(0);
  EXPECT_EQ(ledger.run_twice(), 1U);
}

}  // namespace
}  // namespace betterbox::sim
