#include "simulator/performance.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "runtime/policy.h"
#include "simulator/report.h"

namespace betterbox::sim {
namespace {

Options small() {
  Options options;
  options.workers = 5;
  options.slots = 2;
  options.items = 600;
  options.distribution = "pareto";
  options.mean_us = 1000;
  options.speed_spread = 3.5;
  return options;
}

Measured run(const Options& options, std::vector<Execution>* executions = nullptr, std::uint64_t seed = 1) {
  const Case all = make_case(options, seed);
  return run_performance(
      all, {options.policy, options.latency_us, options.wake_us, options.copies_permille, options.hints},
      executions);
}

class PolicyRun : public ::testing::TestWithParam<std::string> {};

TEST_P(PolicyRun, RunsEveryItemOnceForItsTimeAndNoTwoInASlotAtOnce) {
  Options options = small();
  options.policy = GetParam();
  const Case all = make_case(options, 1);
  std::vector<Execution> executions;
  const Measured measured = run(options, &executions);
  ASSERT_EQ(executions.size(), options.items);
  std::map<std::uint32_t, std::vector<std::pair<std::int64_t, std::int64_t>>> by_slot;
  std::int64_t last = 0;
  for (std::size_t i = 0; i < executions.size(); ++i) {
    const Execution& e = executions[i];
    const double factor = all.machines.at(e.slot / options.slots).speed.factor();
    EXPECT_NEAR(static_cast<double>(e.end - e.start), static_cast<double>(all.work.ns(i)) / factor, 1.01);
    by_slot[e.slot].emplace_back(e.start, e.end);
    last = std::max(last, e.end);
  }
  for (auto& [slot, times] : by_slot) {
    std::sort(times.begin(), times.end());
    for (std::size_t i = 1; i < times.size(); ++i) EXPECT_LE(times[i - 1].second, times[i].first);
  }
  EXPECT_DOUBLE_EQ(measured.makespan_ns, static_cast<double>(last));
  EXPECT_GE(measured.makespan_ns, measured.ideal_ns);
  EXPECT_EQ(measured.run_twice, 0U);
}

std::vector<std::string> policy_names() {
  std::vector<std::string> names;
  for (const Policy& policy : policies()) names.emplace_back(policy.name);
  return names;
}

INSTANTIATE_TEST_SUITE_P(All, PolicyRun, ::testing::ValuesIn(policy_names()));

TEST(PerformanceRun, RepeatsExactly) {
  const Options options = small();
  auto repeatable = [&](Measured measured) {
    measured.scheduler_ns = measured.wall_s = 0;
    measured.bytes_peak = 0;
    measured.scheduler_load_peak = 0;
    std::fill(measured.scheduler_load.begin(), measured.scheduler_load.end(), 0.0);
    return json_of(options, std::vector{measured});
  };
  EXPECT_EQ(repeatable(run(options)), repeatable(run(options)));
  EXPECT_NE(repeatable(run(options)), repeatable(run(options, nullptr, 2)));
}

TEST(PerformanceRun, EndsWithWorkersThatComeGoAndSlowDown) {
  Options options = small();
  options.slowdowns.push_back(parse_slowdown("0@0.3x:3"));
  options.joins.push_back(parse_join("0.4x:2"));
  options.leaves.push_back(parse_leave("1@0.5x"));
  std::vector<Execution> executions;
  const Measured measured = run(options, &executions);
  EXPECT_EQ(measured.workers, 7U);
  const bool joined = std::any_of(executions.begin(), executions.end(), [](auto& e) { return e.slot >= 10; });
  EXPECT_TRUE(joined);
  for (const Execution& e : executions) EXPECT_LT(e.start, e.end);
  EXPECT_LT(measured.makespan_ns, 3 * measured.greedy_ns);
}

TEST(PerformanceRun, TellsCostsAndCopiesTheLastItems) {
  Options options = small();
  options.hints = true;
  options.copies_permille = 50;
  std::vector<Execution> executions;
  const Measured measured = run(options, &executions);
  std::int64_t last = 0;
  for (const Execution& e : executions) last = std::max(last, e.end);
  EXPECT_DOUBLE_EQ(measured.makespan_ns, static_cast<double>(last));
}

/// Far from the scheduler nobody waits for work, whatever the order of the items.
TEST(PerformanceRun, GrantsARoundTripAhead) {
  for (const char* order : {"constant", "exponential", "ramp-down", "ramp-up"}) {
    Options options = small();
    options.distribution = order;
    options.items = 4000;
    options.mean_us = 5000;
    options.speed_spread = 1;
    options.latency_us = 20'000;
    const Measured measured = run(options);
    EXPECT_LT(measured.makespan_ns, 1.1 * measured.greedy_ns) << order;
  }
}

TEST(PerformanceRun, NeedsNoMessagesPerItem) {
  Options options = small();
  options.items = 100'000;
  options.mean_us = 10;
  EXPECT_LT(run(options).messages, 10'000U);
}

TEST(Report, WritesALinePerExecutedItem) {
  std::FILE* file = std::tmpfile();
  ASSERT_NE(file, nullptr);
  const std::vector<Execution> executions{{1'234'567, 2'000'000, 3}, {5, 1'000, 0}};
  ASSERT_TRUE(write_trace(file, executions, 7, true));
  std::rewind(file);
  char text[300] = {};
  const std::size_t size = std::fread(text, 1, sizeof text, file);
  std::fclose(file);
  EXPECT_EQ(std::string(text, size),
            "{\"item\": 0, \"slot\": 3, \"start_us\": 1234.567, \"end_us\": 2000.000, \"seed\": 7}\n"
            "{\"item\": 1, \"slot\": 0, \"start_us\": 0.005, \"end_us\": 1.000, \"seed\": 7}\n");
}

}  // namespace
}  // namespace betterbox::sim
