// A packet is one MPI message (tag kPacket): PacketHead, the sizes of the message's frames, and those of its frames that
// are not larger than kInlineBytes. Larger ones follow as messages of their own (tag kFrame), in parts of at most
// kPartBytes; MPI keeps the order of messages with the same tag between two ranks, so nothing has to name them.
#include "cluster/mpi_transport.h"

#include <linux/futex.h>
#include <mpi.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <list>
#include <map>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string_view>
#include <thread>
#include <utility>

#include "cluster/mpi_broadcast.h"
#include "cluster/mpi_doors.h"
#include "cluster/mpi_memory.h"
#include "runtime/check.h"
#include "runtime/codec.h"
#include "runtime/limits.h"

namespace betterbox {
namespace {

constexpr int kPacketTag = 1;
constexpr int kFrameTag = 2;
constexpr std::size_t kInlineBytes = 8U << 10;
constexpr std::size_t kPartBytes = 1U << 30;  ///< MPI counts in int
constexpr std::string_view kScheme = "mpi://";
constexpr int kArrivalsPerTurn = 64;
constexpr int kLooks = 4;

/// Of kBroadcast `from_initiator` is the word, and `connection` the sequence number.
enum class PacketKind : std::uint32_t { kConnect = 1, kMessage = 2, kClose = 3, kBroadcast = 4 };

/// `connection` is the number that the side gave it that connected.
struct PacketHead {
  PacketKind kind = PacketKind::kMessage;
  std::uint32_t from_initiator = 0;
  std::uint64_t connection = 0;
  std::uint64_t frames = 0;
};

/// One per rank, in memory that the ranks of its node share.
struct alignas(64) Bell {
  std::atomic<std::uint32_t> sleeping{0};  ///< not 0: it wants to be woken for what it is sent
  std::atomic<std::uint64_t> packets{0};   ///< that ranks of its node have sent it so far
  std::atomic<std::uint64_t> rings{
      0};  ///< bytes that are, or soon will be, in its door's pipe, read ones too
};

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

class MpiTransport;

/// A connection as both sides know it: who connected, and its number there.
struct ConnectionKey {
  int initiator = 0;  ///< rank
  std::uint64_t number = 0;
  auto operator<=>(const ConnectionKey&) const = default;
};

struct End {
  MpiTransport* transport = nullptr;
  ConnectionId id;
};

/// What MPI still reads: the packet or frame is kept until then.
struct Outgoing {
  MPI_Request request = MPI_REQUEST_NULL;
  Frame held;
};

/// A message some of whose frames are still on their way.
struct Incoming {
  PacketHead head;
  Frames frames;
  std::vector<MPI_Request> requests;
};

}  // namespace

struct MpiNode::State : std::enable_shared_from_this<State> {
  std::mutex mutex;
  MPI_Comm comm = MPI_COMM_NULL;
  int rank = 0, size = 1;
  bool finished = false;

  MPI_Win bells_window = MPI_WIN_NULL;
  std::vector<Bell*> bells;  ///< by rank; null: on another node
  bool one_node = true;
  std::unique_ptr<MpiDoors> doors;  ///< where all ranks are on one node
  Bell thread_bell;                 ///< of the progress thread, where there are doors
  int sleepers = 0;                 ///< transports whose owners wait on their descriptors, or are about to
  cpu_set_t node_cpus{};            ///< of all ranks of this node
  bool cpus_elsewhere = false;      ///< this rank was not given all of these

  std::uint64_t packets_received = 0;
  std::uint64_t rings_heard = 0;
  std::uint64_t last_number = 0;
  std::map<std::string, MpiTransport*> listeners;      ///< by name
  std::map<std::pair<ConnectionKey, bool>, End> ends;  ///< bool: the initiator's end
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
  void wake_thread() { futex_wake(doors ? thread_bell : own_bell()); }
  void ask_for_bell();
  bool progress(bool look = false);
  bool nothing_there() const;
  bool receive_packet();
  bool finish_incoming(int source);
  void arrived(int source, Incoming&& packet);
  void run();
  void run_behind_doors();
  void roam() const { ::sched_setaffinity(0, sizeof node_cpus, &node_cpus); }
  bool all_quiet() const;
  Bell& own_bell() const { return *bells[static_cast<std::size_t>(rank)]; }
};

namespace {

class MpiTransport : public Transport {
 public:
  explicit MpiTransport(std::shared_ptr<MpiNode::State> node)
      : node_(std::move(node)), bell_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    BB_CHECK(bell_ >= 0);
  }
  ~MpiTransport() override {
    const std::lock_guard lock(node_->mutex);
    set_asleep(false);
    while (!connections_.empty()) end_connection(connections_.begin()->first);
    for (const std::uint64_t sequence : entered_) node_->broadcasts->leave(sequence);
    std::erase_if(node_->listeners, [this](const auto& entry) { return entry.second == this; });
    ::close(bell_);
  }

  std::string listen(const std::string& endpoint) override {
    const std::lock_guard lock(node_->mutex);
    const auto [rank, name] = parse(endpoint);
    if (rank != node_->rank)
      throw std::runtime_error("cannot listen at " + endpoint + ": this is rank " +
                               std::to_string(node_->rank));
    if (!node_->listeners.emplace(name, this).second)
      throw std::runtime_error("cannot listen at " + endpoint + ": somebody does");
    return endpoint;
  }

  ConnectionId connect(const std::string& endpoint) override {
    const std::lock_guard lock(node_->mutex);
    const ConnectionId id{++last_connection_};
    const auto [rank, name] = parse(endpoint);
    if (rank < 0 || rank >= node_->size) {
      push_closed(id, "no rank of this job: " + endpoint, false);
      return id;
    }
    const ConnectionKey key{node_->rank, ++node_->last_number};
    connections_[id] = {key, true, rank};
    node_->ends[{key, true}] = {this, id};
    node_->send_packet(rank, {PacketKind::kConnect, 1, key.number, 1}, {Frame(name)});
    return id;
  }

  bool send(ConnectionId to, const Message& message) override {
    const std::lock_guard lock(node_->mutex);
    const auto found = connections_.find(to);
    if (found == connections_.end()) return false;
    Frames frames;
    frames.reserve(1 + message.frames.size());
    frames.emplace_back(encode(message));
    frames.insert(frames.end(), message.frames.begin(), message.frames.end());
    const Connection& connection = found->second;
    node_->send_packet(connection.peer,
                       {PacketKind::kMessage, connection.initiator, connection.key.number, frames.size()},
                       frames);
    return true;
  }

  std::optional<TransportEvent> receive() override {
    const std::lock_guard lock(node_->mutex);
    node_->driven_at_ns.store(monotonic_now().ns, std::memory_order_relaxed);
    waits_ = false;
    set_asleep(false);
    if (events_.empty() && !node_->finished) node_->progress();
    if (node_->sleepers > 0) node_->ask_for_bell();  // it may have been rung for them, and we have heard it
    if (events_.empty()) {
      if (std::exchange(rung_, false)) {
        std::uint64_t count = 0;
        static_cast<void>(!::read(bell_, &count, sizeof count));
      }
      waits_ = true;
      return std::nullopt;
    }
    TransportEvent event = std::move(events_.front());
    events_.pop_front();
    return event;
  }

  void close(ConnectionId id) override {
    const std::lock_guard lock(node_->mutex);
    if (connections_.contains(id)) end_connection(id);
    std::erase_if(events_, [&](const TransportEvent& event) { return event.connection == id; });
  }

  std::vector<int> wait_fds() override {
    const std::lock_guard lock(node_->mutex);
    if (!node_->doors) return {bell_};
    set_asleep(true);
    node_->ask_for_bell();
    return {bell_, node_->doors->own()};
  }
  std::uint64_t malformed_messages() const override {
    const std::lock_guard lock(node_->mutex);
    return malformed_;
  }

  bool can_broadcast() const override { return true; }

  void enter(BroadcastPart part) override {
    const std::lock_guard lock(node_->mutex);
    if (node_->finished) return;
    entered_.insert(part.sequence);
    node_->broadcasts->enter(std::move(part), [this](std::uint64_t sequence, bool ok) {
      entered_.erase(sequence);
      TransportEvent event;
      event.kind = TransportEvent::kBroadcast;
      event.sequence = sequence;
      event.ok = ok;
      push(std::move(event));
    });
    node_->wake_thread();
  }

  void leave(std::uint64_t sequence) override {
    const std::lock_guard lock(node_->mutex);
    entered_.erase(sequence);
    node_->broadcasts->leave(sequence);
  }

  // --- called by the node, with its mutex ---

  /// Somebody connects to this listener.
  ConnectionId accept(const ConnectionKey& key) {
    const ConnectionId id{++last_connection_};
    connections_[id] = {key, false, key.initiator};
    node_->ends[{key, false}] = {this, id};
    return id;
  }

  void deliver(ConnectionId id, Frames&& frames) {
    const Frame first = std::move(frames.front());
    frames.erase(frames.begin());
    auto decoded = decode(first.bytes(), std::move(frames));
    if (auto* message = std::get_if<Message>(&decoded)) {
      TransportEvent event;
      event.connection = id;
      event.message = std::move(*message);
      return push(std::move(event));
    }
    ++malformed_;
    end_connection(id);
    push_closed(id, "malformed message: " + std::get<DecodeError>(decoded).reason, true);
  }

  void closed_by_peer(ConnectionId id, const std::string& reason) {
    drop(id);
    push_closed(id, reason, false);
  }

 private:
  struct Connection {
    ConnectionKey key;
    std::uint32_t initiator = 0;  ///< 1: we connected
    int peer = 0;                 ///< rank
  };

  static std::pair<int, std::string> parse(const std::string& endpoint) {
    const std::size_t slash = endpoint.find('/', kScheme.size());
    if (!endpoint.starts_with(kScheme) || slash == std::string::npos) return {-1, {}};
    const std::string rank = endpoint.substr(kScheme.size(), slash - kScheme.size());
    if (rank.empty() || rank.size() > 9 || rank.find_first_not_of("0123456789") != std::string::npos)
      return {-1, {}};
    return {std::stoi(rank), endpoint.substr(slash + 1)};
  }

  /// And tells the peer.
  void end_connection(ConnectionId id) {
    const Connection connection = connections_.at(id);
    drop(id);
    if (node_->finished) return;
    node_->send_packet(connection.peer, {PacketKind::kClose, connection.initiator, connection.key.number, 0},
                       {});
  }

  void drop(ConnectionId id) {
    const auto found = connections_.find(id);
    node_->ends.erase({found->second.key, found->second.initiator != 0});
    connections_.erase(found);
  }

  void set_asleep(bool asleep) {
    node_->sleepers += static_cast<int>(asleep) - static_cast<int>(asleep_);
    asleep_ = asleep;
  }

  void push(TransportEvent event) {
    events_.push_back(std::move(event));
    if (!waits_ || rung_) return;
    waits_ = false;
    rung_ = true;
    const std::uint64_t one = 1;
    static_cast<void>(!::write(bell_, &one, sizeof one));
  }

  void push_closed(ConnectionId id, const std::string& reason, bool malformed) {
    TransportEvent event;
    event.kind = TransportEvent::kClosed;
    event.connection = id;
    event.reason = reason;
    event.malformed = malformed;
    push(std::move(event));
  }

  const std::shared_ptr<MpiNode::State> node_;
  const int bell_;
  bool asleep_ = false;
  bool waits_ = true;  ///< the owner found nothing and may sleep
  bool rung_ = false;
  std::uint64_t last_connection_ = 0;
  std::uint64_t malformed_ = 0;
  std::map<ConnectionId, Connection> connections_;
  std::deque<TransportEvent> events_;
  std::set<std::uint64_t> entered_;  ///< broadcasts that will say their end
};

}  // namespace

// --- sending ----------------------------------------------------------------------------------------

void MpiNode::State::send_packet(int to, PacketHead head, const Frames& frames) {
  head.frames = frames.size();
  if (to == rank) {  // another transport of this process
    arrived(rank, {head, frames, {}});
    return;
  }
  std::size_t bytes = sizeof head + 8 * frames.size();
  for (const Frame& frame : frames) bytes += frame.size() <= kInlineBytes ? frame.size() : 0;
  std::string packet;
  packet.reserve(bytes);
  packet.append(reinterpret_cast<const char*>(&head), sizeof head);
  for (const Frame& frame : frames) {
    const std::uint64_t frame_bytes = frame.size();
    packet.append(reinterpret_cast<const char*>(&frame_bytes), sizeof frame_bytes);
  }
  for (const Frame& frame : frames) {
    if (frame.size() <= kInlineBytes) packet.append(frame.view());
  }
  if (Bell* bell = bells[static_cast<std::size_t>(to)]) bell->packets.fetch_add(1);
  post(to, kPacketTag, Frame(std::move(packet)));
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
  MPI_Isend(held.data(), static_cast<int>(held.size()), MPI_BYTE, to, tag, comm, &out.request);
  int sent = 0;
  MPI_Test(&out.request, &sent, MPI_STATUS_IGNORE);
  if (sent != 0) return;
  out.held = std::move(held);
  outgoing.push_back(std::move(out));
  wake_thread();
}

// --- receiving --------------------------------------------------------------------------------------

/// Result: false if nothing has arrived.
bool MpiNode::State::receive_packet() {
  int there = 0;
  MPI_Message matched;
  MPI_Status status;
  MPI_Improbe(MPI_ANY_SOURCE, kPacketTag, comm, &there, &matched, &status);
  if (there == 0) return false;
  ++packets_received;
  int packet_size = 0;
  MPI_Get_count(&status, MPI_BYTE, &packet_size);
  std::string bytes(static_cast<std::size_t>(packet_size), '\0');
  MPI_Mrecv(bytes.data(), packet_size, MPI_BYTE, &matched, MPI_STATUS_IGNORE);

  const Frame packet(std::move(bytes));
  Incoming in;
  BB_CHECK(packet.size() >= sizeof in.head);
  std::memcpy(&in.head, packet.data(), sizeof in.head);
  BB_CHECK(in.head.frames <= kMaxFrames + 1 && packet.size() >= sizeof in.head + 8 * in.head.frames);
  std::size_t at = sizeof in.head + 8 * in.head.frames;
  for (std::uint64_t i = 0; i < in.head.frames; ++i) {
    std::uint64_t frame_size = 0;
    std::memcpy(&frame_size, packet.data() + sizeof in.head + 8 * i, sizeof frame_size);
    if (frame_size <= kInlineBytes) {
      BB_CHECK(frame_size <= packet.size() - at);
      in.frames.push_back(packet.slice(at, frame_size));
      at += frame_size;
      continue;
    }
    BB_CHECK(frame_size <= kMaxFrameBytes);
    auto block = memory->take(frame_size);
    for (std::size_t part = 0; part < frame_size; part += kPartBytes) {
      MPI_Irecv(block.get() + part, static_cast<int>(std::min<std::size_t>(kPartBytes, frame_size - part)),
                MPI_BYTE, status.MPI_SOURCE, kFrameTag, comm, &in.requests.emplace_back());
    }
    const std::byte* data = block.get();
    in.frames.emplace_back(std::shared_ptr<const void>(std::move(block)), data, frame_size);
  }
  auto& queue = incoming[static_cast<std::size_t>(status.MPI_SOURCE)];
  if (queue.empty() && in.requests.empty()) {
    arrived(status.MPI_SOURCE, std::move(in));
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
    int complete = 0;
    auto& requests = queue.front().requests;
    MPI_Testall(static_cast<int>(requests.size()), requests.data(), &complete, MPI_STATUSES_IGNORE);
    if (complete == 0) break;
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
    const auto listener = listeners.find(std::string(packet.frames.at(0).view()));
    if (listener == listeners.end()) {
      send_packet(source, {PacketKind::kClose, 0, key.number, 0}, {});
    } else if (found == ends.end()) {
      listener->second->accept(key);
    }
    return;
  }
  if (found == ends.end()) return;  // closed here meanwhile
  const End end = found->second;
  if (packet.head.kind == PacketKind::kMessage && !packet.frames.empty()) {
    end.transport->deliver(end.id, std::move(packet.frames));
  } else {
    end.transport->closed_by_peer(end.id, "the peer is gone, or nobody listens there");
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
    int sent = 0;
    MPI_Test(&out->request, &sent, MPI_STATUS_IGNORE);
    out = sent != 0 ? outgoing.erase(out) : std::next(out);
    any = any || sent != 0;
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

std::shared_ptr<MpiNode> MpiNode::start(int* argc, char*** argv) {
  int level = MPI_THREAD_SINGLE;
  if (MPI_Init_thread(argc, argv, MPI_THREAD_MULTIPLE, &level) != MPI_SUCCESS) fail("it does not start");
  if (level < MPI_THREAD_MULTIPLE) fail("this MPI library gives no MPI_THREAD_MULTIPLE; BetterBox needs it");
  auto state = std::make_shared<State>();
  MPI_Comm_dup(MPI_COMM_WORLD, &state->comm);
  MPI_Comm_rank(state->comm, &state->rank);
  MPI_Comm_size(state->comm, &state->size);
  state->incoming.resize(static_cast<std::size_t>(state->size));
  state->bells.resize(static_cast<std::size_t>(state->size));

  MPI_Comm node = MPI_COMM_NULL;
  MPI_Comm_split_type(state->comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
  int node_rank = 0, node_size = 1;
  MPI_Comm_rank(node, &node_rank);
  MPI_Comm_size(node, &node_size);
  state->one_node = node_size == state->size;
  void* mine = nullptr;
  MPI_Win_allocate_shared(sizeof(Bell), 1, MPI_INFO_NULL, node, &mine, &state->bells_window);
  new (mine) Bell;
  MPI_Barrier(node);
  std::vector<int> ranks(static_cast<std::size_t>(node_size));
  MPI_Allgather(&state->rank, 1, MPI_INT, ranks.data(), 1, MPI_INT, node);
  for (int i = 0; i < node_size; ++i) {
    MPI_Aint bytes = 0;
    int unit = 0;
    void* address = nullptr;
    MPI_Win_shared_query(state->bells_window, i, &bytes, &unit, &address);
    state->bells[static_cast<std::size_t>(ranks[static_cast<std::size_t>(i)])] = static_cast<Bell*>(address);
  }
  std::vector<int> node_of(static_cast<std::size_t>(state->size));
  if (state->one_node) state->doors = MpiDoors::open(state->comm);
  cpu_set_t cpus{};
  ::sched_getaffinity(0, sizeof cpus, &cpus);
  MPI_Allreduce(&cpus, &state->node_cpus, sizeof cpus, MPI_BYTE, MPI_BOR, node);
  state->cpus_elsewhere = CPU_COUNT(&state->node_cpus) > CPU_COUNT(&cpus);
  const int first = *std::min_element(ranks.begin(), ranks.end());
  MPI_Allgather(&first, 1, MPI_INT, node_of.data(), 1, MPI_INT, state->comm);
  MPI_Comm_free(&node);

  State* self = state.get();  // outlives the thread: the destructor joins it
  state->broadcasts = std::make_unique<MpiBroadcasts>(MpiBroadcasts::Job{
      state->comm, state->rank, std::move(node_of),
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

std::unique_ptr<Transport> MpiNode::make_transport() { return std::make_unique<MpiTransport>(state_); }

void MpiNode::abort(int code) {
  MPI_Abort(MPI_COMM_WORLD, code);
  std::abort();
}

bool MpiNode::finish(Duration patience) {
  State& state = *state_;
  const TimePoint deadline = monotonic_now() + patience;
  MPI_Request barrier = MPI_REQUEST_NULL;
  {
    const std::lock_guard lock(state.mutex);
    state.broadcasts->give_up_all();
  }
  for (bool all_here = false; !all_here;) {
    {
      const std::lock_guard lock(state.mutex);
      state.progress();
      if (barrier == MPI_REQUEST_NULL && state.all_quiet()) MPI_Ibarrier(state.comm, &barrier);
      int here = 0;
      if (barrier != MPI_REQUEST_NULL) MPI_Test(&barrier, &here, MPI_STATUS_IGNORE);
      all_here = here != 0;
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
  MPI_Win_free(&state.bells_window);
  MPI_Comm_free(&state.comm);
  MPI_Finalize();
  return true;
}

}  // namespace betterbox
