// Lanes between a client and a slot (runtime/lane.h).
//
// Sleeping and waking are Dekker pairs as in runtime/shm.cc: wish, full fence, look, sleep; record, full fence, look at
// the wish, wake.
#include "runtime/lane.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <string>
#include <utility>

#include "runtime/fork_count.h"

namespace betterbox {
namespace {

constexpr std::uint64_t kLaneMagic = 0x31454E414C424242ULL;
constexpr std::size_t kLaneHeaderSpace = (sizeof(LaneHeader) + 4095) / 4096 * 4096;
constexpr std::size_t kLaneBytes = kLaneHeaderSpace + 2 * kLaneRingBytes;
/// A file that cannot become shorter: reading what is mapped cannot fault.
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW;

SharedPiece map(int fd, std::size_t size) {
  void* memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  return memory == MAP_FAILED ? SharedPiece() : SharedPiece(memory, size);
}

int open_descriptor(std::uint32_t pid, std::uint32_t fd, int flags) {
  const std::string path = "/proc/" + std::to_string(pid) + "/fd/" + std::to_string(fd);
  return ::open(path.c_str(), flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
}

/// The first `size` bytes of another process's sealed memory file.
SharedPiece open_piece(std::uint32_t pid, std::uint32_t fd, std::size_t size) {
  const int own = open_descriptor(pid, fd, O_RDWR);
  if (own < 0) return {};
  struct stat status {};
  SharedPiece piece;
  if (::fstat(own, &status) == 0 && S_ISREG(status.st_mode) &&
      static_cast<std::size_t>(status.st_size) >= size && (::fcntl(own, F_GET_SEALS) & F_SEAL_SHRINK) != 0) {
    piece = map(own, size);
  }
  ::close(own);
  return piece;
}

std::byte* rings_of(const SharedPiece& piece) {
  return static_cast<std::byte*>(piece.data()) + kLaneHeaderSpace;
}

}  // namespace

// --- pieces -------------------------------------------------------------------------------------

SharedPiece::SharedPiece(void* data, std::size_t size) : data_(data), size_(size), forks_(fork_count()) {
  ::madvise(data, size, MADV_DONTFORK);
}

SharedPiece::SharedPiece(SharedPiece&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      forks_(other.forks_) {}

SharedPiece& SharedPiece::operator=(SharedPiece&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(forks_, other.forks_);
  return *this;
}

SharedPiece::~SharedPiece() {
  if (data_ != nullptr && forks_ == fork_count()) ::munmap(data_, size_);
}

// --- rings --------------------------------------------------------------------------------------

bool LaneRing::write(LaneRecord kind, std::initializer_list<std::span<const std::byte>> parts) {
  std::size_t size = 0;
  for (const auto& part : parts) size += part.size();
  const std::uint64_t whole = sizeof(RecordHeader) + (size + 7) / 8 * 8;
  std::uint64_t at = own_.load(std::memory_order_relaxed);
  const std::uint64_t used = at - counters_.tail.load(std::memory_order_acquire);
  if (used > kLaneRingBytes) give_up();
  if (broken() || whole > kLaneRingBytes - used) return false;
  const auto put = [&](const void* from, std::size_t bytes) {
    if (bytes == 0) return;
    const std::size_t offset = at & (kLaneRingBytes - 1);
    const std::size_t first = std::min(bytes, kLaneRingBytes - offset);
    std::memcpy(data_ + offset, from, first);
    if (first < bytes) std::memcpy(data_, static_cast<const std::byte*>(from) + first, bytes - first);
    at += bytes;
  };
  const std::uint64_t end = at + whole;
  const RecordHeader header{static_cast<std::uint32_t>(kind), 0, size};
  put(&header, sizeof header);
  for (const auto& part : parts) put(part.data(), part.size());
  own_.store(end, std::memory_order_relaxed);
  counters_.head.store(end, std::memory_order_release);
  return true;
}

bool LaneRing::read(Record& record) {
  const std::uint64_t at = own_.load(std::memory_order_relaxed);
  const std::uint64_t there = counters_.head.load(std::memory_order_acquire) - at;
  if (there == 0 || broken()) return false;
  const auto get = [&](std::uint64_t from, void* to, std::size_t bytes) {
    const std::size_t offset = from & (kLaneRingBytes - 1);
    const std::size_t first = std::min(bytes, kLaneRingBytes - offset);
    std::memcpy(to, data_ + offset, first);
    if (first < bytes) std::memcpy(static_cast<std::byte*>(to) + first, data_, bytes - first);
  };
  RecordHeader header;
  if (there >= sizeof header && there <= kLaneRingBytes) get(at, &header, sizeof header);
  if (there < sizeof header || there > kLaneRingBytes || header.size > there - sizeof header) {
    give_up();
    return false;
  }
  record.kind = header.kind;
  record.payload.resize(header.size);
  get(at + sizeof header, record.payload.data(), header.size);
  const std::uint64_t next = at + sizeof header + (header.size + 7) / 8 * 8;
  own_.store(next, std::memory_order_relaxed);
  counters_.tail.store(next, std::memory_order_release);
  return true;
}

// --- the client's end ---------------------------------------------------------------------------

std::unique_ptr<ClientLane> ClientLane::create(int pipe_fd) {
  const int fd = ::memfd_create("betterbox-lane", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return nullptr;
  SharedPiece piece;
  if (::ftruncate(fd, kLaneBytes) == 0 && ::fcntl(fd, F_ADD_SEALS, kSeals) == 0) piece = map(fd, kLaneBytes);
  if (piece.data() == nullptr) {
    ::close(fd);
    return nullptr;
  }
  auto* header = new (piece.data()) LaneHeader;
  [[maybe_unused]] const auto got = ::getrandom(&header->nonce, sizeof header->nonce, 0);
  header->client_pid = static_cast<std::uint32_t>(::getpid());
  header->client_pipe = static_cast<std::uint32_t>(pipe_fd);
  header->magic = kLaneMagic;
  return std::unique_ptr<ClientLane>(new ClientLane(std::move(piece), fd));
}

ClientLane::ClientLane(SharedPiece piece, int fd)
    : piece_(std::move(piece)),
      fd_(fd),
      header_(std::launder(static_cast<LaneHeader*>(piece_.data()))),
      requests_(header_->requests, rings_of(piece_)),
      replies_(header_->replies, rings_of(piece_) + kLaneRingBytes) {}

ClientLane::~ClientLane() { ::close(fd_); }

bool ClientLane::up() {
  if (bell_ != nullptr) return true;
  if (hopeless_ || header_->up.load(std::memory_order_acquire) == 0) return false;
  bell_piece_ = open_piece(header_->slot_pid, header_->slot_fd, kBellBytes);
  auto* bell = std::launder(static_cast<SlotBell*>(bell_piece_.data()));
  if (bell != nullptr && bell->magic == kBellMagic && bell->nonce == header_->slot_nonce) {
    bell_ = bell;
  } else {
    hopeless_ = true;
  }
  return bell_ != nullptr;
}

bool ClientLane::send(LaneRecord kind, std::initializer_list<std::span<const std::byte>> parts) {
  if (!requests_.write(kind, parts)) return false;
  wake_slot(*bell_);
  return true;
}

/// A slot that replies by way of its agent says so (`through_agent`): such a reply may take its time.
bool ClientLane::slot_attends() {
  if (bell_ == nullptr) return true;
  if (!requests_.read_up()) {
    force_wake_slot(*bell_);
    slept_ = 0;
    return true;
  }
  const std::uint64_t wish = bell_->slot_waits.load(std::memory_order_acquire);
  const bool idle =
      wish != 0 && !replies_.has_bytes() && header_->through_agent.load(std::memory_order_acquire) == 0;
  const std::uint64_t sleep = idle ? wish << 32 | bell_->signal.load(std::memory_order_acquire) : 0;
  const bool attends = sleep == 0 || sleep != slept_;
  slept_ = sleep;
  return attends;
}

void ClientLane::want_bell(bool wanted) {
  header_->client_wants_bell.store(wanted ? 1 : 0, std::memory_order_relaxed);
  if (wanted) std::atomic_thread_fence(std::memory_order_seq_cst);
}

// --- the slot's end -----------------------------------------------------------------------------

std::unique_ptr<SlotLane> SlotLane::open(std::uint32_t pid, std::uint32_t fd, std::uint64_t nonce,
                                         SlotArena& arena) {
  if (arena.fd() < 0) return nullptr;
  SharedPiece piece = open_piece(pid, fd, kLaneBytes);
  if (piece.data() == nullptr) return nullptr;
  auto* header = std::launder(static_cast<LaneHeader*>(piece.data()));
  if (header->magic != kLaneMagic || header->nonce != nonce) return nullptr;
  // For reading, too: so writing never meets a pipe without a reader, which would be a signal.
  const int pipe_fd = open_descriptor(pid, header->client_pipe, O_RDWR);
  struct stat status {};
  if (pipe_fd < 0) return nullptr;
  if (::fstat(pipe_fd, &status) != 0 || !S_ISFIFO(status.st_mode)) {
    ::close(pipe_fd);
    return nullptr;
  }
  header->slot_pid = static_cast<std::uint32_t>(::getpid());
  header->slot_fd = static_cast<std::uint32_t>(arena.fd());
  header->slot_nonce = arena.header().bell.nonce;
  header->up.store(1, std::memory_order_release);
  return std::unique_ptr<SlotLane>(new SlotLane(std::move(piece), pipe_fd));
}

SlotLane::SlotLane(SharedPiece piece, int pipe_fd)
    : piece_(std::move(piece)),
      pipe_fd_(pipe_fd),
      header_(std::launder(static_cast<LaneHeader*>(piece_.data()))),
      requests_(header_->requests, rings_of(piece_)),
      replies_(header_->replies, rings_of(piece_) + kLaneRingBytes) {}

SlotLane::~SlotLane() { ::close(pipe_fd_); }

bool SlotLane::reply(LaneRecord kind, std::initializer_list<std::span<const std::byte>> parts) {
  if (!replies_.write(kind, parts)) return false;
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (header_->client_wants_bell.load(std::memory_order_relaxed) != 0 &&
      header_->client_wants_bell.exchange(0, std::memory_order_relaxed) != 0) {
    const char ring = 1;
    [[maybe_unused]] const auto written = ::write(pipe_fd_, &ring, 1);  // full: it has been rung
  }
  return true;
}

// --- spinning -----------------------------------------------------------------------------------

namespace {
bool own_cpus = false;
}  // namespace

void Spinner::peers_have_their_own_cpus() { own_cpus = true; }

Spinner::Spinner() {
  cpu_set_t cpus;
  allowed_ = own_cpus || (::sched_getaffinity(0, sizeof cpus, &cpus) == 0 && CPU_COUNT(&cpus) > 1);
}

}  // namespace betterbox
