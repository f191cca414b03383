#include "runtime/segment_pool.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <utility>

#include "runtime/bus_file.h"
#include "runtime/check.h"

namespace betterbox {
namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kSegmentMagic = 0x3147455358424242;  // "BBBXSEG1"
constexpr long kTmpfsMagic = 0x01021994;

enum class State : std::uint64_t { kKept, kSent, kTaken };

/// The first page of a file.
struct SegmentHeader {
  std::uint64_t magic = kSegmentMagic;
  std::uint64_t serial = 0;
  State state = State::kKept;
};

std::uint64_t whole_pages(std::uint64_t size) { return (size + kPage - 1) / kPage * kPage; }

std::string name_prefix() { return "betterbox-" + std::to_string(::geteuid()) + "-"; }

std::string random_prefix() {
  std::uint64_t tag = 0;
  BB_CHECK(::getrandom(&tag, sizeof tag, 0) == sizeof tag);
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(tag));
  return name_prefix() + text + "-";
}

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

bool write_header(int fd, const SegmentHeader& header) {
  return write_all(fd, std::as_bytes(std::span(&header, 1)), 0);
}

constexpr State kTaken = State::kTaken;

bool read_header(int fd, SegmentHeader& header) {
  return ::pread(fd, &header, sizeof header, 0) == sizeof header && header.magic == kSegmentMagic;
}

/// Descriptors of segments that this process may hold, its own pool's not counted.
std::size_t most_held() {
  static const std::size_t most = [] {
    struct rlimit files {};
    if (::getrlimit(RLIMIT_NOFILE, &files) != 0) return kMaxSegments;
    return std::min<std::size_t>(kMaxSegments, files.rlim_cur / 4);
  }();
  return most;
}
std::atomic<std::size_t> held_files{0};

}  // namespace

// --- users ----------------------------------------------------------------------------------------

HeldSegment::HeldSegment(int fd, std::string path, std::uint64_t end)
    : fd_(fd), pid_(::getpid()), path_(std::move(path)), end_(end) {
  ++held_files;
}

/// A file that was renamed holds something else now, or will soon.
bool has_name(const struct stat& file, const std::string& path) {
  struct stat named {};
  return ::stat(path.c_str(), &named) == 0 && named.st_ino == file.st_ino && named.st_dev == file.st_dev;
}

/// Locks first and looks afterwards.
std::shared_ptr<HeldSegment> HeldSegment::open(const std::string& folder, const std::string& name,
                                               std::uint64_t serial, std::uint64_t end, bool take) {
  if (!name.starts_with(name_prefix()) || name.find('/') != std::string::npos) return nullptr;
  std::string path = folder + "/" + name;
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return nullptr;
  struct stat about {};
  SegmentHeader header;
  const bool usable =
      lock_shared(fd) && ::fstat(fd, &about) == 0 && S_ISREG(about.st_mode) && about.st_uid == ::geteuid() &&
      read_header(fd, header) && header.serial == serial && has_name(about, path) &&
      end <= static_cast<std::uint64_t>(about.st_size) &&
      (!take || write_all(fd, std::as_bytes(std::span(&kTaken, 1)), offsetof(SegmentHeader, state)));
  if (!usable) {
    ::close(fd);
    return nullptr;
  }
  std::shared_ptr<HeldSegment> held(new HeldSegment(fd, std::move(path), end));
  if (held_files > most_held() && !held->copy()) return nullptr;
  return held;
}

/// Takes the bytes, and leaves the file.
bool HeldSegment::copy() {
  copy_.resize(end_);
  std::uint64_t at = 0;
  while (at < end_) {
    const ssize_t count = ::pread(fd_, copy_.data() + at, end_ - at, static_cast<off_t>(at));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    at += static_cast<std::uint64_t>(count);
  }
  leave();
  return true;
}

/// Who finds that nobody else locks the file, not even its owner, was its last user.
void HeldSegment::leave() {
  if (fd_ < 0) return;
  if (::getpid() == pid_ && lock_alone(fd_)) ::unlink(path_.c_str());
  ::close(std::exchange(fd_, -1));  // ends the lock
  --held_files;
}

HeldSegment::~HeldSegment() { leave(); }

std::shared_ptr<MappedSegment> MappedSegment::open(const std::string& folder, const SegmentRef& ref) {
  std::uint64_t end = 0;
  if (__builtin_add_overflow(ref.offset, ref.size, &end)) return nullptr;
  auto held = HeldSegment::open(folder, ref.name, ref.serial, end);
  return held ? map(std::move(held), ref.offset, ref.size) : nullptr;
}

std::shared_ptr<MappedSegment> MappedSegment::map(std::shared_ptr<const HeldSegment> held,
                                                  std::uint64_t offset, std::uint64_t size) {
  if (offset % kPage != 0 || size == 0 || offset > held->end_ || size > held->end_ - offset) return nullptr;
  const bool file = held->fd_ >= 0;
  void* data = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | (file ? 0 : MAP_ANONYMOUS),
                      held->fd_, file ? static_cast<off_t>(offset) : 0);
  if (data == MAP_FAILED) return nullptr;
  if (!file) std::memcpy(data, held->copy_.data() + offset, size);
  return std::shared_ptr<MappedSegment>(
      new MappedSegment(std::move(held), static_cast<std::byte*>(data), size));
}

MappedSegment::~MappedSegment() { ::munmap(data_, size_); }

// --- the owner ------------------------------------------------------------------------------------

struct SegmentPool::Segment {
  std::string name, path;
  int fd = -1;
  int owner = 0;
  std::uint64_t capacity = 0;  ///< without the header
  bool leased = true;
  bool sent = false;          ///< and not known to be taken: leased by whoever will take it
  TimePoint since{};          ///< when it was sent, or last used
  bool filled = false;        ///< every page has its memory: a mapping cannot fault
  std::byte* data = nullptr;  ///< the whole file, mapped from the second write on; not in forked children

  ~Segment() {
    if (fd < 0) return;
    if (::getpid() == owner) {
      if (data) ::munmap(data, kPage + capacity);
      if (!sent && !is_locked_by_others(fd)) ::unlink(path.c_str());  // else the last user does
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
    : folder_(std::move(folder)), limits_(limits), pid_(::getpid()), prefix_(random_prefix()) {}

std::shared_ptr<SegmentPool> SegmentPool::make(std::string folder, Limits limits) {
  if (limits.total > 0) sweep_segments(folder);
  return std::shared_ptr<SegmentPool>(new SegmentPool(std::move(folder), limits));
}

/// Leases may outlive the pool at the end of a process; their files must not.
SegmentPool::~SegmentPool() {
  if (::getpid() != pid_) return;
  for (const SegmentPtr& segment : segments_) {
    if (!segment->sent && !is_locked_by_others(segment->fd)) ::unlink(segment->path.c_str());
  }
}

std::optional<SegmentPool::Lease> SegmentPool::write(std::span<const std::span<const std::byte>> parts) {
  Lease lease;
  const SegmentPtr segment = write_into(parts, false, lease.parts);
  if (!segment) return std::nullopt;
  lease.hold =
      std::shared_ptr<const void>(segment.get(), [pool = weak_from_this(), segment](const void*) mutable {
        if (const auto alive = pool.lock()) alive->give_back(segment);
      });
  return lease;
}

std::optional<std::vector<SegmentRef>> SegmentPool::send(std::span<const std::span<const std::byte>> parts) {
  std::vector<SegmentRef> refs;
  if (!write_into(parts, true, refs)) return std::nullopt;
  return refs;
}

std::shared_ptr<std::byte> SegmentPool::find(const std::string& name, std::uint64_t serial,
                                             std::uint64_t end) {
  SegmentPtr found;
  {
    const std::lock_guard lock(mutex_);
    const auto at = std::ranges::find(segments_, name, [](const SegmentPtr& s) { return s->name; });
    if (at != segments_.end() && (*at)->leased && (*at)->data) found = *at;
  }
  if (!found) return nullptr;
  auto held = HeldSegment::open(folder_, name, serial, end);
  if (!held) return nullptr;
  std::byte* data = found->data;
  return {data, [found, held](std::byte*) {}};
}

/// Changes the serial first and looks for locks afterwards.
SegmentPool::SegmentPtr SegmentPool::write_into(std::span<const std::span<const std::byte>> parts, bool sent,
                                                std::vector<SegmentRef>& refs) {
  std::uint64_t size = 0;
  for (const auto& part : parts) size += whole_pages(part.size());
  if (size == 0 || size > limits_.total) return nullptr;
  SegmentPtr segment;
  std::uint64_t serial = 0;
  {
    const std::lock_guard lock(mutex_);
    look_at_sent(monotonic_now());
    segment = acquire(size);
    trim();
    if (!segment) return nullptr;
    serial = next_serial_++;
  }
  bool ok = write_header(segment->fd, {kSegmentMagic, serial, sent ? State::kSent : State::kKept}) &&
            !is_locked_by_others(segment->fd) && rename(*segment, serial);
  if (segment->filled && !segment->data) segment->map();
  std::uint64_t at = kPage;
  for (const auto& part : parts) {
    ok = ok && segment->fill(part, at);
    refs.push_back({segment->name, serial, at, part.size()});
    at += whole_pages(part.size());
  }
  if (!ok) {
    discard(segment);
    return nullptr;
  }
  segment->filled = true;  // the first write has as many pages as the file
  const std::lock_guard lock(mutex_);
  segment->since = monotonic_now();
  segment->sent = sent;
  return segment;
}

/// The file gets the name of what will be written. A sweeper that has the old name finds the file locked.
bool SegmentPool::rename(Segment& segment, std::uint64_t serial) {
  std::string name = prefix_ + std::to_string(serial);
  std::string path = folder_ + "/" + name;
  if (::rename(segment.path.c_str(), path.c_str()) != 0) return false;
  segment.name = std::move(name);
  segment.path = std::move(path);
  return true;
}

/// What was taken is no longer leased; what never will be is removed. Called with the lock.
void SegmentPool::look_at_sent(TimePoint now) {
  std::erase_if(segments_, [now](const SegmentPtr& segment) {
    if (!segment->sent) return false;
    SegmentHeader header;
    const bool untaken = read_header(segment->fd, header) && header.state == State::kSent;
    if (untaken && now - segment->since < kUntakenSegmentLife) return false;
    segment->sent = segment->leased = false;
    segment->since = now;
    return untaken && !is_locked_by_others(segment->fd);
  });
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

/// Removes what is free until `size` more bytes and one more file are within the bounds.
bool SegmentPool::make_room(std::uint64_t size) {
  std::uint64_t used = size;
  for (const SegmentPtr& segment : segments_) used += segment->capacity;
  for (auto it = segments_.begin();
       it != segments_.end() && (used > limits_.total || segments_.size() >= kMaxSegments);) {
    const bool locked = is_locked_by_others((*it)->fd);
    // What others hold has its memory, but need not be this pool's: its last user removes it.
    if ((*it)->leased || (locked && segments_.size() < kMaxSegments)) {
      ++it;
      continue;
    }
    used -= (*it)->capacity;
    it = segments_.erase(it);
  }
  if (used > limits_.total || segments_.size() >= kMaxSegments) return false;
  struct statfs about {};
  if (::statfs(folder_.c_str(), &about) != 0) return false;
  // All users together leave some of the memory free.
  return about.f_bavail > about.f_blocks / kSegmentReserve &&
         size / static_cast<std::uint64_t>(about.f_bsize) < about.f_bavail - about.f_blocks / kSegmentReserve;
}

SegmentPool::SegmentPtr SegmentPool::create(std::uint64_t size) {
  if (!make_room(size)) return nullptr;
  auto segment = std::make_shared<Segment>();
  segment->name = prefix_ + std::to_string(next_serial_);  // renamed to itself, or its serial is not used
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
  segment->since = monotonic_now();
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

bool SegmentPool::retire(TimePoint now) {
  const std::lock_guard lock(mutex_);
  look_at_sent(now);
  std::erase_if(segments_, [now](const SegmentPtr& segment) {
    return !segment->leased && now - segment->since >= kIdleSegmentLife && !is_locked_by_others(segment->fd);
  });
  return !segments_.empty();
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

/// Sent not long ago by a process that is dead by now. Both times are this host's; a clock that was set back in between
/// keeps nothing for long.
bool may_be_taken(int fd) {
  SegmentHeader header;
  struct stat about {};
  return read_header(fd, header) && header.state == State::kSent && ::fstat(fd, &about) == 0 &&
         std::abs(::time(nullptr) - about.st_mtim.tv_sec) < kUntakenSegmentLife.ns / seconds(1).ns;
}

}  // namespace

std::string store_id() {
  static const std::string store = [] {
    struct stat about {};
    if (limits_here().total == 0 || ::stat(kSegmentFolder, &about) != 0) return std::string();
    return boot_id() + ":" + std::to_string(about.st_dev);
  }();
  return store;
}

namespace {

struct ProcessPool {
  std::mutex mutex;
  std::shared_ptr<SegmentPool> pool;
  std::atomic<std::int64_t> look_at_ns{TimePoint::never().ns};
};

ProcessPool& process_pool() {
  static ProcessPool pool;
  return pool;
}

}  // namespace

std::shared_ptr<SegmentPool> segment_pool() {
  ProcessPool& own = process_pool();
  const std::lock_guard lock(own.mutex);
  if (!own.pool || own.pool->pid() != ::getpid()) own.pool = SegmentPool::make(kSegmentFolder, limits_here());
  if (own.look_at_ns == TimePoint::never().ns) own.look_at_ns = (monotonic_now() + kSegmentLookInterval).ns;
  return own.pool;
}

TimePoint next_look_at_segments() { return {process_pool().look_at_ns}; }

void look_at_segments() {
  ProcessPool& own = process_pool();
  const TimePoint now = monotonic_now();
  if (now < TimePoint{own.look_at_ns}) return;
  const std::lock_guard lock(own.mutex);
  const bool some = own.pool && own.pool->pid() == ::getpid() && own.pool->retire(now);
  own.look_at_ns = some ? (now + kSegmentLookInterval).ns : TimePoint::never().ns;
}

bool sweep_segments(const std::string& folder) {
  std::error_code error;
  bool some_left = false;
  const std::string prefix = name_prefix();
  for (std::filesystem::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string path = it->path();
    if (!it->path().filename().native().starts_with(prefix)) continue;
    const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) continue;
    if (may_be_taken(fd)) {
      some_left = true;
    } else if (lock_alone(fd)) {
      ::unlink(path.c_str());
    }
    ::close(fd);
  }
  return some_left;
}

}  // namespace betterbox
