// The splittable word: every interleaving of small cases, with claim and cut taken apart into the
// loads and compare-and-swaps that they are made of, and a stress of the real thing.
#include "runtime/range_word.h"

#include <gtest/gtest.h>

#include <set>
#include <thread>
#include <tuple>
#include <vector>

namespace betterbox {
namespace {

// --- the model: one shared word, a slot that claims until empty, a worker that makes some cuts --------

struct State {
  Position word;
  // Slot: `loaded` holds what its load or failed swap saw.
  bool slot_loaded = false, slot_done = false;
  Position slot_saw;
  // Worker: cuts still to make; the current one.
  std::size_t cut = 0;
  bool worker_loaded = false;
  Position worker_saw;
  // What came out: per item 0 untouched, 1 claimed, 2 cut.
  std::vector<int> fate;

  auto key() const {
    return std::tuple(word.next, word.end, slot_loaded, slot_done, slot_saw.next, slot_saw.end, cut,
                      worker_loaded, worker_saw.next, worker_saw.end, fate);
  }
};

class Model {
 public:
  Model(std::uint32_t items, std::vector<std::uint32_t> cuts) : cuts_(std::move(cuts)) {
    State start;
    start.word = {0, items};
    start.fate.assign(items, 0);
    explore(start);
  }
  std::size_t states() const { return seen_.size(); }
  std::size_t ends() const { return ends_; }

 private:
  void mark(State& s, std::uint32_t begin, std::uint32_t end, int fate) {
    for (std::uint32_t i = begin; i < end; ++i) {
      ASSERT_EQ(s.fate[i], 0) << "item " << i << " is both claimed and cut";
      s.fate[i] = fate;
    }
  }

  void slot_step(State s) {
    if (!s.slot_loaded) {
      s.slot_saw = s.word;
      s.slot_loaded = true;
    } else if (s.slot_saw.next >= s.slot_saw.end) {
      s.slot_done = true;
    } else if (s.word == s.slot_saw) {
      s.word.next = s.slot_saw.next + 1;
      mark(s, s.slot_saw.next, s.slot_saw.next + 1, 1);
      s.slot_loaded = false;
    } else {
      s.slot_saw = s.word;
    }
    explore(s);
  }

  void worker_step(State s) {
    if (!s.worker_loaded) {
      s.worker_saw = s.word;
      s.worker_loaded = true;
      explore(s);
      return;
    }
    const std::uint32_t taken = std::min(s.worker_saw.remaining(), cuts_[s.cut]);
    if (taken == 0) {
      ++s.cut;
      s.worker_loaded = false;
    } else if (s.word == s.worker_saw) {
      s.word.end = s.worker_saw.end - taken;
      mark(s, s.word.end, s.worker_saw.end, 2);
      ++s.cut;
      s.worker_loaded = false;
    } else {
      s.worker_saw = s.word;
    }
    explore(s);
  }

  void explore(const State& s) {
    if (::testing::Test::HasFatalFailure() || !seen_.insert(s.key()).second) return;
    ASSERT_LE(s.word.end, s.fate.size());
    if (!s.slot_done) slot_step(s);
    if (s.cut < cuts_.size()) worker_step(s);
    if (s.slot_done && s.cut == cuts_.size()) {
      ++ends_;
      for (std::size_t i = 0; i < s.fate.size(); ++i) ASSERT_NE(s.fate[i], 0) << "item " << i << " is lost";
      ASSERT_TRUE(std::is_sorted(s.fate.begin(), s.fate.end())) << "claims are the front, cuts the tail";
    }
  }

  std::vector<std::uint32_t> cuts_;
  std::set<decltype(State{}.key())> seen_;
  std::size_t ends_ = 0;
};

TEST(RangeWordModel, EveryInterleavingGivesEachItemToExactlyOneSide) {
  std::size_t states = 0;
  for (std::uint32_t items = 0; items <= 6; ++items) {
    for (std::uint32_t a = 0; a <= items + 1; ++a) {
      for (std::uint32_t b = 0; b <= items + 1; ++b) {
        for (std::uint32_t c = 0; c <= 2; ++c) {
          Model model(items, {a, b, c});
          ASSERT_FALSE(HasFatalFailure()) << items << " items, cuts " << a << " " << b << " " << c;
          ASSERT_GT(model.ends(), 0u);
          states += model.states();
        }
      }
    }
  }
  EXPECT_GT(states, 10'000u);
}

// --- the real word --------------------------------------------------------------------------------------

TEST(RangeWord, ClaimsFromTheFrontAndCutsFromTheTail) {
  RangeWord word;
  word.install(5);
  EXPECT_EQ(word.claim(), 0u);
  EXPECT_EQ(word.cut(2), (Position{3, 5}));
  EXPECT_EQ(word.claim(), 1u);
  EXPECT_EQ(word.position(), (Position{2, 3}));
  EXPECT_EQ(word.cut(9), (Position{2, 3}));
  EXPECT_EQ(word.claim(), std::nullopt);
  EXPECT_EQ(word.cut(1).remaining(), 0u);
}

TEST(RangeWord, HoldsTheLargestLease) {
  RangeWord word;
  word.install(std::uint32_t{1} << 30);
  EXPECT_EQ(word.cut(1), (Position{(1u << 30) - 1, 1u << 30}));
  EXPECT_EQ(word.claim(), 0u);
}

TEST(RangeWord, GivesEachItemOnceWhileASlotAndAWorkerRace) {
  constexpr std::uint32_t kItems = 2'000;
  for (int round = 0; round < 50; ++round) {
    RangeWord word;
    word.install(kItems);
    std::vector<int> claimed(kItems, 0), cut(kItems, 0);
    std::thread slot([&] {
      while (auto item = word.claim()) ++claimed[*item];
    });
    for (std::uint32_t step = 1; step <= 40; ++step) {
      const Position part = word.cut(step);
      for (std::uint32_t i = part.next; i < part.end; ++i) ++cut[i];
      if (step % 8 == 0) std::this_thread::yield();
    }
    slot.join();
    for (std::uint32_t i = 0; i < kItems; ++i) ASSERT_EQ(claimed[i] + cut[i], 1) << i;
  }
}

}  // namespace
}  // namespace betterbox
