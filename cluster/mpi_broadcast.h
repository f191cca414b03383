// Broadcasts over MPI (docs/protocol.md, section "MPI carrier"): one value from one rank to those that were told the same
// sequence number, down a tree of nonblocking messages. Each is cut into pieces, and only a few are under way at a time,
// so that other messages pass. A rank that is not there holds up nobody but itself and what is below it.
//
//  - A rank that enters says `ready` to the one above it, which sends to none that did not. All receives are posted before.
//  - An empty piece means: no more will come. A rank that gives up says `leave`; the one above always answers with
//    an empty piece, and what comes before it is thrown away. So MPI keeps no message that nobody receives.
//  - Who hears nothing for kBroadcastPatience gives up: a value that did not come is fetched instead.
//
// All functions are called with the node's mutex. Nothing here blocks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "cluster/mpi_shim.h"
#include "runtime/time.h"
#include "runtime/transport.h"

namespace betterbox {

inline constexpr std::size_t kBroadcastPiece = 1U << 20;
/// Pieces under way to each rank.
inline constexpr std::size_t kBroadcastWindow = 8;
inline constexpr Duration kBroadcastPatience = seconds(5);
/// Ranks of other nodes to which one rank sends; to those of its own node their first one does.
inline constexpr std::size_t kBroadcastFanOut = 2;

/// Where a rank is in the tree of a broadcast.
struct BroadcastPlace {
  int above = -1;  ///< -1: it is the first, or no member
  std::vector<int> below;
};
/// `members`: ranks, the first has the value. `node_of`: the node of each rank. The same for all who compute it. Where a
/// member is no rank of the job, nobody has a place.
BroadcastPlace place_in_broadcast(const std::vector<std::uint32_t>& members, const std::vector<int>& node_of,
                                  int self);

class MpiBroadcasts {
 public:
  enum class Word : std::uint32_t { kReady = 1, kLeave = 2 };
  struct Job {
    const BetterboxMpi* mpi = nullptr;
    BetterboxMpiComm comm{};
    int rank = 0;
    std::vector<int> node_of;
    std::function<void(int to, Word, std::uint64_t sequence)> tell;
    std::function<void(int rank)> wake;  ///< its progress thread
    Duration patience = kBroadcastPatience;
  };
  /// The end of this rank's part, for the owner that entered it.
  using Over = std::function<void(std::uint64_t sequence, bool ok)>;

  explicit MpiBroadcasts(Job job) : job_(std::move(job)) {}
  MpiBroadcasts(const MpiBroadcasts&) = delete;
  MpiBroadcasts& operator=(const MpiBroadcasts&) = delete;

  /// `over` is called once, not before this has returned, for who receives; never for who has the value, or has nothing to
  /// receive into. What cannot come (no place in the tree, a number that was used) is over at the next progress().
  void enter(BroadcastPart part, Over over);
  /// The value is not wanted any more: `over` is not called.
  void leave(std::uint64_t sequence);
  void heard(int from, Word word, std::uint64_t sequence);
  /// Nothing is waited for any more.
  void give_up_all();
  /// Result: true if anything moved.
  bool progress();
  bool quiet() const { return parts_.empty() && loose_.empty() && hopeless_.empty(); }

 private:
  struct Below {
    int rank = 0;
    bool ready = false;
    bool over = false;  ///< it has all, or will get no more
    std::size_t sent = 0;
    std::deque<BetterboxMpiRequest> sending;
  };
  struct Part {
    BroadcastPart told;
    Over over;
    int above = -1;
    std::vector<Below> below;
    std::size_t pieces = 0, have = 0, posted = 0;
    std::deque<BetterboxMpiRequest> receiving;
    bool failed = false;
    bool draining = false;  ///< until the empty piece
    TimePoint patience;
  };
  using PartAt = std::map<std::uint64_t, Part>::iterator;

  int tag(std::uint64_t sequence) const;
  std::size_t piece_size(const Part& part, std::size_t piece) const;
  void post_receives(Part& part);
  bool receive(Part& part);
  bool drain(Part& part);
  bool send(Part& part, Below& below);
  void send_end(Part& part, Below& below);
  void heard_early(int from, Word word, std::uint64_t sequence);
  void refuse(int rank, std::uint64_t sequence);
  void give_up(Part& part);
  void finish(Part& part, bool ok);
  bool is_over(const Part& part) const;

  const Job job_;
  std::map<std::uint64_t, Part> parts_;
  std::set<std::uint64_t> ended_;                                     ///< the last ones
  std::map<std::uint64_t, std::vector<std::pair<int, Word>>> early_;  ///< heard before this rank entered
  std::vector<BetterboxMpiRequest> loose_;                            ///< empty pieces on their way
  std::vector<std::pair<std::uint64_t, Over>> hopeless_;              ///< their owners are not told yet
};

}  // namespace betterbox
