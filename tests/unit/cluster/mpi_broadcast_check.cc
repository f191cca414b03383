// Broadcasts among six ranks that act as six nodes, so that they form the tree 0 - 1, 2; 1 - 3, 4; 2 - 5: what arrives, and
// what does when a rank was not told, has no room, is late, or gives up. mpirun -n 6 mpi_broadcast_check SHIM
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cluster/mpi_broadcast.h"
#include "cluster/mpi_load.h"
#include "cluster/mpi_memory.h"

namespace betterbox {
namespace {

constexpr int kWordTag = 1;
constexpr std::size_t kBytes = (10U << 20) + 123;  ///< more pieces than the window

const BetterboxMpi* mpi = nullptr;

void require(bool right, const std::string& what, int rank) {
  if (right) return;
  std::fprintf(stderr, "rank %d: %s\n", rank, what.c_str());
  mpi->abort(1);
}

struct Word {
  MpiBroadcasts::Word word;
  std::uint64_t sequence;
};

std::byte byte_at(std::uint64_t sequence, std::size_t at) {
  return static_cast<std::byte>(at / 4096 + at / kBroadcastPiece + sequence);
}

class Rank {
 public:
  Rank() {
    rank = mpi->rank(world);
    size = mpi->size(world);
    MpiBroadcasts::Job job;
    job.mpi = mpi;
    job.comm = world;
    job.rank = rank;
    for (int i = 0; i < size; ++i) job.node_of.push_back(i);
    job.tell = [this](int to, MpiBroadcasts::Word word, std::uint64_t sequence) {
      const Word said{word, sequence};  // so small that it does not wait for the other
      BetterboxMpiRequest request = mpi->isend(&said, sizeof said, to, kWordTag, world);
      while (mpi->test(&request) == 0) {}
    };
    job.wake = [](int) {};
    job.patience = seconds(1);
    broadcasts = std::make_unique<MpiBroadcasts>(std::move(job));
  }

  enum class How { kGives, kReceives, kHasIt, kHasNoRoom };
  void enter(std::uint64_t sequence, How how, std::vector<std::uint32_t> members = {0, 1, 2, 3, 4, 5}) {
    BroadcastPart part;
    part.sequence = sequence;
    part.members = std::move(members);
    part.size = kBytes;
    if (how != How::kHasNoRoom) {
      auto data = memory->take(kBytes);
      part.data = data.get();
      part.memory = data;
      part.whole = how != How::kReceives;
      for (std::size_t i = 0; i < kBytes; i += 4096) {
        const int value = part.whole ? std::to_integer<int>(byte_at(sequence, i)) : 0xEE;
        std::memset(part.data + i, value, std::min<std::size_t>(4096, kBytes - i));
      }
      got[sequence] = std::move(data);
    }
    broadcasts->enter(std::move(part), [this](std::uint64_t number, bool ok) { over[number] = ok; });
  }

  void turn() {
    BetterboxMpiFound found{};
    if (mpi->probe(-1, kWordTag, world, &found) != 0) {
      Word said{};
      mpi->take(&found, &said);
      broadcasts->heard(found.source, said.word, said.sequence);
    }
    broadcasts->progress();
  }

  /// All ranks are here and have nothing left to do.
  void meet() {
    std::optional<BetterboxMpiRequest> barrier;
    for (bool here = false; !here;) {
      turn();
      if (!barrier && broadcasts->quiet()) barrier = mpi->ibarrier(world);
      here = barrier && mpi->test(&*barrier) != 0;
    }
  }

  void turn_for(Duration time) {
    for (const TimePoint until = monotonic_now() + time; monotonic_now() < until;) turn();
  }

  /// Nothing: no end was told.
  void expect(std::uint64_t sequence, std::optional<bool> ok, const std::string& what) {
    const auto said = over.find(sequence);
    require((said == over.end()) == !ok, what + ": an end was told, or none", rank);
    if (!ok) return;
    require(said->second == *ok, what + (*ok ? ": it did not come" : ": it came"), rank);
    for (std::size_t i = 0; *ok && i < kBytes; i += 509)
      require(got.at(sequence).get()[i] == byte_at(sequence, i), what + ": other bytes", rank);
  }

  const BetterboxMpiComm world = mpi->world();
  int rank = 0, size = 0;
  std::shared_ptr<MpiMemory> memory = std::make_shared<MpiMemory>();
  std::unique_ptr<MpiBroadcasts> broadcasts;
  std::map<std::uint64_t, std::shared_ptr<std::byte>> got;
  std::map<std::uint64_t, bool> over;
};

using How = Rank::How;

void all_get_it(Rank& own) {
  own.enter(1, own.rank == 0 ? How::kGives : How::kReceives);
  own.meet();
  own.expect(1, own.rank == 0 ? std::nullopt : std::optional(true), "all were told");
}

void one_was_not_told(Rank& own) {
  if (own.rank != 1) own.enter(2, own.rank == 0 ? How::kGives : How::kReceives);
  own.meet();
  const bool below = own.rank == 3 || own.rank == 4;
  own.expect(2, own.rank < 2 ? std::nullopt : std::optional(!below), "rank 1 was not told");
}

void one_has_no_room(Rank& own) {
  own.enter(3, own.rank == 0 ? How::kGives : own.rank == 1 ? How::kHasNoRoom : How::kReceives);
  own.meet();
  const bool below = own.rank == 3 || own.rank == 4;
  own.expect(3, own.rank < 2 ? std::nullopt : std::optional(!below), "rank 1 has no room");
}

void one_gives_up(Rank& own) {
  own.enter(4, own.rank == 0 ? How::kGives : How::kReceives);
  if (own.rank == 2) own.broadcasts->leave(4);  // before a turn in which all may come
  own.meet();
  if (own.rank == 5) return;  // it came or not
  own.expect(4, own.rank == 0 || own.rank == 2 ? std::nullopt : std::optional(true), "rank 2 gave up");
}

void nobody_has_it(Rank& own) {
  own.enter(5, own.rank == 0 ? How::kHasNoRoom : How::kReceives);
  own.meet();
  own.expect(5, own.rank == 0 ? std::nullopt : std::optional(false), "rank 0 had no value");
}

void one_is_late(Rank& own) {
  if (own.rank == 1) own.turn_for(milliseconds(100));
  own.enter(6, own.rank == 0 ? How::kGives : How::kReceives);
  own.meet();
  own.expect(6, own.rank == 0 ? std::nullopt : std::optional(true), "rank 1 was late");
}

void one_has_it(Rank& own) {
  own.enter(7, own.rank == 0 ? How::kGives : own.rank == 1 ? How::kHasIt : How::kReceives);
  own.meet();
  own.expect(7, own.rank < 2 ? std::nullopt : std::optional(true), "rank 1 had it");
}

void several_at_a_time(Rank& own) {
  const std::vector<std::uint32_t> other{3, 0, 5, 1};
  if (own.rank % 2 == 0) own.enter(8, own.rank == 0 ? How::kGives : How::kReceives);
  if (std::count(other.begin(), other.end(), own.rank) > 0)
    own.enter(9, own.rank == 3 ? How::kGives : How::kReceives, other);
  if (own.rank % 2 == 1) own.enter(8, How::kReceives);
  own.meet();
  own.expect(8, own.rank == 0 ? std::nullopt : std::optional(true), "two at a time");
  const bool receives = own.rank != 3 && std::count(other.begin(), other.end(), own.rank) > 0;
  own.expect(9, receives ? std::optional(true) : std::nullopt, "another first");
}

void a_member_is_no_rank(Rank& own) {
  own.enter(10, own.rank == 0 ? How::kGives : How::kReceives, {0, 1, 2, 3, 99, 4, 5});
  own.meet();
  own.expect(10, own.rank == 0 ? std::nullopt : std::optional(false), "rank 99 is none");
}

void one_is_no_member(Rank& own) {
  own.enter(11, own.rank == 0 ? How::kGives : How::kReceives, {0, 1, 3, 4, 5});
  own.meet();
  own.expect(11, own.rank == 0 ? std::nullopt : std::optional(own.rank != 2), "rank 2 is no member");
}

void a_number_comes_again(Rank& own) {
  own.over.clear();
  own.enter(1, own.rank == 0 ? How::kGives : How::kReceives);
  own.meet();
  own.expect(1, own.rank == 0 ? std::nullopt : std::optional(false), "the number was used");
}

void pieces_have_other_sizes(Rank& own) {
  constexpr int kTag = 16 + 12;
  std::vector<BetterboxMpiRequest> short_pieces;
  if (own.rank == 1) own.enter(12, How::kReceives, {0, 1});
  for (std::size_t i = 0; own.rank == 0 && i <= kBytes / kBroadcastPiece; ++i)
    short_pieces.push_back(mpi->isend("short", 5, 1, kTag, own.world));
  own.meet();
  for (BetterboxMpiRequest& piece : short_pieces) require(mpi->test(&piece) != 0, "all were taken", own.rank);
  own.expect(12, own.rank == 1 ? std::optional(false) : std::nullopt, "its pieces were short");
}

void memory_is_used_again(Rank& own) {
  own.got.clear();
  const std::size_t idle = own.memory->idle_bytes();
  require(idle > 0 && idle <= kMpiIdleBytes, "blocks are kept, within their bound", own.rank);
  const auto block = own.memory->take(kBytes);
  require(own.memory->idle_bytes() < idle, "a kept block is used", own.rank);
}

}  // namespace
}  // namespace betterbox

int main(int argc, char** argv) {
  using namespace betterbox;
  if (argc < 2) return 2;
  mpi = &load_mpi_shim(argv[1]);
  if (mpi->start() != 0) return 1;
  {
    Rank own;
    require(own.size == 6, "this needs six ranks", own.rank);
    for (const auto& step :
         {all_get_it, one_was_not_told, one_has_no_room, one_gives_up, nobody_has_it, one_is_late, one_has_it,
          several_at_a_time, a_member_is_no_rank, one_is_no_member, a_number_comes_again,
          pieces_have_other_sizes, memory_is_used_again})
      step(own);
  }
  mpi->finish();
  return 0;
}
