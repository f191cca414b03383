// What a client knows of its calls and submissions. Guarded by its mutex; users go through Client (runtime/client.h).
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "runtime/outcome.h"
#include "runtime/ids.h"
#include "runtime/limits.h"
#include "runtime/messages.h"
#include "runtime/page.h"
#include "runtime/range.h"
#include "runtime/time.h"

namespace betterbox {

/// One call and its outcomes. All fields are guarded by the client's mutex; users go through Client.
struct CallState {
  enum class Kind { kDirect, kScheduled };

  // Constant after the call was made.
  Kind kind = Kind::kScheduled;
  std::uint64_t token = 0;   ///< unique in this process, and so is the next number: its landing token
  std::uint64_t serial = 0;  ///< on the wire
  Port port;
  std::string method;
  bool fold = false;
  bool windowed = false;  ///< a generator call
  bool costed = false;    ///< its items have expected costs (known from the first on)

  // What goes out.
  Call opening;  ///< to send again
  Frame context;
  struct SentPage {
    Frame frame;
    std::uint64_t count = 0;
    std::uint64_t unsettled = 0;
    std::vector<float> costs;
    std::uint64_t shared = 0;  ///< bytes in shared memory that the frame keeps
    std::size_t bytes() const { return frame.size() + costs.size() * sizeof(float); }
  };
  std::map<std::uint64_t, SentPage> pages;  ///< by first item: not settled yet, sent or not
  std::uint64_t sent = 0;                   ///< items [0, sent) have left
  std::uint64_t known = 0;                  ///< items fed so far
  bool closed = false;                      ///< no more will be fed
  bool close_sent = false;
  std::size_t unsent_bytes = 0;
  std::uint64_t shared_bytes = 0;  ///< of all pages

  // What came back.
  struct ResultPage {
    Frame frame;
    PageView view;
    std::uint64_t count = 0;  ///< items covered; view.count() is 1 where one item stands for many
    std::uint64_t taken = 0;
    bool is_column() const { return view.kind() == PageKind::kColumn; }
    bool is_taken() const { return taken == count; }
  };
  std::map<std::uint64_t, ResultPage> results;  ///< by first item
  RangeSet settled;
  std::vector<Range> landed;       ///< in order of arrival
  std::size_t success_cursor = 0;  ///< for first_success
  std::optional<std::uint64_t> success;
  std::uint64_t taken = 0;
  std::size_t handed_bytes = 0;  ///< of pages that were taken whole and are kept
  bool handed_gone = false;      ///< not all that was taken is kept
  int free_running = 0;
  CallStats stats;
  bool has_stats = false;

  // How it ends.
  bool cancelled = false;
  bool over = false;  ///< every item has an outcome and no more can come
  bool wants_notify = false;
  bool wants_landing = false;
  std::string failure;                ///< over for a reason that is no item's: the bus is gone
  std::optional<TimePoint> deadline;  ///< direct calls: the scheduler watches the others
  std::vector<BoxId>
      boxes;  ///< of direct calls that slots make: where each item waits its turn; agent 0: it has none

  bool has_outcome(std::uint64_t i) const { return settled.contains(i); }
  std::uint64_t landing_token() const { return token + 1; }
  using PlacedPage = std::pair<const std::uint64_t, ResultPage>;
  /// The page with this item's outcome, by its first item. Null: there is none, or it is gone.
  const PlacedPage* find_page(std::uint64_t i) const;
  /// REQUIRES: find_page(i).
  Outcome outcome(std::uint64_t i) const;
};

using CallPtr = std::shared_ptr<CallState>;

/// Neighbouring submissions of one stream: one allocation for all of them, kept by whoever holds one of them and,
/// until the last is settled, by the stream. Guarded by the client's mutex.
struct SubmissionBlock {
  static constexpr std::uint32_t kPlaces = 128;
  CallPtr stream;                            ///< the growing call (constant)
  std::uint64_t first = 0;                   ///< the item of the stream at place 0 (constant)
  std::uint64_t first_token = 0;             ///< of place 0 (constant)
  std::uint32_t settled = 0;                 ///< of all places
  std::array<Outcome, kPlaces> outcomes{};   ///< without a page: none yet
  std::bitset<kPlaces> cancelled, notified;  ///< notified: somebody wants to hear of the end
  std::bitset<kPlaces> released;             ///< nobody will ask for the outcome
  std::bitset<kPlaces> withdrawn;            ///< to be cancelled if it has not begun
};

/// A single submission.
struct Submission {
  std::shared_ptr<SubmissionBlock> block;
  std::uint32_t place = 0;
  std::uint64_t token() const { return block->first_token + place; }
};

}  // namespace betterbox
