#include "scheduler/policy.h"

#include <algorithm>
#include <cmath>

namespace betterbox::scheduler {
namespace {

double work_per_slot_ns(const WorkerLoad& worker) {
  return static_cast<double>(worker.outstanding) * worker.mean_item_ns / static_cast<double>(worker.slots);
}

bool guided_is_hungry(const WorkerLoad& worker) {
  if (worker.outstanding < worker.slots) return true;
  return worker.mean_item_ns > 0 && work_per_slot_ns(worker) < static_cast<double>(kEnoughWork.ns);
}

std::uint64_t guided_items_to_grant(const Work& work, const WorkerLoad& worker) {
  const std::uint64_t per_slot =
      std::max<std::uint64_t>(1, work.remaining / (2 * std::max<std::uint64_t>(1, work.total_slots)));
  const std::uint64_t share = per_slot * worker.slots;
  if (worker.mean_item_ns <= 0) return share;
  // Short items: fewer would leave the worker hungry, and the next grant would follow at once.
  const double lacking_ns = static_cast<double>(kEnoughWork.ns) - work_per_slot_ns(worker);
  const double fill = std::ceil(lacking_ns * static_cast<double>(worker.slots) / worker.mean_item_ns);
  if (fill <= 0) return share;
  if (fill >= static_cast<double>(work.remaining)) return std::max(share, work.remaining);
  return std::max(share, static_cast<std::uint64_t>(fill));
}

constexpr Policy kGuided{"guided", guided_is_hungry, guided_items_to_grant};

}  // namespace

const Policy& guided_policy() { return kGuided; }

const Policy* find_policy(std::string_view name) { return name == kGuided.name ? &kGuided : nullptr; }

}  // namespace betterbox::scheduler
