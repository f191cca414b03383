#include "simulator/distributions.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <functional>
#include <stdexcept>

#include "simulator/random.h"

namespace betterbox::sim {
namespace {

/// Of one item of a trace: 285 years.
constexpr double kMostTraceUs = 9e15;

/// Pareto with shape 1.5, cut at ten means: its least value, so that the mean of what was cut is 1.
/// E min(X, c) = 3x - 2x sqrt(x / c); c = 10.
double least_pareto() {
  double low = 0.3, high = 0.5;
  for (int i = 0; i < 60; ++i) {
    const double x = (low + high) / 2;
    (3 * x - 2 * x * std::sqrt(x / 10) < 1 ? low : high) = x;
  }
  return low;
}

/// Iterations until a point of the plane escapes, at most 256.
int escape_time(double re, double im) {
  const double q = (re - 0.25) * (re - 0.25) + im * im;
  constexpr int kMost = 256;
  if (q * (q + (re - 0.25)) <= 0.25 * im * im || (re + 1) * (re + 1) + im * im <= 0.0625) return kMost;
  double x = 0, y = 0;
  for (int i = 1; i < kMost; ++i) {
    const double next = x * x - y * y + re;
    y = 2 * x * y + im;
    x = next;
    if (x * x + y * y > 4) return i;
  }
  return kMost;
}

/// The set's picture, row by row: neighbours are alike, and the long items lie in the middle.
std::vector<float> mandelbrot(std::uint64_t items) {
  const auto width = static_cast<std::uint64_t>(std::ceil(std::sqrt(static_cast<double>(items))));
  const std::uint64_t height = (items + width - 1) / width;
  std::vector<float> times(items);
  double sum = 0;
  for (std::uint64_t i = 0; i < items; ++i) {
    const double re = -2 + 2.5 * (static_cast<double>(i % width) + 0.5) / static_cast<double>(width);
    const double im = -1.25 + 2.5 * (static_cast<double>(i / width) + 0.5) / static_cast<double>(height);
    times[i] = static_cast<float>(escape_time(re, im));
    sum += times[i];
  }
  const double mean = sum / static_cast<double>(items);
  for (float& t : times) t = static_cast<float>(t / mean);
  return times;
}

double gaussian_item(Random& random) {
  for (;;) {  // 30 % of the mean: one in 2,300 is drawn again
    const double t = 1 + 0.3 * random.gaussian();
    if (t > 0) return t;
  }
}

/// Times with mean 1, in item order.
using Draw = std::function<double(std::uint64_t)>;

Draw drawing(const std::string& name, std::uint64_t items, Random& random) {
  if (name == "constant") return [](std::uint64_t) { return 1.0; };
  if (name == "uniform") return [&random](std::uint64_t) { return 2 * random.unit(); };
  if (name == "gaussian") return [&random](std::uint64_t) { return gaussian_item(random); };
  if (name == "exponential") return [&random](std::uint64_t) { return random.exponential(); };
  if (name == "gamma")
    return [&random](std::uint64_t) { return (random.exponential() + random.exponential()) / 2; };
  if (name == "bimodal") return [&random](std::uint64_t) { return (random.chance(0.9) ? 1 : 10) / 1.9; };
  if (name == "pareto")
    return [&random, least = least_pareto()](std::uint64_t) {
      return std::min(10.0, least * std::pow(random.unit(), -1 / 1.5));
    };
  const double last = std::max<double>(1, static_cast<double>(items) - 1);
  if (name == "ramp-up")
    return [last](std::uint64_t i) { return (1 + 18 * static_cast<double>(i) / last) / 10; };
  if (name == "ramp-down")
    return [last](std::uint64_t i) { return (19 - 18 * static_cast<double>(i) / last) / 10; };
  if (name == "mandelbrot")
    return [times = mandelbrot(items)](std::uint64_t i) { return static_cast<double>(times[i]); };
  std::string all;
  for (const std::string_view known : distribution_names()) all.append(" ").append(known);
  throw std::invalid_argument("there is no distribution '" + name + "'; there are:" + all + " trace:FILE");
}

ItemWork sum_up(std::uint64_t items, const std::function<double(std::uint64_t)>& ns_of) {
  ItemWork work;
  work.sums.resize(items + 1);
  double total = 0;
  for (std::uint64_t i = 0; i < items; ++i) {
    const double ns = std::max(1.0, std::round(ns_of(i)));
    total += ns;
    if (total > 9e18) throw std::invalid_argument("the items together take more than 292 years");
    work.sums[i + 1] = work.sums[i] + static_cast<std::int64_t>(ns);
  }
  return work;
}

}  // namespace

std::int64_t ItemWork::longest_ns() const {
  std::int64_t longest = 0;
  for (std::uint64_t i = 0; i < items(); ++i) longest = std::max(longest, ns(i));
  return longest;
}

const std::vector<std::string_view>& distribution_names() {
  static const std::vector<std::string_view> names{"constant",  "uniform",   "gaussian", "exponential",
                                                   "gamma",     "bimodal",   "pareto",   "ramp-up",
                                                   "ramp-down", "mandelbrot"};
  return names;
}

ItemWork make_work(const std::string& distribution, std::uint64_t items, double mean_us, std::uint64_t seed) {
  if (distribution.starts_with("trace:")) {
    const std::string file = distribution.substr(6);
    std::vector<double> times = read_numbers(file, 0, kMostTraceUs);
    if (items > times.size())
      throw std::invalid_argument(file + " holds " + std::to_string(times.size()) + " items, not " +
                                  std::to_string(items));
    if (items > 0) times.resize(items);
    ItemWork work = sum_up(times.size(), [&](std::uint64_t i) { return times[i] * 1000; });
    work.exact_us = std::move(times);
    return work;
  }
  Random random(seed);
  const Draw draw = drawing(distribution, items, random);
  return sum_up(items, [&](std::uint64_t i) { return draw(i) * mean_us * 1000; });
}

std::vector<double> read_numbers(const std::string& file, double least, double most) {
  std::ifstream in(file);
  if (!in) throw std::invalid_argument("cannot read " + file);
  std::vector<double> numbers;
  std::string line;
  for (std::uint64_t at = 1; std::getline(in, line); ++at) {
    const auto first = line.find_first_not_of(" \t\r");
    if (first == std::string::npos) continue;
    const auto last = line.find_last_not_of(" \t\r");
    double value = 0;
    const char* end = line.data() + last + 1;
    const auto [stop, error] = std::from_chars(line.data() + first, end, value);
    if (error != std::errc() || stop != end || !(value >= least && value <= most)) {
      char bounds[64];
      std::snprintf(bounds, sizeof bounds, "%g to %g", least, most);
      throw std::invalid_argument(file + ", line " + std::to_string(at) + ": '" + line +
                                  "' is not a number from " + bounds);
    }
    numbers.push_back(value);
  }
  if (numbers.empty()) throw std::invalid_argument(file + " holds no numbers");
  return numbers;
}

}  // namespace betterbox::sim
