// BB_CHECK: a broken invariant ends the process, also in release builds.
// Never used for input from a peer or a user: that is a value (a refusal, an error message).
#pragma once

#include <cstdio>
#include <cstdlib>

#define BB_CHECK(condition)                                                                              \
  do {                                                                                                   \
    if (!(condition)) [[unlikely]] {                                                                     \
      std::fprintf(stderr, "betterbox: invariant broken: %s (%s:%d)\n", #condition, __FILE__, __LINE__); \
      std::abort();                                                                                      \
    }                                                                                                    \
  } while (false)
