#include "simulator/cluster.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "simulator/random.h"
#include "simulator/reference.h"

namespace betterbox::sim {
namespace {

/// Drawn log-uniformly from 1 to `spread`; of two or more one is the slowest and one the fastest.
std::vector<double> draw_speeds(std::uint32_t workers, double spread, std::uint64_t seed) {
  Random random(seed ^ 0x5BEED5ULL);
  std::vector<double> speeds(workers);
  for (double& speed : speeds) speed = std::pow(spread, random.unit());
  if (workers < 2) return speeds;
  const std::uint64_t slowest = random.below(workers);
  std::uint64_t fastest = random.below(workers - 1);
  if (fastest >= slowest) ++fastest;
  speeds[slowest] = 1;
  speeds[fastest] = spread;
  return speeds;
}

}  // namespace

double Speed::changing_end_of(double start, double work) const {
  double slowness = slowness_;
  double at = start;
  for (const Change& change : changes_) {
    if (change.at_ns > at) {
      const double possible = (change.at_ns - at) / slowness;
      if (possible >= work) return at + work * slowness;
      work -= possible;
      at = change.at_ns;
    }
    slowness = slowness_ * change.times;
  }
  return at + work * slowness;
}

double Speed::work_between(double start, double until) const {
  double done = 0, slowness = slowness_, at = start;
  for (const Change& change : changes_) {
    if (change.at_ns >= until) break;
    if (change.at_ns > at) {
      done += (change.at_ns - at) / slowness;
      at = change.at_ns;
    }
    slowness = slowness_ * change.times;
  }
  return done + std::max(0.0, until - at) / slowness;
}

double Speed::fastest() const {
  double best = changes_.empty() || changes_.front().at_ns > 0 ? 1 : changes_.front().times;
  for (const Change& change : changes_) best = std::min(best, change.times);
  return factor_ / best;
}

Case make_case(const Options& options, std::uint64_t seed) {
  Case made;
  made.seed = seed;
  made.slots = options.slots;
  made.work =
      make_work(options.distribution,
                options.distribution.starts_with("trace:") && !options.items_given ? 0 : options.items,
                options.mean_us, seed);

  std::uint32_t workers = options.workers;
  for (const Join& join : options.joins) workers += join.count;
  std::vector<double> speeds;
  if (options.speeds_file.empty()) {
    speeds = draw_speeds(workers, options.speed_spread, seed);
  } else {
    speeds = read_numbers(options.speeds_file, 1 / kMostSpeed, kMostSpeed);
    if (speeds.size() != workers) {
      throw std::invalid_argument(options.speeds_file + " holds " + std::to_string(speeds.size()) +
                                  " speeds for " + std::to_string(workers) + " workers");
    }
  }
  for (const double speed : speeds) made.machines.push_back({Speed(speed)});

  // Times that are shares of the ideal makespan mean that of the undisturbed case.
  Case undisturbed;
  undisturbed.slots = made.slots;
  undisturbed.machines.assign(made.machines.begin(), made.machines.begin() + options.workers);
  const double ideal = undisturbed.machines.empty() ? 0 : ideal_ns(made.work, undisturbed);
  std::size_t at = options.workers;
  for (const Join& join : options.joins) {
    for (std::uint32_t i = 0; i < join.count; ++i) made.machines[at++].joins_ns = join.at.ns(ideal);
  }
  for (const Leave& leave : options.leaves) {
    Machine& machine = made.machines[leave.worker];
    machine.leaves_ns = std::min(machine.leaves_ns, leave.at.ns(ideal));
  }
  std::vector<Slowdown> slowdowns = options.slowdowns;
  std::stable_sort(slowdowns.begin(), slowdowns.end(),
                   [&](const Slowdown& a, const Slowdown& b) { return a.at.ns(ideal) < b.at.ns(ideal); });
  for (const Slowdown& slowdown : slowdowns) {
    made.machines[slowdown.worker].speed.slow_down(static_cast<double>(slowdown.at.ns(ideal)),
                                                   slowdown.times);
  }
  return made;
}

}  // namespace betterbox::sim
