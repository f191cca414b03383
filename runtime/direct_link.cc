// Direct links (runtime/direct_link.h).
#include "runtime/direct_link.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <new>
#include <string_view>
#include <utility>

#include "runtime/codec.h"
#include "runtime/limits.h"

namespace betterbox {
namespace {

/// The buffer of a link begins small and grows while reads fill it: a scheduler has many that say little.
constexpr std::size_t kFirstBufferBytes = 4U << 10, kBufferBytes = 64U << 10;
/// Frames from this size on are read to where they stay.
constexpr std::size_t kLargeFrame = 16U << 10;
constexpr int kSocketBytes = 1 << 20;
constexpr std::size_t kMostParts = 64;  // of one system call
static_assert(8 + 8 * (kMaxFrames + 1) <= kBufferBytes, "a message's sizes fit into the buffer");

constexpr std::string_view kLinkSuffix = ".l";

/// Result: false if the name is too long.
bool address_of(const std::string& path, sockaddr_un& address) {
  const std::string name = link_path_of(path);
  address = {};
  address.sun_family = AF_UNIX;
  if (name.empty()) return false;
  std::memcpy(address.sun_path, name.data(), name.size());
  return true;
}

bool is_ours(int fd) {
  ucred peer{};
  socklen_t size = sizeof peer;
  return ::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == ::geteuid();
}

void make_room(int fd) { ::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &kSocketBytes, sizeof kSocketBytes); }

}  // namespace

std::string link_path_of(const std::string& path) {
  std::string name = path + std::string(kLinkSuffix);
  return name.size() < sizeof sockaddr_un::sun_path ? name : std::string();
}

int listen_for_links(const std::string& path) {
  sockaddr_un address{};
  if (!address_of(path, address)) return -1;
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -1;
  ::unlink(address.sun_path);  // of a process that was killed: names hold the id of an incarnation
  if (::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 &&
      ::listen(fd, kListenBacklog) == 0)
    return fd;
  ::close(fd);
  return -1;
}

Caller accept_link(int listener, int& fd) {
  do {
    // Not by the wrapper: ours waits without descriptors (runtime/patient_accept.cc).
    fd = static_cast<int>(::syscall(SYS_accept4, listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) {
    const bool full = errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS;
    return full ? Caller::kNoRoom : Caller::kNobody;
  }
  if (!is_ours(fd)) {
    ::close(fd);
    return Caller::kStranger;
  }
  make_room(fd);
  return Caller::kOurs;
}

int connect_link(const std::string& path, const LinkToken& token) {
  sockaddr_un address{};
  if (!address_of(path, address)) return -1;
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -1;
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 && is_ours(fd) &&
      ::send(fd, token.data(), token.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(token.size())) {
    make_room(fd);
    return fd;
  }
  ::close(fd);
  return -1;
}

int read_token(int fd, LinkToken& token) {
  const ssize_t size = ::recv(fd, token.data(), token.size(), MSG_DONTWAIT | MSG_PEEK);
  if (size < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
  if (size <= 0) return -1;
  if (size < static_cast<ssize_t>(token.size())) return 0;
  return ::recv(fd, token.data(), token.size(), MSG_DONTWAIT) == size ? 1 : -1;
}

DirectLink::~DirectLink() { ::close(fd_); }

void DirectLink::flush_until(TimePoint deadline) {
  for (TimePoint now = monotonic_now(); !flush() && now < deadline; now = monotonic_now()) {
    pollfd entry{fd_, POLLOUT, 0};
    ::poll(&entry, 1, static_cast<int>((deadline - now).ns / 1'000'000 + 1));
  }
}

// --- leaving --------------------------------------------------------------------------------------

void DirectLink::queue(std::string head, std::span<const Frame> payload) {
  const auto count = static_cast<std::uint32_t>(1 + payload.size());
  std::string first(8 + 8 * count, '\0');
  std::memcpy(first.data(), &count, sizeof count);
  const auto note = [&first](std::size_t i, std::uint64_t size) {
    std::memcpy(first.data() + 8 + 8 * i, &size, sizeof size);
  };
  note(0, head.size());
  for (std::size_t i = 0; i < payload.size(); ++i) note(1 + i, payload[i].size());
  first += head;
  queued_ += first.size();
  pending_.emplace_back(std::move(first));
  for (const Frame& frame : payload) {
    if (frame.empty()) continue;
    queued_ += frame.size();
    pending_.push_back(frame);
  }
}

bool DirectLink::flush() {
  while (!pending_.empty()) {
    iovec parts[kMostParts];
    std::size_t count = 0;
    for (auto frame = pending_.begin(); frame != pending_.end() && count < kMostParts; ++frame, ++count) {
      const std::size_t skipped = count == 0 ? offset_ : 0;
      parts[count] = {const_cast<std::byte*>(frame->data()) + skipped, frame->size() - skipped};
    }
    msghdr message{};
    message.msg_iov = parts;
    message.msg_iovlen = count;
    ssize_t written = ::sendmsg(fd_, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0 && errno == EAGAIN) return false;
    if (written < 0) {  // the other end is closed: reading tells
      pending_.clear();
      offset_ = queued_ = 0;
      return true;
    }
    queued_ -= static_cast<std::size_t>(written);
    written_ += static_cast<std::uint64_t>(written);
    while (written > 0) {
      const std::size_t left = pending_.front().size() - offset_;
      if (static_cast<std::size_t>(written) < left) {
        offset_ += static_cast<std::size_t>(written);
        break;
      }
      written -= static_cast<ssize_t>(left);
      offset_ = 0;
      pending_.pop_front();
    }
  }
  return true;
}

// --- arriving -------------------------------------------------------------------------------------

/// One look at the socket: into the large frame that arrives, or into the buffer, which has room then.
DirectLink::Filling DirectLink::fill() {
  if (silent_) return Filling::kNone;
  if (buffer_.empty()) buffer_.resize(kFirstBufferBytes);
  if (begin_ == end_) begin_ = end_ = 0;
  if (begin_ == 0 && end_ == buffer_.size()) buffer_.resize(std::min(2 * end_, kBufferBytes));
  if (begin_ > 0 && end_ == buffer_.size()) {
    std::copy(buffer_.begin() + static_cast<std::ptrdiff_t>(begin_),
              buffer_.begin() + static_cast<std::ptrdiff_t>(end_), buffer_.begin());
    end_ -= std::exchange(begin_, 0);
  }
  std::byte* to = buffer_.data() + end_;
  std::size_t room = buffer_.size() - end_;
  if (large_) {
    to = large_.get() + large_got_;
    room = sizes_[arrived_.size()] - large_got_;
  }
  for (;;) {
    const ssize_t got = ::recv(fd_, to, room, MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) return silent_ = true, Filling::kNone;
    if (got <= 0) return Filling::kEnd;
    (large_ ? large_got_ : end_) += static_cast<std::size_t>(got);
    silent_ = static_cast<std::size_t>(got) < room;  // the socket tells when there is more
    if (!silent_ && !large_ && buffer_.size() < kBufferBytes) buffer_.resize(2 * buffer_.size());
    return Filling::kSome;
  }
}

/// Result: false if they are not all there.
bool DirectLink::take_sizes() {
  std::uint32_t count = 0;
  if (buffered() < 8) return false;
  std::memcpy(&count, buffer_.data() + begin_, sizeof count);
  const std::size_t bytes = 8 + 8 * std::min<std::size_t>(count, kMaxFrames + 2);
  if (count <= kMaxFrames + 1 && buffered() < bytes) return false;
  sizes_.resize(count <= kMaxFrames + 1 ? count : 0);
  if (!sizes_.empty()) std::memcpy(sizes_.data(), buffer_.data() + begin_ + 8, 8 * sizes_.size());
  begin_ += 8 + 8 * sizes_.size();
  return true;
}

/// As far as they have come.
DirectLink::Reading DirectLink::take_frames(Frames& frames) {
  while (arrived_.size() < sizes_.size()) {
    const std::size_t size = sizes_[arrived_.size()];
    if (!large_ && size < kLargeFrame) {
      if (buffered() < size) return Reading::kDry;
      arrived_.push_back(Frame::copy_of({buffer_.data() + begin_, size}));
      begin_ += size;
      continue;
    }
    if (!large_) {
      try {
        large_ = std::make_shared_for_overwrite<std::byte[]>(size);  // what is only claimed is not touched
      } catch (const std::bad_alloc&) {
        return Reading::kTooLarge;
      }
      large_got_ = std::min(size, buffered());
      std::copy_n(buffer_.data() + begin_, large_got_, large_.get());
      begin_ += large_got_;
    }
    if (large_got_ < size) return Reading::kDry;
    const std::byte* bytes = large_.get();
    arrived_.emplace_back(std::exchange(large_, nullptr), bytes, size);
  }
  frames = std::exchange(arrived_, {});
  sizes_.clear();
  return Reading::kMessage;
}

DirectLink::Reading DirectLink::read(Frames& frames) {
  for (;;) {
    if (!sizes_.empty() || take_sizes()) {
      if (sizes_.empty() || sizes_[0] > kHeaderBytes + kMaxBodyBytes ||
          *std::max_element(sizes_.begin(), sizes_.end()) > kMaxFrameBytes) {
        return Reading::kTooLarge;
      }
      if (const Reading taken = take_frames(frames); taken != Reading::kDry) return taken;
    }
    switch (fill()) {
      case Filling::kSome: break;
      case Filling::kNone: return Reading::kDry;
      case Filling::kEnd: return Reading::kOver;
    }
  }
}

}  // namespace betterbox
