// SlotReader: what a slot says, from its outbox and its strip, as events. Outcomes that follow each other share a page.
//
// Guarantees: nothing that a slot writes harms the agent. What no slot that works could have written is nonsense: nothing
// more is read of it, and the owner gives the slot up.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/page.h"
#include "runtime/shm.h"
#include "worker/events.h"
#include "worker/slot_protocol.h"
#include "worker/slot_words.h"

namespace betterbox {

class SlotReader {
 public:
  SlotReader(SlotArena& arena, SlotWords& words, SeatId seat, std::uint32_t life)
      : seat_(seat),
        life_(life),
        words_(words),
        outbox_(arena.header().outbox, arena.outbox_data()),
        strip_(arena.header().strip) {}

  /// Outcomes of this part come next from this station.
  void expect(std::uint32_t station, std::uint32_t generation, bool fold);
  void expect_stop() { stop_asked_ = true; }
  /// A call whose reply is to come; it is owed until then, or until it is cancelled, if it runs between items.
  void expect_reply(std::uint64_t token, bool is_owed);
  void cancelled(std::uint64_t token) { std::erase(owed_, token); }
  bool owes_reply() const { return !owed_.empty(); }

  /// Reads at most `limit` records, and what short outcomes there are. Result: the outcomes among them.
  std::uint32_t drain(std::vector<Event>& events, std::uint32_t limit);
  bool has_more() const { return sane_ && (outbox_.has_bytes() || strip_.has_more()); }
  /// False: what was read, or the shared words, make no sense.
  bool sane() const { return sane_ && outbox_.possible() && strip_.possible(); }
  /// It has said its last word.
  bool ended() const { return ended_; }

 private:
  /// So many short outcomes make a column; fewer are gathered with their neighbours, item by item.
  static constexpr std::uint32_t kShortestColumn = 32;

  /// Outcomes of one station that follow each other.
  struct Gather {
    std::uint32_t generation = 0;
    bool fold = false;
    std::uint32_t first = 0, count = 0;
    std::int64_t busy_ns = 0, longest_ns = 0;
    double busy_squares = 0;
    PageBuilder page;
    void begin(std::uint32_t at);
    void add_time(std::int64_t busy, double squares, std::int64_t longest);
  };

  bool take_record(Record& record, std::vector<Event>& events);
  bool take_reply(std::string_view rest, Record& record, std::vector<Event>& events);
  bool take_ready(std::string_view rest, std::vector<Event>& events);
  bool take_lease_done(std::string_view rest, std::vector<Event>& events);
  bool take_outcome(std::string_view rest, std::vector<Event>& events);
  void drain_strip(std::vector<Event>& events);
  void take_part(const StripPart& part, std::vector<Event>& events);
  void finish_page(std::uint32_t station, std::vector<Event>& events);

  const SeatId seat_;
  const std::uint32_t life_;
  SlotWords& words_;
  RingReader outbox_;
  StripReader strip_;
  Gather gathers_[kStations];
  std::vector<std::uint64_t> owed_;  // tokens of calls
  std::uint64_t last_token_ = 0;     // the highest that it was given
  Record record_;
  std::string item_;
  std::uint32_t outcomes_ = 0;
  bool sane_ = true;
  bool ready_ = false, stop_asked_ = false, ended_ = false;
};

}  // namespace betterbox
