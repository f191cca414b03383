// The bounds between a worker, its template and its slots, each with its reason; all others: runtime/limits.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "runtime/limits.h"

namespace betterbox {

/// What slots have printed and neither logs nor the terminal of their worker have taken: beyond it slots wait in print.
inline constexpr std::size_t kUnwrittenBytes = 256U << 10;
/// A slot that owes something and sleeps over two looks so far apart will never wake: it is killed. Also how often a worker
/// looks whether the words that it shares with its slots are possible at all.
inline constexpr Duration kSeatLookInterval = seconds(1);

// --- a worker and its template ----------------------------------------------------------------------
/// Forks that the template was asked for and has not told: enough to keep it busy, and so few that a kill, which goes behind
/// them, comes soon. Further ones wait in the worker, at most one for each seat.
inline constexpr std::size_t kForksUnderWay = 64;
/// Forks that are asked for in one packet: 96 descriptors, of the 253 that the kernel takes.
inline constexpr std::size_t kForksPerPacket = 32;
inline constexpr std::size_t kRequestsPerPacket = 128;
inline constexpr std::size_t kReportsPerPacket = 128;
/// Reports that wait in the template for the worker: the births and deaths of twice as many slots as a worker has.
inline constexpr std::size_t kMaxTemplateReports = std::size_t{4} * kMaxSlots;
/// A template that was asked for slots and says nothing for this long is killed, and another one is started.
inline constexpr Duration kTemplatePatience = seconds(30);
/// And one that is not up this long after its start: interpreters on cold network file systems take a minute.
inline constexpr Duration kTemplateStartPatience = seconds(120);
/// Templates in a row that end before they have made a slot: then their worker gives up.
inline constexpr std::uint32_t kMaxFruitlessTemplates = 3;
/// Templates of other interpreters than the worker's own that stay although they have no slot: each takes 20 MB and 50 ms
/// to start.
inline constexpr std::size_t kMaxTemplates = 4;
/// A client's interpreter that could not be started is tried again after this long.
inline constexpr Duration kTemplateRetry = seconds(5);
/// A process whose agent's loop has not turned for this long ends: its heartbeat lives on a thread of its own, so nobody
/// else would notice.
inline constexpr Duration kLoopBound = seconds(20);

}  // namespace betterbox
