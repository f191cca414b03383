#include "cluster/mpi_broadcast.h"

#include <algorithm>
#include <utility>

#include "runtime/check.h"

namespace betterbox {
namespace {

constexpr std::size_t kRemembered = 1024;
/// Tags of pieces; those below are the carrier's.
constexpr int kFirstTag = 16;
constexpr std::uint64_t kTags = 16384;  ///< MPI promises 32767

}  // namespace

BroadcastPlace place_in_broadcast(const std::vector<std::uint32_t>& members, const std::vector<int>& node_of,
                                  int self) {
  if (std::ranges::any_of(members, [&](std::uint32_t member) { return member >= node_of.size(); })) return {};
  // The first member of each node gets the value from another node, the others get it from that one.
  std::vector<int> firsts;
  std::map<int, int> first_of;
  for (const std::uint32_t member : members) {
    const int rank = static_cast<int>(member);
    if (first_of.try_emplace(node_of.at(member), rank).second) firsts.push_back(rank);
  }
  BroadcastPlace place;
  const auto at = std::find(firsts.begin(), firsts.end(), self);
  if (at == firsts.end()) {
    const bool member = std::count(members.begin(), members.end(), static_cast<std::uint32_t>(self)) > 0;
    if (member) place.above = first_of.at(node_of.at(static_cast<std::size_t>(self)));
    return place;
  }
  const auto index = static_cast<std::size_t>(at - firsts.begin());
  if (index > 0) place.above = firsts[(index - 1) / kBroadcastFanOut];
  for (std::size_t i = index * kBroadcastFanOut + 1; i <= (index + 1) * kBroadcastFanOut && i < firsts.size();
       ++i)
    place.below.push_back(firsts[i]);
  for (const std::uint32_t member : members) {
    const int rank = static_cast<int>(member);
    if (rank != self && node_of[member] == node_of[static_cast<std::size_t>(self)])
      place.below.push_back(rank);
  }
  return place;
}

int MpiBroadcasts::tag(std::uint64_t sequence) const {
  return kFirstTag + static_cast<int>(sequence % kTags);
}

std::size_t MpiBroadcasts::piece_size(const Part& part, std::size_t piece) const {
  return std::min(kBroadcastPiece, part.told.size - piece * kBroadcastPiece);
}

void MpiBroadcasts::enter(BroadcastPart told, Over over) {
  const std::uint64_t sequence = told.sequence;
  const bool receives = told.data != nullptr && !told.whole;
  const BroadcastPlace place = place_in_broadcast(told.members, job_.node_of, job_.rank);
  const bool used = told.size == 0 || ended_.contains(sequence) || parts_.contains(sequence);
  if (receives && (used || place.above < 0)) hopeless_.emplace_back(sequence, std::move(over));
  if (used || (receives && place.above < 0)) return;
  Part& part = parts_[sequence];
  part.told = std::move(told);
  if (receives) part.over = std::move(over);
  part.above = place.above;
  part.pieces = (part.told.size + kBroadcastPiece - 1) / kBroadcastPiece;
  part.patience = monotonic_now() + job_.patience;
  for (const int rank : place.below) part.below.push_back({rank, false, false, 0, {}});
  if (part.told.whole) part.have = part.pieces;
  part.failed = part.told.data == nullptr;
  if (receives) {
    post_receives(part);
    job_.tell(part.above, Word::kReady, sequence);
  } else if (part.above >= 0) {
    part.draining = true;
    job_.tell(part.above, Word::kLeave, sequence);
  }
  if (const auto early = early_.extract(sequence)) {
    for (const auto& [rank, word] : early.mapped()) {
      const auto below = std::ranges::find(part.below, rank, &Below::rank);
      if (word == Word::kReady) {
        heard(rank, word, sequence);
      } else if (below != part.below.end()) {
        below->over = true;  // and was answered
      }
    }
  }
}

void MpiBroadcasts::leave(std::uint64_t sequence) {
  std::erase_if(hopeless_, [&](const auto& one) { return one.first == sequence; });
  const auto at = parts_.find(sequence);
  if (at == parts_.end()) return;
  at->second.over = nullptr;
  if (at->second.have < at->second.pieces && !at->second.failed) give_up(at->second);
}

void MpiBroadcasts::heard(int from, Word word, std::uint64_t sequence) {
  const auto at = parts_.find(sequence);
  if (at == parts_.end()) return heard_early(from, word, sequence);
  const auto below = std::ranges::find(at->second.below, from, &Below::rank);
  if (below == at->second.below.end()) return refuse(from, sequence);
  if (word == Word::kLeave || at->second.failed || below->over) {
    below->over = true;
    return refuse(from, sequence);
  }
  below->ready = true;
  at->second.patience = monotonic_now() + job_.patience;
}

/// This rank does not know the broadcast: not yet, or not any more.
void MpiBroadcasts::heard_early(int from, Word word, std::uint64_t sequence) {
  if (word == Word::kLeave || ended_.contains(sequence)) refuse(from, sequence);
  if (ended_.contains(sequence)) return;
  auto& early = early_[sequence];
  std::erase_if(early, [&](const auto& one) { return one.first == from; });
  early.emplace_back(from, word);
  if (early_.size() > kRemembered) early_.erase(early_.begin());  // they give up by themselves
}

/// No more will come, behind what was sent.
void MpiBroadcasts::refuse(int rank, std::uint64_t sequence) {
  loose_.push_back(job_.mpi->isend(nullptr, 0, rank, tag(sequence), job_.comm));
  job_.wake(rank);
}

// --- receiving --------------------------------------------------------------------------------------

void MpiBroadcasts::post_receives(Part& part) {
  while (part.posted < part.pieces && part.receiving.size() < kBroadcastWindow) {
    part.receiving.push_back(job_.mpi->irecv(part.told.data + part.posted * kBroadcastPiece,
                                             static_cast<int>(piece_size(part, part.posted)), part.above,
                                             tag(part.told.sequence), job_.comm));
    ++part.posted;
  }
}

/// In order. Result: true if something came.
bool MpiBroadcasts::receive(Part& part) {
  bool any = false;
  while (!part.receiving.empty()) {
    int size = 0;
    if (job_.mpi->test_receive(&part.receiving.front(), &size) == 0) break;
    part.receiving.pop_front();
    any = true;
    if (size < 0) continue;  // cancelled
    if (size == 0) part.draining = false;
    if (part.failed) continue;
    if (size == 0) {
      for (BetterboxMpiRequest& request : part.receiving) job_.mpi->cancel(&request);
      finish(part, false);
      continue;
    }
    if (static_cast<std::size_t>(size) != piece_size(part, part.have)) {
      give_up(part);
      continue;
    }
    ++part.have;
    part.patience = monotonic_now() + job_.patience;
    post_receives(part);
    if (part.have == part.pieces) finish(part, true);
  }
  if (any) job_.wake(part.above);
  return any;
}

/// What still comes of a broadcast that was given up.
bool MpiBroadcasts::drain(Part& part) {
  if (!part.receiving.empty()) return false;
  bool any = false;
  for (;;) {
    BetterboxMpiFound found{};
    if (job_.mpi->probe(part.above, tag(part.told.sequence), job_.comm, &found) == 0) return any;
    any = true;
    std::vector<std::byte> nowhere(static_cast<std::size_t>(found.bytes));
    job_.mpi->take(&found, nowhere.data());
    if (found.bytes > 0) continue;
    part.draining = false;
    return true;
  }
}

void MpiBroadcasts::give_up(Part& part) {
  for (BetterboxMpiRequest& request : part.receiving) job_.mpi->cancel(&request);
  part.draining = true;
  job_.tell(part.above, Word::kLeave, part.told.sequence);
  finish(part, false);
}

void MpiBroadcasts::finish(Part& part, bool ok) {
  part.failed = !ok;
  part.patience = monotonic_now() + job_.patience;
  if (Over over = std::exchange(part.over, nullptr)) over(part.told.sequence, ok);
}

// --- sending ----------------------------------------------------------------------------------------

/// Result: true if something moved.
bool MpiBroadcasts::send(Part& part, Below& below) {
  bool any = false;
  while (!below.sending.empty()) {
    if (job_.mpi->test(&below.sending.front()) == 0) break;
    below.sending.pop_front();
    any = true;
  }
  if (below.over || !below.ready) return any;
  bool wake = false;
  while (below.sent < part.have && below.sending.size() < kBroadcastWindow) {
    below.sending.push_back(job_.mpi->isend(part.told.data + below.sent * kBroadcastPiece,
                                            static_cast<int>(piece_size(part, below.sent)), below.rank,
                                            tag(part.told.sequence), job_.comm));
    ++below.sent;
    wake = true;
  }
  if (wake) job_.wake(below.rank);
  below.over = below.sent == part.pieces;
  any = any || wake;
  if (any) part.patience = monotonic_now() + job_.patience;
  return any;
}

/// Nothing more can come for it.
void MpiBroadcasts::send_end(Part& part, Below& below) {
  if (below.over) return;
  below.over = true;
  if (below.ready) refuse(below.rank, part.told.sequence);  // else when it is
}

bool MpiBroadcasts::is_over(const Part& part) const {
  return part.receiving.empty() && !part.draining && (part.failed || part.have == part.pieces) &&
         std::ranges::all_of(part.below, [](const Below& b) { return b.over && b.sending.empty(); });
}

void MpiBroadcasts::give_up_all() {
  for (auto& [sequence, part] : parts_) {
    if (part.patience != TimePoint::never()) part.patience = TimePoint{0};
  }
}

bool MpiBroadcasts::progress() {
  bool any = !hopeless_.empty();
  for (const auto& [sequence, over] : std::exchange(hopeless_, {})) over(sequence, false);
  for (auto at = parts_.begin(); at != parts_.end();) {
    Part& part = at->second;
    any = receive(part) || any;
    if (part.draining) any = drain(part) || any;
    if (part.failed) {
      for (Below& below : part.below) send_end(part, below);
    }
    for (Below& below : part.below) any = send(part, below) || any;
    if (part.patience < monotonic_now()) {
      part.patience = TimePoint::never();
      if (!part.failed && part.have < part.pieces) give_up(part);
      for (Below& below : part.below) {
        if (!below.ready) below.over = true;
      }
    }
    if (!is_over(part)) {
      ++at;
      continue;
    }
    ended_.insert(at->first);
    if (ended_.size() > kRemembered) ended_.erase(ended_.begin());
    at = parts_.erase(at);
    any = true;
  }
  std::erase_if(loose_, [this](BetterboxMpiRequest& request) { return job_.mpi->test(&request) != 0; });
  return any;
}

}  // namespace betterbox
