// What a makespan is compared with: the ideal, and greedy self-scheduling at no cost.
#pragma once

#include "simulator/cluster.h"

namespace betterbox::sim {

/// The later of: all work is done by all machines together; the longest item is done by the fastest one.
/// `machines` says who is there when, and how fast.
double ideal_ns(const ItemWork& work, const Case& machines);

/// Whenever a slot is free it takes the next item; ties go to the lowest slot number. Nothing costs anything. An item
/// on a worker that leaves is the next one to be taken.
double greedy_ns(const Case& all);

}  // namespace betterbox::sim
