// Lane: direct calls of one client to one box on the same host through shared memory, without passing
// through the box's agent (docs/protocol.md, section "Calls through a lane"; docs/decisions/0010).
//
// A lane is a memory file (memfd) of the client with a ring of requests and a ring of replies. The slot opens it as
// /proc/PID/fd/N, and the client opens the page with the slot's bell the same way: nothing has a name in a file
// system, so nothing can be left behind. Who may not open the other's descriptors (another user, another view of
// /proc) goes without a lane.
//
// Rings: single producer, single consumer, whole records only: what does not fit now is refused, and the caller takes
// the other way or waits. Each end checks what the other may have written over: a ring that makes no sense is `broken`
// and read no more; nothing in it can make either end crash.
//
// Waking. The slot sleeps on its bell, which agents and clients ring alike. The client sleeps in poll() on a pipe, which
// the slot opens and writes only while the client asked for it (`client_wants_bell`).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <span>

#include "runtime/shm.h"

namespace betterbox {

enum class LaneRecord : std::uint32_t {
  kCall = 1,    ///< client -> slot: LaneCall, method name, arguments page
  kCancel = 2,  ///< client -> slot: u64 serial: do not start it
  kReply = 3,   ///< slot -> client: u64 serial, one item
  kSkipped = 4  ///< slot -> client: u64 serial: it was cancelled and has not run
};

struct LaneCall {
  std::uint64_t serial = 0;
  std::uint32_t method_size = 0;
  std::uint32_t reserved = 0;
};

struct LaneCounters {
  alignas(64) std::atomic<std::uint64_t> head{0};  ///< written by the producer
  alignas(64) std::atomic<std::uint64_t> tail{0};  ///< written by the consumer
};

struct LaneHeader {
  std::uint64_t magic = 0, nonce = 0;
  std::uint32_t client_pid = 0, client_pipe = 0;  ///< where the slot rings
  std::uint32_t slot_pid = 0, slot_fd = 0;        ///< where the bell is; valid once `up`
  std::uint64_t slot_nonce = 0;
  alignas(64) std::atomic<std::uint32_t> up{0};  ///< 1: the slot has opened the lane
  std::atomic<std::uint32_t> client_left{
      0};  ///< 1: the client took its leave; what it has sent is still to run
  alignas(64) std::atomic<std::uint32_t> client_wants_bell{0};
  std::atomic<std::uint32_t> through_agent{
      0};  ///< 1: the slot has sent replies of this lane by way of its agent
  LaneCounters requests, replies;
};

/// One end of one ring: writes, or reads. It keeps its own counter and believes nothing that the other end can write over.
class LaneRing {
 public:
  LaneRing(LaneCounters& counters, std::byte* data) : counters_(counters), data_(data) {}
  /// True if a record of `size` payload bytes can ever be written.
  static bool may_fit(std::size_t size) { return size <= kLaneRingBytes / 2; }
  /// Result: false if there is no room for it now.
  bool write(LaneRecord kind, std::initializer_list<std::span<const std::byte>> parts);
  bool has_bytes() const {
    return counters_.head.load(std::memory_order_acquire) != own_.load(std::memory_order_relaxed);
  }
  /// The other end has read all that this one wrote.
  bool read_up() const {
    return counters_.tail.load(std::memory_order_acquire) == own_.load(std::memory_order_relaxed);
  }
  /// The next record, if there is one.
  bool read(Record& record);
  /// The other end wrote what cannot be: nothing more is read.
  bool broken() const { return broken_.load(std::memory_order_relaxed); }
  void give_up() { broken_.store(true, std::memory_order_relaxed); }

 private:
  LaneCounters& counters_;
  std::byte* data_;
  std::atomic<std::uint64_t> own_{0};  // written, or read, by this end
  std::atomic<bool> broken_{false};    // has_replies() looks from other threads
};

/// A mapped piece of a memory file, which a child that is forked does not have.
class SharedPiece {
 public:
  SharedPiece() = default;
  SharedPiece(void* data, std::size_t size);
  SharedPiece(SharedPiece&& other) noexcept;
  SharedPiece& operator=(SharedPiece&& other) noexcept;
  ~SharedPiece();
  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
  std::size_t size_ = 0;
  unsigned forks_ = 0;  // when it was mapped
};

/// The client's end. One thread at a time but for has_replies().
class ClientLane {
 public:
  /// `pipe_fd`: the writing end of the pipe that the client polls. Null if there can be none.
  static std::unique_ptr<ClientLane> create(int pipe_fd);
  ~ClientLane();
  ClientLane(const ClientLane&) = delete;
  ClientLane& operator=(const ClientLane&) = delete;

  int fd() const { return fd_; }
  std::uint64_t nonce() const { return header_->nonce; }
  /// The slot serves it, and its bell can be rung.
  bool up();
  /// Result: false if there is no room now. REQUIRES: up().
  bool send(LaneRecord kind, std::initializer_list<std::span<const std::byte>> parts);
  bool has_replies() const { return !replies_.broken() && replies_.has_bytes(); }
  bool receive(Record& record) { return replies_.read(record); }
  /// It can be used no more: what the other end wrote cannot be, or (give_up) means nothing.
  bool broken() const { return requests_.broken() || replies_.broken(); }
  void give_up() { replies_.give_up(); }
  /// To be called now and then, in at least kSeatLookInterval, while a call is under way here: wakes a slot that has not
  /// read it. Result: false if the slot has read it, has nothing to say, and has slept since the last call: it will never
  /// answer.
  bool slot_attends();
  void want_bell(bool wanted);
  void leave() { header_->client_left.store(1, std::memory_order_release); }

 private:
  ClientLane(SharedPiece piece, int fd);
  SharedPiece piece_, bell_piece_;
  int fd_;
  LaneHeader* header_;
  LaneRing requests_, replies_;
  SlotBell* bell_ = nullptr;
  std::uint64_t slept_ = 0;  ///< the sleep of the slot that was seen at the last look; 0: none
  bool hopeless_ = false;    ///< its bell cannot be reached
};

/// The slot's end.
class SlotLane {
 public:
  /// Opens descriptor `fd` of process `pid`. Null if it is not the lane that `nonce` says, or out of reach.
  static std::unique_ptr<SlotLane> open(std::uint32_t pid, std::uint32_t fd, std::uint64_t nonce,
                                        SlotArena& arena);
  ~SlotLane();
  SlotLane(const SlotLane&) = delete;
  SlotLane& operator=(const SlotLane&) = delete;

  bool has_requests() const { return !requests_.broken() && requests_.has_bytes(); }
  bool receive(Record& record) { return requests_.read(record); }
  bool broken() const { return requests_.broken() || replies_.broken(); }
  /// Result: false if there is no room now.
  bool reply(LaneRecord kind, std::initializer_list<std::span<const std::byte>> parts);
  void replied_through_agent() { header_->through_agent.store(1, std::memory_order_release); }
  bool client_left() const { return header_->client_left.load(std::memory_order_acquire) != 0; }

 private:
  SlotLane(SharedPiece piece, int pipe_fd);
  SharedPiece piece_;
  int pipe_fd_;
  LaneHeader* header_;
  LaneRing requests_, replies_;
};

inline void relax_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// A short look before a sleep, given up for a while where it does not help: on one cpu never (unless its peers have
/// others), after each fruitless one for twice as many waits as before.
class Spinner {
 public:
  /// Processes of a carrier that binds each to cpus of its own. Before the first Spinner is made.
  static void peers_have_their_own_cpus();
  Spinner();
  /// Result: ready(). Hold no lock.
  template <class Ready> bool spin(Ready ready) {
    if (ready()) return true;
    if (!allowed_ || (skip_ > 0 && skip_-- > 0)) return false;
    const TimePoint until = monotonic_now() + kLaneSpin;
    do {
      for (int i = 0; i < 32; ++i) {
        if (ready()) {
          penalty_ = 0;
          return true;
        }
        relax_cpu();
      }
    } while (monotonic_now() < until);
    penalty_ = penalty_ < kMaxPenalty ? 2 * penalty_ + 1 : penalty_;
    skip_ = penalty_;
    return false;
  }

 private:
  static constexpr int kMaxPenalty = 255;
  bool allowed_;
  int penalty_ = 0;
  int skip_ = 0;
};

}  // namespace betterbox
