#include "worker/loop_watch.h"

#include <gtest/gtest.h>

#include <future>

namespace betterbox {
namespace {

TEST(LoopWatch, FindsALoopThatIsAwakeForTooLong) {
  std::promise<void> found;
  LoopWatch watch(milliseconds(20), [&, once = false]() mutable {
    if (!std::exchange(once, true)) found.set_value();
  });
  watch.wakes();
  EXPECT_EQ(found.get_future().wait_for(std::chrono::seconds(30)), std::future_status::ready);
}

TEST(LoopWatch, LeavesALoopAloneThatSleepsOrTurns) {
  bool stuck = false;
  {
    LoopWatch watch(seconds(2), [&] { stuck = true; });
    for (int turn = 0; turn < 1000; ++turn) {
      watch.wakes();
      watch.sleeps();
    }
  }
  EXPECT_FALSE(stuck);
}

}  // namespace
}  // namespace betterbox
