#include "runtime/fork_count.h"

#include <pthread.h>

namespace betterbox {

std::atomic<unsigned> forks_seen{0};

namespace {
[[maybe_unused]] const int counting =
    ::pthread_atfork(nullptr, nullptr, [] { forks_seen.fetch_add(1, std::memory_order_relaxed); });
}  // namespace

}  // namespace betterbox
