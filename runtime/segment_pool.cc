#include "runtime/segment_pool.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "runtime/bus_file.h"

namespace betterbox {
namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kSegmentMagic = 0x3147455358424242;  // "BBBXSEG1"
constexpr long kTmpfsMagic = 0x01021994;

/// The first page of a file.
struct Header {
  std::uint64_t magic = kSegmentMagic;
  std::uint64_t serial = 0;
};

std::uint64_t whole_pages(std::uint64_t size) { return (size + kPage - 1) / kPage * kPage; }

std::string name_prefix() { return "betterbox-" + std::to_string(::geteuid()) + "-"; }

struct flock whole_file(short type) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  return lock;
}

bool lock_shared(int fd) {
  struct flock lock = whole_file(F_RDLCK);
  return ::fcntl(fd, F_OFD_SETLK, &lock) == 0;
}

bool lock_alone(int fd) {
  struct flock lock = whole_file(F_WRLCK);
  return ::fcntl(fd, F_OFD_SETLK, &lock) == 0;
}

bool is_locked_by_others(int fd) {
  struct flock lock = whole_file(F_WRLCK);
  return ::fcntl(fd, F_OFD_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
}

bool write_all(int fd, std::span<const std::byte> bytes, std::uint64_t at) {
  while (!bytes.empty()) {
    const ssize_t count = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(at));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    bytes = bytes.subspan(static_cast<std::size_t>(count));
    at += static_cast<std::uint64_t>(count);
  }
  return true;
}

bool write_serial(int fd, std::uint64_t serial) {
  const Header header{kSegmentMagic, serial};
  return write_all(fd, std::as_bytes(std::span(&header, 1)), 0);
}

}  // namespace

// --- users ----------------------------------------------------------------------------------------

std::shared_ptr<MappedSegment> MappedSegment::open(const std::string& folder, const SegmentRef& ref) {
  if (!ref.name.starts_with(name_prefix()) || ref.name.find('/') != std::string::npos) return nullptr;
  std::string path = folder + "/" + ref.name;
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return nullptr;
  struct stat about {};
  Header header;
  const bool usable =
      lock_shared(fd) && ::fstat(fd, &about) == 0 && S_ISREG(about.st_mode) && about.st_uid == ::geteuid() &&
      ::pread(fd, &header, sizeof header, 0) == sizeof header && header.magic == kSegmentMagic &&
      header.serial == ref.serial && ref.offset % kPage == 0 && ref.size > 0 &&
      ref.offset <= static_cast<std::uint64_t>(about.st_size) &&
      ref.size <= static_cast<std::uint64_t>(about.st_size) - ref.offset;
  void* data = MAP_FAILED;
  if (usable) {
    data = ::mmap(nullptr, ref.size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, static_cast<off_t>(ref.offset));
  }
  if (data == MAP_FAILED) {
    ::close(fd);
    return nullptr;
  }
  return std::shared_ptr<MappedSegment>(
      new MappedSegment(fd, std::move(path), static_cast<std::byte*>(data), ref.size));
}

MappedSegment::MappedSegment(int fd, std::string path, std::byte* data, std::size_t size)
    : fd_(fd), pid_(::getpid()), path_(std::move(path)), data_(data), size_(size) {}

/// Who finds that nobody else locks the file, not even its owner, was its last user.
MappedSegment::~MappedSegment() {
  ::munmap(data_, size_);
  if (::getpid() == pid_ && lock_alone(fd_)) ::unlink(path_.c_str());
  ::close(fd_);  // ends the lock
}

// --- the owner ------------------------------------------------------------------------------------

struct SegmentPool::Segment {
  std::string name, path;
  int fd = -1;
  int owner = 0;
  std::uint64_t capacity = 0;  ///< without the header
  bool leased = true;
  bool filled = false;        ///< every page has its memory: a mapping cannot fault
  std::byte* data = nullptr;  ///< the whole file, mapped from the second write on; not in forked children

  ~Segment() {
    if (fd < 0) return;
    if (::getpid() == owner) {
      if (data) ::munmap(data, kPage + capacity);
      if (!is_locked_by_others(fd)) ::unlink(path.c_str());  // else the last user does
    }
    ::close(fd);
  }

  /// Maps a filled file. Without a mapping `fill` goes on with pwrite.
  void map() {
    void* mapped = ::mmap(nullptr, kPage + capacity, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED) return;
    if (::madvise(mapped, kPage + capacity, MADV_DONTFORK) == 0) {
      data = static_cast<std::byte*>(mapped);
    } else {
      ::munmap(mapped, kPage + capacity);
    }
  }

  bool fill(std::span<const std::byte> bytes, std::uint64_t at) {
    if (!data) return write_all(fd, bytes, at);
    if (!bytes.empty()) std::memcpy(data + at, bytes.data(), bytes.size());
    return true;
  }
};

SegmentPool::SegmentPool(std::string folder, Limits limits)
    : folder_(std::move(folder)), limits_(limits), pid_(::getpid()) {}

std::shared_ptr<SegmentPool> SegmentPool::make(std::string folder, Limits limits) {
  if (limits.total > 0) sweep_segments(folder);
  return std::shared_ptr<SegmentPool>(new SegmentPool(std::move(folder), limits));
}

/// Leases may outlive the pool at the end of a process; their files must not.
SegmentPool::~SegmentPool() {
  if (::getpid() != pid_) return;
  for (const SegmentPtr& segment : segments_) {
    if (!is_locked_by_others(segment->fd)) ::unlink(segment->path.c_str());
  }
}

std::optional<SegmentPool::Lease> SegmentPool::write(std::span<const std::span<const std::byte>> parts) {
  std::uint64_t size = 0;
  for (const auto& part : parts) size += whole_pages(part.size());
  if (size == 0 || size > limits_.total) return std::nullopt;
  SegmentPtr segment;
  Lease lease;
  std::uint64_t serial = 0;
  {
    const std::lock_guard lock(mutex_);
    segment = acquire(size);
    trim();
    if (!segment) return std::nullopt;
    serial = next_serial_++;
  }
  bool ok = write_serial(segment->fd, serial) && !is_locked_by_others(segment->fd);
  if (segment->filled && !segment->data) segment->map();
  std::uint64_t at = kPage;
  for (const auto& part : parts) {
    ok = ok && segment->fill(part, at);
    lease.parts.push_back({segment->name, serial, at, part.size()});
    at += whole_pages(part.size());
  }
  if (!ok) {
    discard(segment);
    return std::nullopt;
  }
  segment->filled = true;  // the first write has as many pages as the file
  lease.hold =
      std::shared_ptr<const void>(segment.get(), [pool = weak_from_this(), segment](const void*) mutable {
        if (const auto alive = pool.lock()) alive->give_back(segment);
      });
  return lease;
}

/// The smallest free segment that is large enough and not wasteful, else a new one. Called with the lock.
SegmentPool::SegmentPtr SegmentPool::acquire(std::uint64_t size) {
  SegmentPtr best;
  for (const SegmentPtr& segment : segments_) {
    if (segment->leased || segment->capacity < size || segment->capacity / 2 > size) continue;
    if (best && best->capacity <= segment->capacity) continue;
    if (!is_locked_by_others(segment->fd)) best = segment;
  }
  if (!best) return create(size);
  best->leased = true;
  std::erase(segments_, best);
  segments_.push_back(best);
  return best;
}

SegmentPool::SegmentPtr SegmentPool::create(std::uint64_t size) {
  std::uint64_t used = size;
  for (const SegmentPtr& segment : segments_) used += segment->capacity;
  for (auto it = segments_.begin(); it != segments_.end() && used > limits_.total;) {
    if ((*it)->leased || is_locked_by_others((*it)->fd)) {
      ++it;
      continue;
    }
    used -= (*it)->capacity;
    it = segments_.erase(it);
  }
  if (used > limits_.total) return nullptr;
  auto segment = std::make_shared<Segment>();
  segment->name = name_prefix() + std::to_string(pid_) + "-" + std::to_string(next_file_++);
  segment->path = folder_ + "/" + segment->name;
  segment->owner = pid_;
  segment->capacity = size;
  segment->fd = ::open(segment->path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (segment->fd < 0) return nullptr;
  struct stat about {};
  // A sweeper may have seen the file before its lock: then it has no name any more.
  if (!lock_shared(segment->fd) || ::fstat(segment->fd, &about) != 0 || about.st_nlink == 0 ||
      ::ftruncate(segment->fd, static_cast<off_t>(kPage + size)) != 0) {
    return nullptr;
  }
  segments_.push_back(segment);
  return segment;
}

void SegmentPool::give_back(const SegmentPtr& segment) {
  const std::lock_guard lock(mutex_);
  segment->leased = false;
  trim();
}

void SegmentPool::discard(const SegmentPtr& segment) {
  const std::lock_guard lock(mutex_);
  std::erase(segments_, segment);
}

/// Removes what exceeds the warm bound, the least recently used first. What somebody still maps stays counted: its
/// memory would live on without its name. Called with the lock.
void SegmentPool::trim() {
  std::uint64_t idle = 0;
  for (const SegmentPtr& segment : segments_) idle += segment->leased ? 0 : segment->capacity;
  for (auto it = segments_.begin(); it != segments_.end() && idle > limits_.idle;) {
    if ((*it)->leased) {
      ++it;
      continue;
    }
    idle -= (*it)->capacity;
    if (is_locked_by_others((*it)->fd)) {
      ++it;
    } else {
      it = segments_.erase(it);
    }
  }
}

std::uint64_t SegmentPool::bytes() const {
  const std::lock_guard lock(mutex_);
  std::uint64_t sum = 0;
  for (const SegmentPtr& segment : segments_) sum += segment->capacity;
  return sum;
}

// --- the process's pool -----------------------------------------------------------------------------

namespace {

SegmentPool::Limits limits_here() {
  struct statfs about {};
  if (::statfs(kSegmentFolder, &about) != 0 || about.f_type != kTmpfsMagic) return {};
  const std::uint64_t size = std::uint64_t{about.f_blocks} * static_cast<std::uint64_t>(about.f_bsize);
  std::uint64_t total = size / kSegmentShare;
  if (const char* given = std::getenv("BETTERBOX_SHARED_BYTES")) {
    std::uint64_t bound = 0;
    const auto [end, error] = std::from_chars(given, given + std::strlen(given), bound);
    if (error == std::errc() && *end == '\0') total = std::min(total, bound);
  }
  return {total, std::min<std::uint64_t>(total / 2, kWarmSegmentBytes)};
}

}  // namespace

std::shared_ptr<SegmentPool> segment_pool() {
  static std::mutex mutex;
  static std::shared_ptr<SegmentPool> pool;
  const std::lock_guard lock(mutex);
  if (!pool || pool->pid() != ::getpid()) pool = SegmentPool::make(kSegmentFolder, limits_here());
  return pool;
}

std::string store_id() {
  struct stat about {};
  if (limits_here().total == 0 || ::stat(kSegmentFolder, &about) != 0) return {};
  return boot_id() + ":" + std::to_string(about.st_dev);
}

void sweep_segments(const std::string& folder) {
  std::error_code error;
  const std::string prefix = name_prefix();
  for (std::filesystem::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string path = it->path();
    if (!it->path().filename().native().starts_with(prefix)) continue;
    const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) continue;
    if (lock_alone(fd)) ::unlink(path.c_str());
    ::close(fd);
  }
}

}  // namespace betterbox
