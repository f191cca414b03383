// MpiNode: a rank's part in the job: what goes out, what comes in, and the thread that makes progress
// (cluster/mpi_transport.h).
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <stdexcept>

#include "cluster/mpi_state.h"
#include "runtime/check.h"

namespace betterbox {
namespace {

constexpr int kPacketTag = 1;
constexpr int kFrameTag = 2;
constexpr int kAnySource = -1;
constexpr std::size_t kPartBytes = 1U << 30;  ///< MPI counts in int
constexpr int kArrivalsPerTurn = 64;
constexpr int kLooks = 4;

void futex_wait(Bell& bell, Duration at_most) {
  const timespec timeout{at_most.ns / 1'000'000'000, at_most.ns % 1'000'000'000};
  ::syscall(SYS_futex, &bell.sleeping, FUTEX_WAIT, 1, &timeout, nullptr, 0);
}

void futex_wake(Bell& bell) {
  if (bell.sleeping.load() != 0 && bell.sleeping.exchange(0) != 0) {
    ::syscall(SYS_futex, &bell.sleeping, FUTEX_WAKE, 1, nullptr, nullptr, 0);
  }
}

[[noreturn]] void fail(const std::string& what) { throw std::runtime_error("MPI: " + what); }

}  // namespace

// --- sending ----------------------------------------------------------------------------------------

void MpiNode::State::send_packet(int to, PacketHead head, const Frames& frames) {
  head.frames = frames.size();
  if (to == rank) {  // another transport of this process
    arrived(rank, {head, frames, {}});
    return;
  }
  if (Bell* bell = bells[static_cast<std::size_t>(to)]) bell->packets.fetch_add(1);
  post(to, kPacketTag, Frame(write_packet(head, frames)));
  for (const Frame& frame : frames) {
    for (std::size_t at = 0; frame.size() > kInlineBytes && at < frame.size(); at += kPartBytes) {
      post(to, kFrameTag, frame.slice(at, std::min(kPartBytes, frame.size() - at)));
    }
  }
  wake(to);
}

void MpiNode::State::wake(int other) {
  if (Bell* bell = bells[static_cast<std::size_t>(other)]) {
    std::atomic_thread_fence(
        std::memory_order_seq_cst);  // what was sent, before the look whether the receiver sleeps
    if (!doors) return futex_wake(*bell);
    if (bell->sleeping.load() == 0 || bell->sleeping.exchange(0) == 0) return;
    bell->rings.fetch_add(1);
    doors->ring(other);
  }
}

void MpiNode::State::wake_thread() { futex_wake(doors ? thread_bell : own_bell()); }

/// Whoever sends something from now on rings at the door, if an owner may sleep; what came before is received.
void MpiNode::State::ask_for_bell() {
  if (!doors || finished) return;
  if (own_bell().rings.load() != rings_heard) rings_heard += doors->clear();
  if (own_bell().sleeping.load() != 0) return;
  own_bell().sleeping.store(1);
  // What a probe finds may show only at a later one.
  for (int i = 0; i < kLooks && !nothing_there(); ++i) progress();
}

void MpiNode::State::post(int to, int tag, Frame held) {
  Outgoing out;
  out.request = mpi.isend(held.data(), static_cast<int>(held.size()), to, tag, comm);
  if (mpi.test(&out.request) != 0) return;
  out.held = std::move(held);
  outgoing.push_back(std::move(out));
  wake_thread();
}

// --- receiving --------------------------------------------------------------------------------------

/// Result: false if nothing has arrived.
bool MpiNode::State::receive_packet() {
  BetterboxMpiFound found{};
  if (mpi.probe(kAnySource, kPacketTag, comm, &found) == 0) return false;
  ++packets_received;
  const auto packet_size = static_cast<std::size_t>(found.bytes);
  auto bytes = memory->take(packet_size);
  mpi.take(&found, bytes.get());

  const std::byte* start = bytes.get();
  std::optional<Packet> packet =
      read_packet({std::shared_ptr<const void>(std::move(bytes)), start, packet_size});
  BB_CHECK(packet);  // ranks are of one build: what follows it cannot be told apart any more
  Incoming in{packet->head, std::move(packet->frames), {}};
  for (Frame& frame : in.frames) {
    const std::size_t frame_size = frame.size();
    if (frame_size <= kInlineBytes) continue;
    auto block = memory->take(frame_size);
    for (std::size_t part = 0; part < frame_size; part += kPartBytes) {
      const auto part_size = static_cast<int>(std::min<std::size_t>(kPartBytes, frame_size - part));
      in.requests.push_back(mpi.irecv(block.get() + part, part_size, found.source, kFrameTag, comm));
    }
    const std::byte* data = block.get();
    frame = Frame(std::shared_ptr<const void>(std::move(block)), data, frame_size);
  }
  auto& queue = incoming[static_cast<std::size_t>(found.source)];
  if (queue.empty() && in.requests.empty()) {
    arrived(found.source, std::move(in));
  } else {
    queue.push_back(std::move(in));
  }
  return true;
}

/// Delivers what is complete, in order. Result: true if there was something.
bool MpiNode::State::finish_incoming(int source) {
  bool any = false;
  auto& queue = incoming[static_cast<std::size_t>(source)];
  while (!queue.empty()) {
    if (!std::ranges::all_of(queue.front().requests,
                             [this](BetterboxMpiRequest& request) { return mpi.test(&request) != 0; }))
      break;
    Incoming packet = std::move(queue.front());
    queue.pop_front();
    arrived(source, std::move(packet));
    any = true;
  }
  return any;
}

void MpiNode::State::arrived(int source, Incoming&& packet) {
  if (packet.head.kind == PacketKind::kBroadcast) {
    const auto word = static_cast<MpiBroadcasts::Word>(packet.head.from_initiator);
    return broadcasts->heard(source, word, packet.head.connection);
  }
  const bool from_initiator = packet.head.from_initiator != 0;
  const ConnectionKey key{from_initiator ? source : rank, packet.head.connection};
  const auto found = ends.find({key, !from_initiator});
  if (packet.head.kind == PacketKind::kConnect) {
    if (packet.frames.empty()) return;
    const auto listener = listeners.find(std::string(packet.frames.front().view()));
    if (listener == listeners.end()) {
      send_packet(source, {PacketKind::kClose, 0, key.number, 0}, {});
    } else if (found == ends.end()) {
      listener->second->accept(key);
    }
    return;
  }
  if (found == ends.end()) return;  // closed here meanwhile
  const auto [end, id] = found->second;
  if (packet.head.kind == PacketKind::kMessage && !packet.frames.empty()) {
    end->deliver(id, std::move(packet.frames));
  } else {
    end->closed_by_peer(id, "the peer is gone, or nobody listens there");
  }
}

// --- progress ---------------------------------------------------------------------------------------

/// Whoever sends within a node counts, so a look into MPI, which costs about a microsecond and yields the core, is
/// spared where nothing can have come.
bool MpiNode::State::nothing_there() const {
  return one_node && all_quiet() && own_bell().packets.load() == packets_received;
}

/// Result: true if anything moved. With the mutex. `look`: in any case, for what MPI itself may still have to do.
bool MpiNode::State::progress(bool look) {
  if (!look && nothing_there()) return false;
  bool any = false;
  if (!broadcasts->quiet()) broadcasts->progress();  // nobody spins for it: those who go on ring
  for (auto out = outgoing.begin(); out != outgoing.end();) {
    const bool sent = mpi.test(&out->request) != 0;
    out = sent ? outgoing.erase(out) : std::next(out);
    any = any || sent;
  }
  for (int i = 0; i < kArrivalsPerTurn && receive_packet(); ++i) any = true;
  for (int source = 0; source < size; ++source) {
    if (!incoming[static_cast<std::size_t>(source)].empty()) any = finish_incoming(source) || any;
  }
  return any;
}

bool MpiNode::State::all_quiet() const {
  return outgoing.empty() && broadcasts->quiet() &&
         std::ranges::all_of(incoming, [](const auto& queue) { return queue.empty(); });
}

void MpiNode::State::run() {
  TimePoint moved = monotonic_now(), looked = moved;
  Duration pause = microseconds(20);
  while (!stopping.load()) {
    const TimePoint now = monotonic_now();
    const bool driven = now.ns - driven_at_ns.load(std::memory_order_relaxed) < kMpiSpin.ns;
    bool quiet = true;
    if (!driven) {
      const std::lock_guard lock(mutex);
      const bool look = now - looked > kMpiLookInterval;
      if (look) looked = now;
      if (progress(look)) moved = now, pause = microseconds(20);
      quiet = all_quiet();
    }
    if (!driven && now - moved < kMpiSpin) {
      ::sched_yield();
      continue;
    }
    Bell& bell = own_bell();
    bell.sleeping.store(1);
    if (!driven) {
      const std::lock_guard lock(mutex);
      if (progress() || progress()) {  // twice: what a probe finds may show only at the next one
        bell.sleeping.store(0);
        moved = now;
        continue;
      }
    }
    pause = driven     ? kMpiPollInterval
            : !quiet   ? microseconds(50)
            : one_node ? kMpiLookInterval
                       : std::min(pause * 2, kMpiPollInterval);
    if (!stopping.load()) futex_wait(bell, pause);
    bell.sleeping.store(0);
  }
}

/// Owners are woken by the senders: the thread only carries on what takes long, and looks after MPI now and then.
void MpiNode::State::run_behind_doors() {
  TimePoint moved = monotonic_now();
  while (!stopping.load()) {
    bool quiet = true;
    const TimePoint now = monotonic_now();
    {
      const std::lock_guard lock(mutex);
      if (progress(true)) moved = now;
      quiet = all_quiet();
      thread_bell.sleeping.store(1);
    }
    if (!quiet && now - moved < kMpiSpin) {
      ::sched_yield();
    } else if (!stopping.load()) {
      futex_wait(thread_bell, quiet ? kMpiLookInterval : kMpiSpin);
    }
    thread_bell.sleeping.store(0);
  }
}

// --- the node ---------------------------------------------------------------------------------------

MpiNode::MpiNode(std::shared_ptr<State> state) : state_(std::move(state)) {}

/// Which ranks are on this node, what they share, and where all of them may run.
void MpiNode::State::know_node() {
  const BetterboxMpiComm node = mpi.node_of(comm);
  const int node_size = mpi.size(node);
  one_node = node_size == size;
  void* mine = nullptr;
  bells_window = mpi.share(sizeof(Bell), node, &mine);
  new (mine) Bell;
  mpi.barrier(node);
  std::vector<int> ranks(static_cast<std::size_t>(node_size));
  mpi.gather_ints(&rank, 1, ranks.data(), node);
  for (int i = 0; i < node_size; ++i) {
    const auto other = static_cast<std::size_t>(ranks[static_cast<std::size_t>(i)]);
    bells[other] = static_cast<Bell*>(mpi.shared_of(bells_window, i));
  }
  if (one_node) doors = MpiDoors::open(mpi, comm);
  cpu_set_t cpus{};
  ::sched_getaffinity(0, sizeof cpus, &cpus);
  mpi.or_bytes(&cpus, &node_cpus, sizeof cpus, node);
  cpus_elsewhere = CPU_COUNT(&node_cpus) > CPU_COUNT(&cpus);
  const int first = *std::min_element(ranks.begin(), ranks.end());
  node_of.resize(static_cast<std::size_t>(size));
  mpi.gather_ints(&first, 1, node_of.data(), comm);
  mpi.free_comm(node);
}

std::shared_ptr<MpiNode> MpiNode::start(const BetterboxMpi& mpi) {
  const int problem = mpi.start();
  if (problem == 2) fail("this MPI library gives no MPI_THREAD_MULTIPLE; BetterBox needs it");
  if (problem != 0) fail("it does not start");
  auto state = std::make_shared<State>(mpi);
  state->comm = mpi.world();
  state->rank = mpi.rank(state->comm);
  state->size = mpi.size(state->comm);
  state->incoming.resize(static_cast<std::size_t>(state->size));
  state->bells.resize(static_cast<std::size_t>(state->size));
  state->know_node();

  State* self = state.get();  // outlives the thread: the destructor joins it
  state->broadcasts = std::make_unique<MpiBroadcasts>(MpiBroadcasts::Job{
      &mpi, state->comm, state->rank, state->node_of,
      [self](int to, MpiBroadcasts::Word word, std::uint64_t sequence) {
        self->send_packet(to, {PacketKind::kBroadcast, static_cast<std::uint32_t>(word), sequence, 0}, {});
      },
      [self](int rank) { self->wake(rank); }});
  state->progress_thread = std::thread([self] {
    self->roam();
    self->doors ? self->run_behind_doors() : self->run();
  });
  return std::shared_ptr<MpiNode>(new MpiNode(std::move(state)));
}

MpiNode::~MpiNode() {
  if (!state_->progress_thread.joinable()) return;
  state_->stopping.store(true);
  state_->wake_thread();
  state_->progress_thread.join();
}

void MpiNode::roam() const { state_->roam(); }
bool MpiNode::cpus_elsewhere() const { return state_->cpus_elsewhere; }

int MpiNode::rank() const { return state_->rank; }
int MpiNode::size() const { return state_->size; }

void MpiNode::abort(int code) {
  state_->mpi.abort(code);
  std::abort();
}

bool MpiNode::finish(Duration patience) {
  State& state = *state_;
  const TimePoint deadline = monotonic_now() + patience;
  std::optional<BetterboxMpiRequest> barrier;
  {
    const std::lock_guard lock(state.mutex);
    state.broadcasts->give_up_all();
  }
  for (bool all_here = false; !all_here;) {
    {
      const std::lock_guard lock(state.mutex);
      state.progress();
      if (!barrier && state.all_quiet()) barrier = state.mpi.ibarrier(state.comm);
      all_here = barrier && state.mpi.test(&*barrier) != 0;
    }
    if (all_here) break;
    if (monotonic_now() > deadline) return false;
    ::usleep(200);
  }
  state.stopping.store(true);
  state.wake_thread();
  state.progress_thread.join();
  const std::lock_guard lock(state.mutex);
  state.finished = true;
  state.mpi.free_shared(state.bells_window);
  state.mpi.free_comm(state.comm);
  state.mpi.finish();
  return true;
}

}  // namespace betterbox
