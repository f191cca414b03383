#include "runtime/value_copy.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "runtime/limits.h"

namespace betterbox {
namespace {

constexpr std::uint64_t kHeaderPage = 4096;

bool is_value_name(const std::string& name) {
  return name.starts_with("betterbox-" + std::to_string(::geteuid()) + "-") &&
         name.find('/') == std::string::npos && name.size() < 200;
}

struct flock whole(short type) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  return lock;
}

std::string no_room(const ValueId& value) {
  return "a value of " + std::to_string(value.bytes) + " bytes has no room in this host's shared memory";
}

}  // namespace

std::shared_ptr<MappedSegment> open_value(const std::string& folder, const ValueId& value) {
  if (!is_value_name(value.name)) return nullptr;
  return MappedSegment::open(folder, {value.name, value.serial, 0, value.bytes});
}

Message read_chunk(const Fetch& fetch, const std::string& folder) {
  Message answer{Chunk{fetch.peer, fetch.value.name, fetch.offset}, {}};
  const ValueId& value = fetch.value;
  if (fetch.count > kValueChunkBytes || fetch.count == 0 || fetch.offset > value.bytes ||
      fetch.count > value.bytes - fetch.offset)
    return answer;
  const auto mapped = open_value(folder, value);
  if (mapped == nullptr) return answer;
  answer.frames.push_back(Frame::copy_of(mapped->bytes().subspan(fetch.offset, fetch.count)));
  return answer;
}

ValueCopy::ValueCopy(std::string folder, const ValueId& value, int fd)
    : folder_(std::move(folder)),
      value_(value),
      path_(folder_ + "/" + value.name + ".part"),
      fd_(fd),
      pid_(::getpid()) {}

std::unique_ptr<ValueCopy> ValueCopy::make(const std::string& folder, const ValueId& value,
                                           std::string& error) {
  error = no_room(value);
  struct statvfs about {};
  if (!is_value_name(value.name) || value.bytes <= kHeaderPage || ::statvfs(folder.c_str(), &about) != 0 ||
      value.bytes > std::uint64_t{about.f_bavail} * about.f_frsize)
    return nullptr;
  const std::string path = folder + "/" + value.name + ".part";
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return nullptr;
  struct flock lock = whole(F_WRLCK);
  struct stat mine {
  }, named{};
  // Whoever had it may have removed it, or given it its name, just before the lock.
  if (::fcntl(fd, F_OFD_SETLK, &lock) != 0 || ::fstat(fd, &mine) != 0 || ::stat(path.c_str(), &named) != 0 ||
      mine.st_ino != named.st_ino || mine.st_uid != ::geteuid()) {
    ::close(fd);
    error.clear();
    return nullptr;
  }
  if (::ftruncate(fd, 0) != 0 || ::ftruncate(fd, static_cast<off_t>(value.bytes)) != 0) {
    ::unlink(path.c_str());
    ::close(fd);
    return nullptr;
  }
  error.clear();
  return std::unique_ptr<ValueCopy>(new ValueCopy(folder, value, fd));
}

ValueCopy::~ValueCopy() {
  struct flock alone = whole(F_WRLCK);
  if (::getpid() == pid_ && (!finished_ || ::fcntl(fd_, F_OFD_SETLK, &alone) == 0)) ::unlink(path_.c_str());
  ::close(fd_);
}

std::shared_ptr<std::byte> ValueCopy::memory(std::string& error) {
  if (memory_bytes_ >= value_.bytes) return memory_;
  error = no_room(value_);
  if (::fallocate(fd_, 0, 0, static_cast<off_t>(value_.bytes)) != 0) return nullptr;
  void* data = ::mmap(nullptr, value_.bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd_, 0);
  if (data == MAP_FAILED) return nullptr;
  ::madvise(data, value_.bytes, MADV_DONTFORK);
  const std::uint64_t size = value_.bytes;
  memory_ = {static_cast<std::byte*>(data), [size](std::byte* mapped) { ::munmap(mapped, size); }};
  memory_bytes_ = size;
  error.clear();
  return memory_;
}

/// Who opened the file by its old name finds it locked, or that it has another name by now (HeldSegment::open).
bool ValueCopy::begin_again(const ValueId& value) {
  if (!finished_ || !is_value_name(value.name) || memory_bytes_ < value.bytes ||
      memory_bytes_ / 2 > value.bytes)
    return false;
  struct flock alone = whole(F_WRLCK), shared = whole(F_RDLCK);
  if (::fcntl(fd_, F_OFD_SETLK, &alone) != 0) return false;
  std::string path = folder_ + "/" + value.name + ".part";
  if (::renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, path.c_str(), RENAME_NOREPLACE) != 0) {
    ::fcntl(fd_, F_OFD_SETLK, &shared);
    return false;
  }
  path_ = std::move(path);
  value_ = value;
  asked_.clear();
  again_.clear();
  next_ = written_ = 0;
  finished_ = false;
  return true;
}

std::optional<ValueCopy::Part> ValueCopy::next() {
  if (asked_.size() >= kValueWindow) return std::nullopt;
  Part part{next_, std::min(kValueChunkBytes, value_.bytes - next_)};
  if (!again_.empty()) {
    part = {again_.begin()->first, again_.begin()->second};
    again_.erase(again_.begin());
  } else if (part.count == 0) {
    return std::nullopt;
  } else {
    next_ += part.count;
  }
  asked_[part.offset] = part.count;
  return part;
}

std::string ValueCopy::take(std::uint64_t offset, std::span<const std::byte> bytes) {
  const auto asked = asked_.find(offset);
  if (asked == asked_.end() || asked->second != bytes.size()) return "a part of a value was not asked for";
  std::uint64_t at = offset;
  while (!bytes.empty()) {
    const ssize_t count = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(at));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return no_room(value_);
    bytes = bytes.subspan(static_cast<std::size_t>(count));
    at += static_cast<std::uint64_t>(count);
  }
  written_ += asked->second;
  asked_.erase(asked);
  return {};
}

void ValueCopy::source_lost() {
  again_.merge(asked_);
  asked_.clear();
}

std::shared_ptr<MappedSegment> ValueCopy::finish() {
  if (!complete()) return nullptr;
  struct flock lock = whole(F_RDLCK);
  if (::fcntl(fd_, F_OFD_SETLK, &lock) != 0 ||
      ::rename(path_.c_str(), (folder_ + "/" + value_.name).c_str()) != 0)
    return nullptr;
  finished_ = true;
  path_ = folder_ + "/" + value_.name;
  auto held = open_value(folder_, value_);
  if (held == nullptr) ::unlink(path_.c_str());  // the bytes of something else
  return held;
}

}  // namespace betterbox
