#include "runtime/policy.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace betterbox {
namespace {

/// A lease as short as this is not worth cutting smaller, however near its taker is.
constexpr Duration kShortLease = microseconds(500);
constexpr double kTrust = 16;
constexpr double kFactor = 0.5;  ///< of a taker's share of what remains, in one lease

std::uint64_t divide_up(std::uint64_t a, std::uint64_t b) { return (a + b - 1) / b; }

std::uint64_t to_items(double items) {
  constexpr double kMost = 1e18;
  return items <= 0 ? 0 : static_cast<std::uint64_t>(std::min(items, kMost));
}

std::uint64_t free_slots(const Taker& taker) {
  return taker.outstanding < taker.slots ? taker.slots - taker.outstanding : 0;
}

// --- auto ------------------------------------------------------------------------------------------

double items_per_ns(const Work& work, const Taker& taker) {
  const double mean = taker.times.mean_among(work.mean_ns);
  return mean > 0 ? static_cast<double>(taker.slots) / mean : 0;
}

/// How many items may be given for being short: a few times as many as were seen to be.
double trusted(const Taker& taker) { return kTrust * std::max<double>(1, taker.times.weight()); }

/// How soon an item may be over, for what must be there in time. Where items are shorter elsewhere, either this taker is
/// slow or its items were long, and the next ones may be short: halfway between, as ratios go.
double soonest_ns(const Taker& taker, double mean_ns) {
  const double here = taker.times.soonest();
  return mean_ns > 0 && mean_ns < here ? std::sqrt(here * mean_ns) : here;
}

std::uint64_t auto_low_water(const Taker& taker, Duration round_trip) {
  if (!taker.times.known()) return taker.slots - 1;
  const double ahead = static_cast<double>(round_trip.ns) * static_cast<double>(taker.slots) /
                       soonest_ns(taker, taker.mean_ns);
  return std::max(taker.slots, to_items(std::ceil(std::min(ahead, trusted(taker)))));
}

/// A lease that is run in half a round trip, or very soon, is not worth being cut smaller.
double items_worth_a_message(const Work& work, const Taker& taker, double rate) {
  const double ns = static_cast<double>(std::max(kShortLease.ns, work.round_trip.ns / 2));
  const double soonest = soonest_ns(taker, work.mean_ns);
  return ns * (soonest > 0 ? std::max(rate, static_cast<double>(taker.slots) / soonest) : rate);
}

/// Nothing is known: one item for each free slot, so that all of them tell how long items take.
std::uint64_t probe(const Taker& taker) { return std::max<std::uint64_t>(1, free_slots(taker)); }

/// A slow taker that would end later than the others, without it, had better leave the last items to them. If they do
/// not come for them in the time foreseen, it takes them after all.
bool better_left_to_others(const Work& work, const Taker& taker) {
  if (!taker.times.known()) return false;
  const Duration others = time_without(work, taker);
  return taker.times.mean_among(work.mean_ns) > static_cast<double>(others.ns) && work.since_given < others;
}

std::uint64_t auto_items(const Work& work, const Taker& taker, PolicyMemory&) {
  if (work.takers <= 1) return work.remaining;  // nobody to balance with: it divides them itself
  const double rate = items_per_ns(work, taker);
  if (rate <= 0) return probe(taker);
  const double all = std::max(work.items_per_ns, rate);
  const double share = static_cast<double>(work.remaining) * rate / all;
  const std::uint64_t free = free_slots(taker);
  const double worth_a_message = std::min(trusted(taker), items_worth_a_message(work, taker, rate));
  if (work.remaining <= work.total_slots) {
    // The tail: nothing ahead of time but what is not worth a message, and the rest among those that are idle.
    const double of_idle = static_cast<double>(work.remaining) * static_cast<double>(free) /
                           static_cast<double>(std::max<std::uint64_t>({1, free, work.idle_slots}));
    const double tail = std::max(of_idle, worth_a_message - static_cast<double>(taker.outstanding));
    if (free == 0) return to_items(tail);
    return better_left_to_others(work, taker) ? 0 : std::max<std::uint64_t>(1, to_items(tail));
  }
  const double least =
      std::max(worth_a_message, std::min(share, static_cast<double>(work.least_lease.ns) * rate));
  const double cautious = taker.times.known() ? kFactor : kFactor / 2;
  return std::max<std::uint64_t>({1, free, to_items(std::max(share * cautious, least))});
}

// --- policies of the literature, for comparison ------------------------------------------------------
// P processors are the slots of all takers; a worker with several slots asks for as many chunks.

std::uint64_t when_idle(const Taker& taker, Duration) { return taker.slots - 1; }

/// Static: N / P each.
std::uint64_t static_items(const Work& work, const Taker& taker, PolicyMemory&) {
  const double slots = static_cast<double>(taker.slots) / static_cast<double>(work.total_slots);
  return to_items(std::ceil(static_cast<double>(work.total) * slots));
}

/// Self-scheduling: one item at a time.
std::uint64_t ss_items(const Work&, const Taker& taker, PolicyMemory&) {
  return std::max<std::uint64_t>(1, free_slots(taker));
}

/// Guided self-scheduling: R / P. C. Polychronopoulos, D. Kuck, IEEE Trans. Computers C-36(12), 1987.
std::uint64_t gss_items(const Work& work, const Taker& taker, PolicyMemory&) {
  return divide_up(work.remaining, work.total_slots) * taker.slots;
}

/// Trapezoid self-scheduling: chunks fall linearly from f = N / 2P to l = 1 in n = 2N / (f + l) steps, by
/// (f - l) / (n - 1) each. T. Tzen, L. Ni, IEEE Trans. Parallel and Distributed Systems 4(1), 1993.
std::uint64_t tss_items(const Work& work, const Taker& taker, PolicyMemory& memory) {
  const double total = static_cast<double>(work.total);
  const double first = std::max(1.0, total / (2.0 * static_cast<double>(work.total_slots)));
  const double steps = std::ceil(2 * total / (first + 1));
  const double fall = steps > 1 ? (first - 1) / (steps - 1) : 0;
  double items = 0;
  for (std::uint64_t i = 0; i < taker.slots; ++i)
    items += std::max(1.0, std::floor(first - fall * static_cast<double>(memory.chunks++)));
  return to_items(items);
}

/// A new batch of P chunks of R / 2P each, when the last one is given out.
void begin_batch(const Work& work, const Taker& taker, PolicyMemory& memory) {
  if (memory.batch_left == 0) {
    memory.batch = std::max<std::uint64_t>(1, divide_up(work.remaining, 2 * work.total_slots));
    memory.batch_left = work.total_slots;
  }
  memory.batch_left -= std::min(memory.batch_left, taker.slots);
}

/// Factoring, x = 2. S. Hummel, E. Schonberg, L. Flynn, Communications of the ACM 35(8), 1992.
std::uint64_t fac2_items(const Work& work, const Taker& taker, PolicyMemory& memory) {
  begin_batch(work, taker, memory);
  return memory.batch * taker.slots;
}

/// Adaptive weighted factoring: a chunk of factoring times the taker's measured rate over the mean rate.
/// I. Banicescu, V. Velusamy, J. Devaprasad, Cluster Computing 6(3), 2003.
std::uint64_t awf_items(const Work& work, const Taker& taker, PolicyMemory& memory) {
  begin_batch(work, taker, memory);
  const double mean_rate = work.items_per_ns / static_cast<double>(work.total_slots);
  const double weight = mean_rate > 0 && taker.times.known() ? 1 / (taker.times.mean() * mean_rate) : 1;
  return std::max<std::uint64_t>(
      1, to_items(std::ceil(weight * static_cast<double>(memory.batch * taker.slots))));
}

/// Adaptive factoring: (D + 2TR - sqrt(D^2 + 4DTR)) / 2m, with m and s^2 mean and variance of this taker's item
/// times, D the sum of s^2 / m and T the inverse of the sum of 1 / m over all slots. Factoring while a taker has
/// no times. I. Banicescu, Z. Liu, Proc. High Performance Computing Symposium, 2000.
std::uint64_t af_items(const Work& work, const Taker& taker, PolicyMemory& memory) {
  if (!taker.times.known() || work.items_per_ns <= 0) return fac2_items(work, taker, memory);
  const double d = work.scatter;
  const double tr = static_cast<double>(work.remaining) / work.items_per_ns;
  const double chunk = (d + 2 * tr - std::sqrt(d * d + 4 * d * tr)) / (2 * taker.times.mean());
  return std::max<std::uint64_t>(1, to_items(chunk)) * taker.slots;
}

constexpr std::array kPolicies = {
    Policy{"auto", true, auto_low_water, auto_items}, Policy{"static", false, when_idle, static_items},
    Policy{"ss", false, when_idle, ss_items},         Policy{"gss", false, when_idle, gss_items},
    Policy{"tss", false, when_idle, tss_items},       Policy{"fac2", false, when_idle, fac2_items},
    Policy{"awf", false, when_idle, awf_items},       Policy{"af", false, when_idle, af_items},
};

}  // namespace

void ItemTimes::add(std::uint64_t items, double busy_ns, double squares) {
  if (items == 0) return;
  const double fresh = static_cast<double>(items);
  if (weight_ + fresh > kMemory) {
    const double keep = weight_ > 0 ? std::max(0.0, kMemory - fresh) / weight_ : 0;
    weight_ *= keep, sum_ *= keep, squares_ *= keep;
  }
  const double each = std::max(busy_ns, fresh) / fresh;
  recent_ = weight_ > 0 ? recent_ + (each - recent_) * std::min(1.0, fresh / kRecent) : each;
  weight_ += fresh;
  sum_ += std::max(busy_ns, fresh);  // no item takes less than a nanosecond
  squares_ += squares;
}

double ItemTimes::mean_among(double others) const {
  if (others <= 0) return mean();
  return (sum_ + kPrior * others) / (weight_ + kPrior);
}

double ItemTimes::variance() const {
  if (weight_ <= 0) return 0;
  return std::max(0.0, squares_ / weight_ - mean() * mean());
}

Duration time_without(const Work& work, const Taker& taker) {
  const double slots = static_cast<double>(work.total_slots - std::min(work.total_slots, taker.slots));
  const double rate = work.items_per_ns - items_per_ns(work, taker);
  const double busy = 1 - static_cast<double>(work.idle_slots) / static_cast<double>(work.total_slots);
  if (work.outstanding <= taker.outstanding || slots <= 0 || rate <= 0 || busy <= 0) return {0};
  const double ns = static_cast<double>(work.remaining) / (rate * busy) + slots / rate;
  return {static_cast<std::int64_t>(std::min(1e17, ns))};
}

const Policy& auto_policy() { return kPolicies.front(); }

std::span<const Policy> policies() { return kPolicies; }

const Policy* find_policy(std::string_view name) {
  if (name.empty()) return &auto_policy();
  const auto at =
      std::find_if(kPolicies.begin(), kPolicies.end(), [&](const Policy& p) { return p.name == name; });
  return at == kPolicies.end() ? nullptr : &*at;
}

}  // namespace betterbox
