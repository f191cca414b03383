#include "simulator/distributions.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <stdexcept>

namespace betterbox::sim {
namespace {

constexpr std::uint64_t kMany = 400'000;
constexpr double kMeanUs = 10'000;

double mean_of(const ItemWork& work) {
  return static_cast<double>(work.total_ns()) / static_cast<double>(work.items()) / 1000;
}

double deviation_of(const ItemWork& work) {
  const double mean = mean_of(work);
  double squares = 0;
  for (std::uint64_t i = 0; i < work.items(); ++i) squares += (work.us(i) - mean) * (work.us(i) - mean);
  return std::sqrt(squares / static_cast<double>(work.items()));
}

class DistributionTest : public ::testing::TestWithParam<std::string_view> {};

TEST_P(DistributionTest, HasTheMeanThatWasAsked) {
  const ItemWork work = make_work(std::string(GetParam()), kMany, kMeanUs, 7);
  ASSERT_EQ(work.items(), kMany);
  EXPECT_NEAR(mean_of(work), kMeanUs, 0.01 * kMeanUs);
}

TEST_P(DistributionTest, IsTheSameForTheSameSeed) {
  const std::string name(GetParam());
  EXPECT_EQ(make_work(name, 1000, kMeanUs, 3).sums, make_work(name, 1000, kMeanUs, 3).sums);
}

INSTANTIATE_TEST_SUITE_P(All, DistributionTest, ::testing::ValuesIn(distribution_names()),
                         [](const auto& chosen) {
                           std::string name(chosen.param);
                           std::erase(name, '-');
                           return name;
                         });

TEST(Distributions, SpreadAsTheirNamesSay) {
  EXPECT_EQ(deviation_of(make_work("constant", 1000, kMeanUs, 1)), 0);
  EXPECT_NEAR(deviation_of(make_work("gaussian", kMany, kMeanUs, 1)), 0.3 * kMeanUs, 0.01 * kMeanUs);
  EXPECT_NEAR(deviation_of(make_work("uniform", kMany, kMeanUs, 1)), kMeanUs / std::sqrt(3), 0.01 * kMeanUs);
  EXPECT_NEAR(deviation_of(make_work("exponential", kMany, kMeanUs, 1)), kMeanUs, 0.02 * kMeanUs);
  EXPECT_NEAR(deviation_of(make_work("gamma", kMany, kMeanUs, 1)), kMeanUs / std::sqrt(2), 0.02 * kMeanUs);
}

TEST(Distributions, BimodalItemsAreOneOrTen) {
  const ItemWork work = make_work("bimodal", kMany, 1900, 5);
  std::uint64_t longs = 0;
  for (std::uint64_t i = 0; i < work.items(); ++i) {
    EXPECT_TRUE(work.ns(i) == 1'000'000 || work.ns(i) == 10'000'000);
    longs += work.ns(i) == 10'000'000 ? 1 : 0;
  }
  EXPECT_NEAR(static_cast<double>(longs) / kMany, 0.1, 0.005);
}

TEST(Distributions, ParetoIsCutAtTenMeans) {
  const ItemWork work = make_work("pareto", kMany, kMeanUs, 5);
  EXPECT_EQ(work.longest_ns(), 100'000'000);
}

TEST(Distributions, RampsGoFromOneToNineteen) {
  const ItemWork up = make_work("ramp-up", 1001, 10, 1);
  EXPECT_EQ(up.ns(0), 1000);
  EXPECT_EQ(up.ns(500), 10'000);
  EXPECT_EQ(up.ns(1000), 19'000);
  const ItemWork down = make_work("ramp-down", 1001, 10, 1);
  EXPECT_EQ(down.ns(0), 19'000);
  EXPECT_EQ(down.ns(1000), 1000);
}

class TraceTest : public ::testing::Test {
 protected:
  void write(const std::string& text) { std::ofstream(name_) << text; }
  ~TraceTest() override { std::remove(name_.c_str()); }
  std::string name_ = ::testing::TempDir() + "item_times.txt";
};

TEST_F(TraceTest, GivesTheTimesInItsOrder) {
  write("1.5\n 20\r\n\n0.25\n");
  const ItemWork work = make_work("trace:" + name_, 0, 1, 1);
  ASSERT_EQ(work.items(), 3U);
  EXPECT_EQ(work.ns(0), 1500);
  EXPECT_EQ(work.ns(1), 20'000);
  EXPECT_EQ(work.ns(2), 250);
  EXPECT_EQ(make_work("trace:" + name_, 2, 1, 1).items(), 2U);
}

TEST_F(TraceTest, RefusesWhatIsNoTime) {
  for (const char* text : {"", "1\nx\n", "-1\n", "nan\n", "1 2\n"}) {
    write(text);
    EXPECT_THROW(make_work("trace:" + name_, 0, 1, 1), std::invalid_argument) << text;
  }
  write("1\n2\n");
  EXPECT_THROW(make_work("trace:" + name_, 3, 1, 1), std::invalid_argument);
  EXPECT_THROW(make_work("trace:" + name_ + ".none", 0, 1, 1), std::invalid_argument);
  EXPECT_THROW(make_work("other", 3, 1, 1), std::invalid_argument);
}

}  // namespace
}  // namespace betterbox::sim
