// Shared memory between an agent and a slot: one arena per seat, with the range words of the slot's
// leases and a byte ring each way (docs/decisions/0002).
//
// An arena is an anonymous memory file (memfd) that both sides map, or plain memory when the slot is
// a thread of the same process. Nothing has a name in a file system, so nothing can be left behind.
//
// ByteRing: single producer, single consumer, a stream of records {u32 kind, u32 reserved, u64 size,
// payload padded to 8}. A record may be larger than the ring: the producer writes it in pieces as the
// consumer makes room. `head` (bytes written) is stored with release after the bytes, `tail` (bytes
// read) with release after they were copied out; each side loads the other's with acquire. What the
// producer had published when it died can still be read.
//
// Waking. A slot waits on a futex in the arena; the agent waits in poll() on one eventfd that all its
// slots share, which a slot writes only while the agent asked for it (`agent_wants_bell`).
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "runtime/frame.h"
#include "runtime/limits.h"
#include "runtime/range_word.h"
#include "runtime/strip.h"
#include "runtime/time.h"

namespace betterbox {

/// What a slot rings for: while outcomes come fast the agent looks by itself, but hears at once of a lease that is
/// used up, a reply, or a ring without room.
enum class Bell : std::uint32_t { kNone = 0, kUrgent = 1, kAny = 2 };

/// What wakes a slot. The one of its inbox has a page of the arena to itself, which clients with a lane map, too
/// (runtime/lane.h).
struct SlotBell {
  alignas(64) std::atomic<std::uint32_t> signal{0};  ///< futex: changed to wake the slot
  std::atomic<std::uint32_t> slot_waits{0};          ///< not 0: the slot sleeps on `signal`
  std::uint64_t magic = 0, nonce = 0;                ///< of the inbox's bell: who maps it checks them
};
inline constexpr std::size_t kBellBytes = 4096;
inline constexpr std::uint64_t kBellMagic = 0x314C4C4542414242ULL;

/// Wakes the slot if it sleeps. To be called after the store that the slot is to see.
void wake_slot(SlotBell& bell);
/// The same whatever the slot's wish says: it may have been written over.
void force_wake_slot(SlotBell& bell);
/// The slot sleeps until `ready()` or the deadline. Result: ready(). Hold no GIL.
bool slot_sleep(SlotBell& bell, TimePoint deadline, const std::function<bool()>& ready);

struct ArenaHeader;
/// Wakes the agent if it wants to be. To be called after the store that it is to see.
void ring_agent(ArenaHeader& arena, int bell_fd);

/// The shared part of a ring. All counters count bytes since the arena was made.
struct RingHeader {
  alignas(64) std::atomic<std::uint64_t> head{0};  ///< written by the producer
  alignas(64) std::atomic<std::uint64_t> tail{0};  ///< written by the consumer
  SlotBell bell;  ///< wakes the slot side of this ring (the inbox has another one)
  std::atomic<std::uint32_t> agent_waits{0};  ///< the agent side has no room and wants the bell
  std::uint32_t capacity = 0;                 ///< a power of two
};

/// A place for one lease (part) in a slot. Two of them, so that the next one waits while one runs.
struct LeaseStation {
  alignas(64) RangeWord word;
  /// Items finished of the installed lease: stored (release) after the item's outcome is in the
  /// outbox. If the process dies with done < next, item next - 1 is the suspect.
  std::atomic<std::uint32_t> done{0};
  /// Counts installs; a record from the slot that names another generation is stale.
  std::atomic<std::uint32_t> generation{0};
};

inline constexpr int kStations = 2;

struct ArenaHeader {
  SlotBell bell;  ///< of the inbox and of all lanes
  alignas(kBellBytes) std::uint64_t magic = 0;
  LeaseStation stations[kStations];
  RingHeader inbox, express, outbox;
  /// A Bell: what the agent wants to be rung for. Rung once, it is kNone until the agent sets it again.
  alignas(64) std::atomic<std::uint32_t> agent_wants_bell{0};
  /// Not 0: what the slot runs waits for calls of its own (runtime/slot_place.h). The slot rings when it changes this.
  std::atomic<std::uint32_t> slot_lends{0};
  Strip strip;  ///< short outcomes
};

struct RecordHeader {
  std::uint32_t kind = 0;
  std::uint32_t reserved = 0;
  std::uint64_t size = 0;  ///< payload bytes
};

/// A mapped arena. Movable, not copyable; unmaps when destroyed. A child that is forked does not have it: whatever becomes of
/// a fork of a slot, it cannot speak in its parent's name.
class SlotArena {
 public:
  /// A memfd arena; the fd stays open until close_fd() (it is handed to the template).
  /// Throws std::system_error.
  static SlotArena create();
  /// Maps an arena made by create() in another process; takes over `fd`, which stays open: clients reach the
  /// bell through it.
  static SlotArena attach(int fd);
  /// For a slot that is a thread of this process.
  static SlotArena create_private();

  SlotArena(SlotArena&&) noexcept;
  SlotArena& operator=(SlotArena&&) noexcept;
  ~SlotArena();

  ArenaHeader& header() { return *header_; }
  int fd() const { return fd_; }
  void close_fd();
  /// The descriptor is the caller's.
  int release_fd() { return std::exchange(fd_, -1); }
  std::byte* inbox_data() { return data_; }
  std::byte* express_data() { return data_ + kInboxBytes; }
  std::byte* outbox_data() { return data_ + kInboxBytes + kExpressBytes; }

 private:
  SlotArena() = default;
  void mapped(void* memory);
  ArenaHeader* header_ = nullptr;
  std::byte* data_ = nullptr;
  std::size_t mapped_ = 0;
  unsigned forks_ = 0;  // when it was mapped
  int fd_ = -1;
};

/// One record, read whole.
struct Record {
  std::uint32_t kind = 0;
  std::string payload;
};

/// The agent's end of an inbox or express ring: never blocks; what does not fit waits here. It believes nothing that a slot
/// can write over.
class RingWriter {
 public:
  RingWriter(RingHeader& ring, SlotBell& bell, std::byte* data)
      : ring_(ring), bell_(bell), data_(data), capacity_(ring.capacity), head_(ring.head.load()) {}
  /// Queues a record made of `head` (copied) followed by `tail` (shared).
  void push(std::uint32_t kind, std::string head, Frames tail = {});
  /// Moves what fits into the ring and wakes the slot. Result: true if nothing is left to move.
  bool flush();
  std::size_t queued_bytes() const { return queued_; }
  /// True if the slot has read all that was written.
  bool read_up() const { return ring_.tail.load(std::memory_order_acquire) == head_; }
  /// False if the shared words are none that the two ends could have written.
  bool possible() const {
    return ring_.capacity == capacity_ && ring_.head.load(std::memory_order_relaxed) == head_ &&
           head_ - ring_.tail.load(std::memory_order_acquire) <= capacity_;
  }

 private:
  std::uint64_t room() const;
  RingHeader& ring_;
  SlotBell& bell_;
  std::byte* data_;
  const std::uint32_t capacity_;
  std::uint64_t head_;
  std::deque<Frame> pending_;
  std::size_t offset_ = 0;  // written of pending_.front()
  std::size_t queued_ = 0;
};

/// The agent's end of an outbox: never blocks. Room is given back when next() finds no record, or an eighth
/// of the ring was read: call next() until it returns false before going to sleep.
class RingReader {
 public:
  RingReader(RingHeader& ring, const std::byte* data)
      : ring_(ring), data_(data), capacity_(ring.capacity), at_(ring.tail.load()), published_(at_) {}
  /// The next complete record. Result: false if there is none yet. Reuses `record`'s memory.
  bool next(Record& record);
  bool has_bytes() const;
  /// False if what is there cannot have been written by a slot that works: nothing more is read then.
  bool possible() const {
    return !broken_ && ring_.capacity == capacity_ &&
           ring_.tail.load(std::memory_order_relaxed) == published_ &&
           ring_.head.load(std::memory_order_acquire) - at_ <= capacity_;
  }

 private:
  void publish();
  RingHeader& ring_;
  const std::byte* data_;
  const std::uint32_t capacity_;
  std::uint64_t at_;         // bytes read
  std::uint64_t published_;  // as the slot knows it
  RecordHeader partial_;
  bool in_record_ = false;
  bool broken_ = false;
  std::uint64_t got_ = 0;
  std::string payload_;
};

/// The slot's end of an inbox or express ring.
class SlotInbox {
 public:
  SlotInbox(RingHeader& ring, SlotBell& bell, const std::byte* data, int bell_fd)
      : ring_(ring), bell_(bell), data_(data), bell_fd_(bell_fd) {}
  /// True if a record has begun to arrive: cheap, for a look between two items.
  bool has_bytes() const {
    return ring_.head.load(std::memory_order_acquire) != ring_.tail.load(std::memory_order_relaxed);
  }
  /// Waits at most until `deadline` for bytes. Result: has_bytes(). Hold no GIL.
  bool wait(TimePoint deadline);
  /// The same for `ready`, which may look at other things that ring the same bell.
  bool wait(TimePoint deadline, const std::function<bool()>& ready) {
    return ready() || slot_sleep(bell_, deadline, ready);
  }
  /// Reads one record; once it has begun, waits for the rest. Hold no GIL for large ones.
  /// REQUIRES: has_bytes().
  void read(Record& record);

 private:
  void read_bytes(void* to, std::size_t size);
  RingHeader& ring_;
  SlotBell& bell_;
  const std::byte* data_;
  int bell_fd_;
};

/// The slot's end of an outbox: waits for room. Several threads of a slot may write under a mutex of
/// the owner.
class SlotOutbox {
 public:
  SlotOutbox(ArenaHeader& arena, RingHeader& ring, std::byte* data, int bell_fd)
      : arena_(arena), ring_(ring), data_(data), bell_fd_(bell_fd) {}
  /// Writes one record from parts. Bytes become visible as they are written; the record is complete
  /// when the call returns. Waits (without limit: the agent's death ends the slot) while full.
  void write(std::uint32_t kind, std::initializer_list<std::span<const std::byte>> parts);
  /// True if a record of `size` payload bytes fits now, so that write() will not wait.
  bool fits(std::size_t size) const;
  /// Wakes the agent if it asked for it.
  void ring_bell(bool urgent = true);
  /// The same for what is not urgent, after a claim that found an item (RangeWord::claim). What was written before must
  /// be seen by whoever has stored his wish too late to be seen here: store, full fence, load. A claim is a
  /// read-modify-write with acquire and release, which is no fence in C++ (an LL/SC machine may do the load before the
  /// claim's store), so there is one here; but on x86 each locked instruction is one, and another would only cost.
  void ring_bell_after_claim();

 private:
  void ring_if_wanted(Bell least);
  void write_bytes(const void* from, std::size_t size);
  ArenaHeader& arena_;
  RingHeader& ring_;
  std::byte* data_;
  int bell_fd_;
};

}  // namespace betterbox
