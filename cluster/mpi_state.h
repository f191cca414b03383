// What a rank's node and its transports share. Part of cluster/mpi_transport.h: nobody else includes it.
//
// MPI is called through `mpi`, the table of the shim. A packet (cluster/mpi_packet.h) is one MPI message (tag kPacketTag). Frames larger than kInlineBytes follow as messages of
// their own (tag kFrameTag), in parts of at most kPartBytes; MPI keeps the order of messages with the same tag between two ranks, so nothing has to name them.
#pragma once

#include <sched.h>

#include <atomic>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cluster/mpi_broadcast.h"
#include "cluster/mpi_doors.h"
#include "cluster/mpi_memory.h"
#include "cluster/mpi_packet.h"
#include "cluster/mpi_shim.h"
#include "cluster/mpi_transport.h"

namespace betterbox {

/// One per rank, in memory that the ranks of its node share.
struct alignas(64) Bell {
  std::atomic<std::uint32_t> sleeping{0};  ///< not 0: it wants to be woken for what it is sent
  std::atomic<std::uint64_t> packets{0};   ///< that ranks of its node have sent it so far
  std::atomic<std::uint64_t> rings{
      0};  ///< bytes that are, or soon will be, in its door's pipe, read ones too
};

/// A connection as both sides know it: who connected, and its number there.
struct ConnectionKey {
  int initiator = 0;  ///< rank
  std::uint64_t number = 0;
  auto operator<=>(const ConnectionKey&) const = default;
};

/// A transport, as the node sees it. Called with the node's mutex.
class MpiEnd {
 public:
  /// Somebody connects to this listener.
  virtual ConnectionId accept(const ConnectionKey& key) = 0;
  virtual void deliver(ConnectionId id, Frames&& frames) = 0;
  virtual void closed_by_peer(ConnectionId id, const std::string& reason) = 0;

 protected:
  ~MpiEnd() = default;
};

/// What MPI still reads: the packet or frame is kept until then.
struct Outgoing {
  BetterboxMpiRequest request{};
  Frame held;
};

/// A message some of whose frames are still on their way.
struct Incoming {
  PacketHead head;
  Frames frames;
  std::vector<BetterboxMpiRequest> requests;
};

struct MpiNode::State : std::enable_shared_from_this<State> {
  explicit State(const BetterboxMpi& table) : mpi(table) {}

  const BetterboxMpi& mpi;
  std::mutex mutex;
  BetterboxMpiComm comm{};
  int rank = 0, size = 1;
  bool finished = false;

  BetterboxMpiWindow bells_window{};
  std::vector<Bell*> bells;  ///< by rank; null: on another node
  std::vector<int> node_of;  ///< by rank: the first rank of its node
  bool one_node = true;
  std::unique_ptr<MpiDoors> doors;  ///< where all ranks are on one node
  Bell thread_bell;                 ///< of the progress thread, where there are doors
  int sleepers = 0;                 ///< transports whose owners wait on their descriptors, or are about to
  cpu_set_t node_cpus{};            ///< of all ranks of this node
  bool cpus_elsewhere = false;      ///< this rank was not given all of these

  std::uint64_t packets_received = 0;
  std::uint64_t rings_heard = 0;
  std::uint64_t last_number = 0;
  std::map<std::string, MpiEnd*> listeners;  ///< by name
  std::map<std::pair<ConnectionKey, bool>, std::pair<MpiEnd*, ConnectionId>>
      ends;  ///< bool: the initiator's end
  std::list<Outgoing> outgoing;
  std::vector<std::deque<Incoming>> incoming;  ///< by source; in order of arrival

  const std::shared_ptr<MpiMemory> memory = std::make_shared<MpiMemory>();
  std::unique_ptr<MpiBroadcasts> broadcasts;

  std::atomic<std::int64_t> driven_at_ns{0};
  std::atomic<bool> stopping{false};
  std::thread progress_thread;

  void send_packet(int to, PacketHead head, const Frames& frames);
  void post(int to, int tag, Frame held);
  void wake(int other);
  void wake_thread();
  void ask_for_bell();
  bool progress(bool look = false);
  bool nothing_there() const;
  bool receive_packet();
  bool finish_incoming(int source);
  void arrived(int source, Incoming&& packet);
  void know_node();
  void run();
  void run_behind_doors();
  void roam() const { ::sched_setaffinity(0, sizeof node_cpus, &node_cpus); }
  bool all_quiet() const;
  Bell& own_bell() const { return *bells[static_cast<std::size_t>(rank)]; }
};

}  // namespace betterbox
