// Arenas and rings between an agent and its slots (runtime/shm.h; docs/decisions/0002).
//
// Nothing is lost between "look" and "sleep". Every wait here is one half of a Dekker pair:
//   the sleeper   stores its wish (slot_waits, agent_waits, agent_wants_bell), full fence, looks once
//                 more at head or tail, sleeps only if there is still nothing to do;
//   the other     stores head or tail, full fence, looks at the wish, wakes if it is set.
// With a full fence between store and load on both sides, one of them sees the other's store. The
// futex value `signal` is read before the wish is stored, and changed before the wake-up, so a
// wake-up that comes before the sleep makes the sleep return at once.
#include "runtime/shm.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <ctime>
#include <new>
#include <system_error>
#include <utility>

#include "runtime/check.h"
#include "runtime/fork_count.h"

namespace betterbox {
namespace {

constexpr std::uint64_t kArenaMagic = 0x31414E4552414242ULL;  // "BBARENA1"
constexpr std::size_t kHeaderSpace = (sizeof(ArenaHeader) + 4095) / 4096 * 4096;
constexpr std::size_t kArenaBytes = kHeaderSpace + kInboxBytes + kExpressBytes + kOutboxBytes;

constexpr std::size_t padding_of(std::uint64_t size) { return static_cast<std::size_t>(-size & 7U); }
constexpr std::byte kZeros[8] = {};
/// Memory for a record up to this size is taken at once.
constexpr std::uint64_t kTrustedBytes = 64U << 20;

/// Sleeps while `word` holds `seen`, at most until `deadline`; may return early (signals).
void futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t seen, TimePoint deadline) {
  timespec until{};
  const bool bounded = deadline != TimePoint::never();
  if (bounded) {
    until.tv_sec = static_cast<time_t>(std::max<std::int64_t>(deadline.ns, 0) / 1'000'000'000);
    until.tv_nsec = static_cast<long>(std::max<std::int64_t>(deadline.ns, 0) % 1'000'000'000);
  }
  // The absolute deadline of FUTEX_WAIT_BITSET is on CLOCK_MONOTONIC, as monotonic_now().
  ::syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), FUTEX_WAIT_BITSET, seen,
            bounded ? &until : nullptr, nullptr, FUTEX_BITSET_MATCH_ANY);
}

void futex_wake(std::atomic<std::uint32_t>& word) {
  ::syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

void write_bell(int bell_fd) {
  const std::uint64_t one = 1;
  // Fails only when the counter is full: the agent has been rung then.
  [[maybe_unused]] const ssize_t written = ::write(bell_fd, &one, sizeof one);
}

void ring_if_wanted(ArenaHeader& arena, int bell_fd, Bell wanted) {
  const auto least = static_cast<std::uint32_t>(wanted);
  if (arena.agent_wants_bell.load(std::memory_order_relaxed) >= least &&
      arena.agent_wants_bell.exchange(0, std::memory_order_relaxed) != 0) {
    write_bell(bell_fd);
  }
}

std::uint64_t used_bytes(const RingHeader& ring) {
  return ring.head.load(std::memory_order_acquire) - ring.tail.load(std::memory_order_acquire);
}

/// Copies into the ring at byte position `at`, around its end.
void copy_in(std::byte* data, std::uint64_t capacity, std::uint64_t at, const void* from, std::size_t size) {
  if (size == 0) return;  // an empty frame has no address
  const std::size_t offset = at & (capacity - 1);
  const std::size_t first = std::min<std::size_t>(size, capacity - offset);
  std::memcpy(data + offset, from, first);
  if (first < size) std::memcpy(data, static_cast<const std::byte*>(from) + first, size - first);
}

void copy_out(const std::byte* data, std::uint64_t capacity, std::uint64_t at, void* to, std::size_t size) {
  const std::size_t offset = at & (capacity - 1);
  const std::size_t first = std::min<std::size_t>(size, capacity - offset);
  std::memcpy(to, data + offset, first);
  if (first < size) std::memcpy(static_cast<std::byte*>(to) + first, data, size - first);
}

std::uint64_t make_nonce() {
  std::uint64_t nonce = 0;
  [[maybe_unused]] const auto got = ::getrandom(&nonce, sizeof nonce, 0);  // only to tell mistakes apart
  return nonce;
}

std::system_error failed(const char* what) { return std::system_error(errno, std::generic_category(), what); }

ArenaHeader* make_header(void* memory) {
  auto* header = new (memory) ArenaHeader;
  header->inbox.capacity = kInboxBytes;
  header->express.capacity = kExpressBytes;
  header->outbox.capacity = kOutboxBytes;
  header->bell.magic = kBellMagic;
  header->bell.nonce = make_nonce();
  header->magic = kArenaMagic;
  return header;
}

}  // namespace

// --- waking -------------------------------------------------------------------------------------

/// Whoever wakes may die or be stopped anywhere in here. So the wish is taken back last, when the slot has been woken:
/// until then the next one sees it. (It is taken back so that a slot which has not come to run yet is not woken again
/// for each record.) Each sleep has a number for its wish: that of a later one stays.
void wake_slot(SlotBell& bell) {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  std::uint32_t wish = bell.slot_waits.load(std::memory_order_relaxed);
  if (wish == 0) return;
  bell.signal.fetch_add(1, std::memory_order_release);
  futex_wake(bell.signal);
  bell.slot_waits.compare_exchange_strong(wish, 0, std::memory_order_relaxed);
}

void force_wake_slot(SlotBell& bell) {
  bell.signal.fetch_add(1, std::memory_order_release);
  futex_wake(bell.signal);
}

/// Two sleeps have the same number only if nobody changed the signal between them: then who wakes for the first wakes
/// the second.
bool slot_sleep(SlotBell& bell, TimePoint deadline, const std::function<bool()>& ready) {
  const std::uint32_t seen = bell.signal.load(std::memory_order_acquire);
  bell.slot_waits.store(2 * seen + 1, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (!ready()) futex_wait(bell.signal, seen, deadline);
  bell.slot_waits.store(0, std::memory_order_relaxed);
  return ready();
}

// --- arena --------------------------------------------------------------------------------------

SlotArena SlotArena::create() {
  SlotArena arena;
  arena.fd_ = ::memfd_create("betterbox-slot", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (arena.fd_ < 0) throw failed("memory file for a slot");
  if (::ftruncate(arena.fd_, kArenaBytes) != 0 || ::fcntl(arena.fd_, F_ADD_SEALS, F_SEAL_SHRINK) != 0) {
    throw failed("size of a slot's memory file");
  }
  void* memory = ::mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE, MAP_SHARED, arena.fd_, 0);
  if (memory == MAP_FAILED) throw failed("mapping a slot's memory file");
  arena.mapped(memory);
  arena.header_ = make_header(memory);
  arena.data_ = static_cast<std::byte*>(memory) + kHeaderSpace;
  return arena;
}

SlotArena SlotArena::attach(int fd) {
  SlotArena arena;
  arena.fd_ = fd;
  void* memory = ::mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) throw failed("mapping a slot's memory file");
  arena.mapped(memory);
  arena.header_ = std::launder(static_cast<ArenaHeader*>(memory));
  arena.data_ = static_cast<std::byte*>(memory) + kHeaderSpace;
  BB_CHECK(arena.header_->magic == kArenaMagic);
  return arena;
}

SlotArena SlotArena::create_private() {
  SlotArena arena;
  void* memory = ::mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw failed("memory for a slot");
  arena.mapped(memory);
  arena.header_ = make_header(memory);
  arena.data_ = static_cast<std::byte*>(memory) + kHeaderSpace;
  return arena;
}

void SlotArena::mapped(void* memory) {
  mapped_ = kArenaBytes;
  forks_ = fork_count();
  ::madvise(memory, kArenaBytes, MADV_DONTFORK);
}

SlotArena::SlotArena(SlotArena&& other) noexcept
    : header_(std::exchange(other.header_, nullptr)),
      data_(std::exchange(other.data_, nullptr)),
      mapped_(std::exchange(other.mapped_, 0)),
      forks_(other.forks_),
      fd_(std::exchange(other.fd_, -1)) {}

SlotArena& SlotArena::operator=(SlotArena&& other) noexcept {
  std::swap(header_, other.header_);
  std::swap(data_, other.data_);
  std::swap(mapped_, other.mapped_);
  std::swap(forks_, other.forks_);
  std::swap(fd_, other.fd_);
  return *this;
}

SlotArena::~SlotArena() {
  if (mapped_ != 0 && forks_ == fork_count()) ::munmap(header_, mapped_);
  close_fd();
}

void SlotArena::close_fd() {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

// --- agent to slot ------------------------------------------------------------------------------

std::uint64_t RingWriter::room() const {
  const std::uint64_t used = head_ - ring_.tail.load(std::memory_order_acquire);
  return used > capacity_ ? 0 : capacity_ - used;  // more: a slot wrote over its arena
}

void RingWriter::push(std::uint32_t kind, std::string head, Frames tail) {
  std::uint64_t size = head.size();
  for (const Frame& frame : tail) size += frame.size();
  const RecordHeader header{kind, 0, size};
  const std::size_t padding = padding_of(size);
  const std::uint64_t whole = sizeof header + size + padding;

  if (pending_.empty() && whole <= room()) {
    std::uint64_t to = head_;
    auto put = [&](const void* from, std::size_t bytes) {
      copy_in(data_, capacity_, to, from, bytes);
      to += bytes;
    };
    put(&header, sizeof header);
    put(head.data(), head.size());
    for (const Frame& frame : tail) put(frame.data(), frame.size());
    put(kZeros, padding);
    head_ = to;
    ring_.head.store(to, std::memory_order_release);
    return;
  }

  head.insert(0, reinterpret_cast<const char*>(&header), sizeof header);
  pending_.emplace_back(std::move(head));
  for (Frame& frame : tail) {
    if (!frame.empty()) pending_.push_back(std::move(frame));
  }
  if (padding != 0) pending_.emplace_back(std::string(padding, '\0'));
  queued_ += whole;
}

bool RingWriter::flush() {
  auto move_what_fits = [this] {
    while (!pending_.empty()) {
      const std::uint64_t fits = room();
      if (fits == 0) break;
      const Frame& frame = pending_.front();
      const std::size_t bytes = std::min<std::size_t>(fits, frame.size() - offset_);
      copy_in(data_, capacity_, head_, frame.data() + offset_, bytes);
      head_ += bytes;
      offset_ += bytes;
      queued_ -= bytes;
      ring_.head.store(head_, std::memory_order_release);
      if (offset_ == frame.size()) {
        pending_.pop_front();
        offset_ = 0;
      }
    }
  };
  move_what_fits();
  if (!pending_.empty()) {
    ring_.agent_waits.store(1, std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    move_what_fits();
    if (pending_.empty()) ring_.agent_waits.store(0, std::memory_order_relaxed);
  }
  wake_slot(bell_);
  return pending_.empty();
}

bool SlotInbox::wait(TimePoint deadline) {
  if (has_bytes()) return true;
  return slot_sleep(bell_, deadline, [this] { return has_bytes(); });
}

void SlotInbox::read_bytes(void* to, std::size_t size) {
  auto* out = static_cast<std::byte*>(to);
  while (size > 0) {
    const std::uint64_t at = ring_.tail.load(std::memory_order_relaxed);
    const std::uint64_t there = ring_.head.load(std::memory_order_acquire) - at;
    BB_CHECK(there <= kInboxBytes);  // else user code wrote over it
    if (there == 0) {
      wait(TimePoint::never());
      continue;
    }
    const std::size_t bytes = std::min<std::size_t>(there, size);
    copy_out(data_, ring_.capacity, at, out, bytes);
    ring_.tail.store(at + bytes, std::memory_order_release);
    out += bytes;
    size -= bytes;
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (ring_.agent_waits.load(std::memory_order_relaxed) != 0 &&
        ring_.agent_waits.exchange(0, std::memory_order_relaxed) != 0) {
      write_bell(bell_fd_);
    }
  }
}

void SlotInbox::read(Record& record) {
  RecordHeader header;
  read_bytes(&header, sizeof header);
  record.kind = header.kind;
  BB_CHECK(header.size <= kMaxFrameBytes);
  record.payload.clear();
  record.payload.reserve(std::min<std::uint64_t>(header.size, kTrustedBytes));
  while (record.payload.size() <
         header.size) {  // grows with what comes: what a size only claims costs nothing
    const std::size_t before = record.payload.size();
    record.payload.resize(before + std::min<std::uint64_t>(header.size - before, kInboxBytes));
    read_bytes(record.payload.data() + before, record.payload.size() - before);
  }
  std::byte skipped[8];
  read_bytes(skipped, padding_of(header.size));
}

// --- slot to agent ------------------------------------------------------------------------------

bool SlotOutbox::fits(std::size_t size) const {
  return sizeof(RecordHeader) + size + padding_of(size) <= ring_.capacity - used_bytes(ring_);
}

void SlotOutbox::write(std::uint32_t kind, std::initializer_list<std::span<const std::byte>> parts) {
  std::uint64_t size = 0;
  for (const auto& part : parts) size += part.size();
  const RecordHeader header{kind, 0, size};
  const std::uint64_t head = ring_.head.load(std::memory_order_relaxed);
  BB_CHECK(used_bytes(ring_) <= ring_.capacity);  // else user code wrote over it
  if (fits(size)) {                               // the reader sees it whole
    std::uint64_t at = head;
    const auto put = [&](const void* from, std::size_t bytes) {
      copy_in(data_, ring_.capacity, at, from, bytes);
      at += bytes;
    };
    put(&header, sizeof header);
    for (const auto& part : parts) put(part.data(), part.size());
    put(kZeros, padding_of(size));
    ring_.head.store(at, std::memory_order_release);
    return;
  }
  write_bytes(&header, sizeof header);
  for (const auto& part : parts) write_bytes(part.data(), part.size());
  write_bytes(kZeros, padding_of(size));
}

void SlotOutbox::write_bytes(const void* from, std::size_t size) {
  const auto* in = static_cast<const std::byte*>(from);
  while (size > 0) {
    const std::uint64_t at = ring_.head.load(std::memory_order_relaxed);
    const std::uint64_t room = ring_.capacity - (at - ring_.tail.load(std::memory_order_acquire));
    BB_CHECK(room <= ring_.capacity);
    if (room == 0) {
      // Until half of it is free: slot and agent take turns by many records, not by one.
      ring_bell();
      slot_sleep(ring_.bell, TimePoint::never(), [this] { return used_bytes(ring_) <= ring_.capacity / 2; });
      continue;
    }
    const std::size_t bytes = std::min<std::size_t>(room, size);
    copy_in(data_, ring_.capacity, at, in, bytes);
    ring_.head.store(at + bytes, std::memory_order_release);
    in += bytes;
    size -= bytes;
  }
}

void SlotOutbox::ring_bell(bool urgent) {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  ring_if_wanted(urgent ? Bell::kUrgent : Bell::kAny);
}

void SlotOutbox::ring_bell_after_claim() {
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
  std::atomic_signal_fence(std::memory_order_seq_cst);  // for the compiler; the machine has had its own
#else
  std::atomic_thread_fence(std::memory_order_seq_cst);
#endif
  ring_if_wanted(Bell::kAny);
}

void SlotOutbox::ring_if_wanted(Bell wanted) { betterbox::ring_if_wanted(arena_, bell_fd_, wanted); }

void ring_agent(ArenaHeader& arena, int bell_fd) {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  ring_if_wanted(arena, bell_fd, Bell::kUrgent);
}

bool RingReader::has_bytes() const {
  const std::uint64_t there = ring_.head.load(std::memory_order_acquire) - at_;
  return there != 0 && there <= capacity_ && !broken_;
}

bool RingReader::next(Record& record) {
  std::uint64_t& at = at_;
  bool complete = false;
  while (!broken_) {
    const std::uint64_t there = ring_.head.load(std::memory_order_acquire) - at;
    broken_ = there > capacity_;
    if (broken_) break;
    const std::size_t wanted =
        in_record_ ? partial_.size + padding_of(partial_.size) - got_ : sizeof partial_ - got_;
    const std::size_t bytes = std::min<std::size_t>(there, wanted);
    if (bytes < wanted && bytes == 0) break;
    if (!in_record_) {
      copy_out(data_, capacity_, at, reinterpret_cast<std::byte*>(&partial_) + got_, bytes);
      at += bytes;
      got_ += bytes;
      if (got_ < sizeof partial_) break;
      in_record_ = true;
      got_ = 0;
      payload_.clear();
      broken_ = partial_.size > kMaxFrameBytes;
      if (broken_) break;
      if (partial_.size == 0) {
        complete = true;
        break;
      }
      continue;
    }
    // Grows with what is there: a size that the slot's memory only claims costs nothing.
    if (got_ < partial_.size) {
      const std::size_t useful = std::min<std::size_t>(bytes, partial_.size - got_);
      const std::size_t before = payload_.size();
      if (before == 0) payload_.reserve(std::min<std::size_t>(partial_.size, kPageBytes));
      payload_.resize(before + useful);
      copy_out(data_, capacity_, at, payload_.data() + before, useful);
    }
    at += bytes;
    got_ += bytes;
    if (got_ == partial_.size + padding_of(partial_.size)) {
      complete = true;
      break;
    }
  }
  // The room is given back by large pieces: a store, a fence and perhaps a wake-up for many records.
  if (at != published_ && (!complete || at - published_ >= capacity_ / 8)) publish();
  if (!complete) return false;
  in_record_ = false;
  got_ = 0;
  record.kind = partial_.kind;
  std::swap(record.payload, payload_);
  return true;
}

void RingReader::publish() {
  published_ = at_;
  ring_.tail.store(at_, std::memory_order_release);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (ring_.head.load(std::memory_order_acquire) - at_ <= capacity_ / 2) wake_slot(ring_.bell);
}

}  // namespace betterbox
