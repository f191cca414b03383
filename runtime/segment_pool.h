// Segments: files in shared memory that carry large values between processes of one host.
//
// A segment belongs to the process that made it. It is written once, mapped privately by any number of users
// (what they write stays theirs), and written again only when the owner holds no `Lease` of it and nobody maps it.
// Owner and users hold a shared lock (fcntl F_OFD) on the file for as long as they need it; the kernel drops it when
// they die, so nobody counts. A file that nobody locks is left over: whoever sees it may remove it. What an owner that
// ends leaves to its users, the last of them removes.
//
// A reference names the file and the serial number of what was written. A user locks first and compares the serial
// afterwards; an owner changes the serial first and looks for locks afterwards: of two that meet, at least one notices,
// so that nobody ever reads what was written for another.
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

namespace betterbox {

/// Where bytes lie: what travels instead of them.
struct SegmentRef {
  std::string name;  ///< of the file, without its folder
  std::uint64_t serial = 0;
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
};

/// Bytes of a segment, mapped privately and writable. The segment stays as it is while this lives.
class MappedSegment {
 public:
  /// Null if there is no such file, it is not this user's, it holds something else by now, or `ref` does not lie in it.
  static std::shared_ptr<MappedSegment> open(const std::string& folder, const SegmentRef& ref);
  ~MappedSegment();
  MappedSegment(const MappedSegment&) = delete;
  MappedSegment& operator=(const MappedSegment&) = delete;

  std::span<std::byte> bytes() const { return {data_, size_}; }

 private:
  MappedSegment(int fd, std::string path, std::byte* data, std::size_t size);
  const int fd_;
  const int pid_;  ///< a forked child shares the lock, and must not end it
  const std::string path_;
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

  /// Bytes of all files of this pool.
  std::uint64_t bytes() const;
  int pid() const { return pid_; }

 private:
  struct Segment;
  using SegmentPtr = std::shared_ptr<Segment>;

  SegmentPool(std::string folder, Limits limits);
  SegmentPtr acquire(std::uint64_t size);
  SegmentPtr create(std::uint64_t size);
  void give_back(const SegmentPtr& segment);
  void discard(const SegmentPtr& segment);
  void trim();

  const std::string folder_;
  const Limits limits_;
  const int pid_;
  mutable std::mutex mutex_;
  std::vector<SegmentPtr> segments_;  ///< least recently used first
  std::uint64_t next_file_ = 0, next_serial_ = 1;
};

/// The folder for segments of this host.
inline constexpr const char* kSegmentFolder = "/dev/shm";
/// Which shared memory this process uses, as BOOTID:DEVICE; empty if there is none that can be used.
std::string store_id();
/// This process's pool, made at the first use; a forked child gets one of its own.
std::shared_ptr<SegmentPool> segment_pool();
/// Removes segments of this user that nobody locks.
void sweep_segments(const std::string& folder);

}  // namespace betterbox
