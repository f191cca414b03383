// Recovery: the tables of a new incarnation from the records of the one before, and records from the tables.
#pragma once

#include <vector>

#include "scheduler/records.h"
#include "scheduler/state.h"

namespace betterbox::scheduler {

/// Replays all records. Clients are known but away: they have kReconnectGrace to come back.
/// REQUIRES: `turn.state` is new, and the records are those of one journal, in order.
void recover(const Turn& turn, std::vector<Record>&& records);

/// The fewest records that rebuild what is durable now.
std::vector<Record> records_of(const State& state);

}  // namespace betterbox::scheduler
