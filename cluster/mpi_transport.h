// Messages over MPI (docs/protocol.md, section "MPI carrier"), which is called through a table (cluster/mpi_shim.h).
//
// A process's part in an MPI job is an MpiNode: MPI itself, and a thread that makes progress while nobody waits. Any
// number of Transports of one process share it; endpoints are "mpi://RANK/NAME". Messages go out by nonblocking sends,
// arrivals are probed for; frames above kInlineBytes are sent from, and received into, the memory they stay in.
//
// Who drives. Whoever calls Transport::receive() also makes progress, so that an owner that looks needs nobody to hand
// a message over. Where all ranks are on one node, they count what they send each other in memory that they share (so that
// a look is a load, not a call into MPI) and wake a sleeping owner through a pipe (cluster/mpi_doors.h); the thread only carries
// on what takes long: it looks for kMpiSpin, then each kMpiSpin, and without that each kMpiLookInterval. In a job of several
// nodes the thread makes progress when nobody has looked for a moment: it looks for kMpiSpin, then sleeps. A peer on the same
// node wakes it (a futex in that memory); for peers on other nodes it looks again at intervals of at most kMpiPollInterval.
//
// MPI has no end of a connection and no death of a peer: a connection ends when one side closes it, and the job when
// one rank dies.
#pragma once

#include <memory>
#include <string>

#include "cluster/mpi_shim.h"
#include "runtime/time.h"
#include "runtime/transport.h"

namespace betterbox {

/// How long the progress thread looks before it sleeps.
inline constexpr Duration kMpiSpin = microseconds(50);
/// How long it sleeps at most while messages may come from other nodes.
inline constexpr Duration kMpiPollInterval = milliseconds(1);

/// How often it looks where all ranks are on one node, and none has anything to say.
inline constexpr Duration kMpiLookInterval = milliseconds(50);

/// Thread-safe.
class MpiNode {
 public:
  /// Starts MPI (MPI_THREAD_MULTIPLE, as user code may call it from its own threads) on a communicator of its own. Once
  /// per process. Throws std::runtime_error.
  static std::shared_ptr<MpiNode> start(const BetterboxMpi& mpi);
  /// REQUIRES: no transport is left.
  ~MpiNode();
  MpiNode(const MpiNode&) = delete;
  MpiNode& operator=(const MpiNode&) = delete;

  /// Lets the calling thread run on all CPUs of this job's ranks on this node. For threads that are not the user's: a
  /// rank that is bound to one core is several threads.
  void roam() const;
  /// Other ranks of this node may run on CPUs where this one was not bound to.
  bool cpus_elsewhere() const;

  int rank() const;
  int size() const;
  std::unique_ptr<Transport> make_transport();

  /// Ends MPI once all ranks have come here and all messages are through. Result: false if that took longer than
  /// `patience`; MPI is then left as it is.
  bool finish(Duration patience);
  /// Ends all ranks at once.
  [[noreturn]] void abort(int code);

  struct State;

 private:
  explicit MpiNode(std::shared_ptr<State> state);
  std::shared_ptr<State> state_;
};

}  // namespace betterbox
