// Segments: files in shared memory that carry large values between processes of one host.
//
// A segment belongs to the process that made it. It is written once, mapped privately by any number of users
// (what they write stays theirs), and written again only when the owner holds no `Lease` of it and nobody maps it.
// Owner and users hold a shared lock (fcntl F_OFD) on the file for as long as they need it; the kernel drops it when
// they die, so nobody counts. A file that nobody locks is left over: whoever sees it may remove it. What an owner that
// ends leaves to its users, the last of them removes.
//
// Each value that is written has a file name of its own for ever: a file that is used again is renamed. A reference
// names the file and the serial number of what was written. A user locks first and compares the serial
// afterwards; an owner changes the serial first and looks for locks afterwards: of two that meet, at least one notices,
// so that nobody ever reads what was written for another.
//
// What is `sent` is handed over: it stays until another process has taken it (a mark in the file; it locks first) and
// unlocked it again, or for kUntakenSegmentLife, also when its owner dies. Agents sweep each kSegmentSweepInterval, so
// what nobody will take is gone after both times together.
//
// The first write into a file goes through pwrite: shared memory that is full is an error, not a SIGBUS. All its pages
// have their memory then, and later writes are copies into a mapping, which the owner keeps with the file.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/limits.h"
#include "runtime/time.h"

namespace betterbox {

/// Where bytes lie: what travels instead of them.
struct SegmentRef {
  std::string name;  ///< of the file, without its folder
  std::uint64_t serial = 0;
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
};

/// A hold on one written value: it stays as it is while this lives. A process that holds very many has some as copies.
class HeldSegment {
 public:
  /// Null if there is no such file, it is not this user's, it holds something else by now or has fewer than `end`
  /// bytes. `take`: it was sent to this process.
  static std::shared_ptr<HeldSegment> open(const std::string& folder, const std::string& name,
                                           std::uint64_t serial, std::uint64_t end, bool take = false);
  ~HeldSegment();
  HeldSegment(const HeldSegment&) = delete;
  HeldSegment& operator=(const HeldSegment&) = delete;

 private:
  friend class MappedSegment;
  HeldSegment(int fd, std::string path, std::uint64_t end);
  bool copy();
  void leave();
  int fd_;         ///< negative: `copy_` has the bytes
  const int pid_;  ///< a forked child shares the lock, and must not end it
  const std::string path_;
  const std::uint64_t end_;
  std::string copy_;
};

/// Bytes of a segment, mapped privately and writable. The segment stays as it is while this lives.
class MappedSegment {
 public:
  /// Null where HeldSegment::open is, or if `ref` does not lie in the file.
  static std::shared_ptr<MappedSegment> open(const std::string& folder, const SegmentRef& ref);
  /// The same bytes for another user. Null if they do not lie in what is held.
  static std::shared_ptr<MappedSegment> map(std::shared_ptr<const HeldSegment> held, std::uint64_t offset,
                                            std::uint64_t size);
  ~MappedSegment();
  MappedSegment(const MappedSegment&) = delete;
  MappedSegment& operator=(const MappedSegment&) = delete;

  std::span<std::byte> bytes() const { return {data_, size_}; }

 private:
  MappedSegment(std::shared_ptr<const HeldSegment> held, std::byte* data, std::size_t size)
      : held_(std::move(held)), data_(data), size_(size) {}
  const std::shared_ptr<const HeldSegment> held_;
  std::byte* data_;
  std::size_t size_;
};

/// One process's segments. Thread-safe.
class SegmentPool : public std::enable_shared_from_this<SegmentPool> {
 public:
  struct Limits {
    std::uint64_t total = 0;  ///< bytes of all files; 0: no segments at all
    std::uint64_t idle = 0;   ///< bytes of files kept warm
  };
  /// What `write` wrote, and the owner's hold on it.
  struct Lease {
    std::shared_ptr<const void> hold;  ///< the bytes stay at least as long as this
    std::vector<SegmentRef> parts;
  };

  /// Removes what dead processes left in `folder`.
  static std::shared_ptr<SegmentPool> make(std::string folder, Limits limits);
  ~SegmentPool();
  SegmentPool(const SegmentPool&) = delete;
  SegmentPool& operator=(const SegmentPool&) = delete;

  /// Copies `parts` into one segment, each at a page boundary. Empty if there is no room: send the bytes themselves.
  std::optional<Lease> write(std::span<const std::span<const std::byte>> parts);
  /// The same, handed over to the process that will take it.
  std::optional<std::vector<SegmentRef>> send(std::span<const std::span<const std::byte>> parts);
  /// What this pool has mapped of a value that it wrote; it stays as it is while this lives. Null if it is not there, or
  /// not mapped.
  std::shared_ptr<std::byte> find(const std::string& name, std::uint64_t serial, std::uint64_t end);
  /// Removes what nobody has used for kIdleSegmentLife. Result: false if there is nothing left to look at.
  bool retire(TimePoint now);

  /// Bytes of all files of this pool.
  std::uint64_t bytes() const;
  int pid() const { return pid_; }
  /// What the names of its files begin with.
  const std::string& prefix() const { return prefix_; }

 private:
  struct Segment;
  using SegmentPtr = std::shared_ptr<Segment>;

  SegmentPool(std::string folder, Limits limits);
  SegmentPtr write_into(std::span<const std::span<const std::byte>> parts, bool sent,
                        std::vector<SegmentRef>& refs);
  SegmentPtr acquire(std::uint64_t size);
  SegmentPtr create(std::uint64_t size);
  bool make_room(std::uint64_t size);
  bool rename(Segment& segment, std::uint64_t serial);
  void look_at_sent(TimePoint now);
  void give_back(const SegmentPtr& segment);
  void discard(const SegmentPtr& segment);
  void trim();

  const std::string folder_;
  const Limits limits_;
  const int pid_;
  const std::string prefix_;  ///< of its files' names: 64 random bits are part of it
  mutable std::mutex mutex_;
  std::vector<SegmentPtr> segments_;  ///< least recently used first
  std::uint64_t next_serial_ = 1;
};

/// The folder for segments of this host.
inline constexpr const char* kSegmentFolder = "/dev/shm";
/// Which shared memory this process uses, as BOOTID:DEVICE; empty if there is none that can be used.
std::string store_id();
/// This process's pool, made at the first use; a forked child gets one of its own.
std::shared_ptr<SegmentPool> segment_pool();
/// When this process should look at its segments again although nothing happens; never if it has none.
TimePoint next_look_at_segments();
/// Removes what nobody has used for long, if it is time to look.
void look_at_segments();
/// Removes segments of this user that nobody locks, other than those that were sent just now. Result: true if it left
/// some of these.
bool sweep_segments(const std::string& folder);

}  // namespace betterbox
