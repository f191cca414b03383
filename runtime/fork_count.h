// How often this process was forked off another one since it began: who compares it with an earlier value knows that he is in
// a child, to which connections, threads and rings of its parent do not belong. A look costs one load.
#pragma once

#include <atomic>

namespace betterbox {

extern std::atomic<unsigned> forks_seen;

inline unsigned fork_count() { return forks_seen.load(std::memory_order_relaxed); }

}  // namespace betterbox
