// A stream socket between two processes of one host, over which messages go without an io thread in between (docs/
// protocol.md, section "Carrier"). It stands beside a ZeroMQ connection, which tells whether the peer lives.
//
// The listener's socket lies beside the one of ZeroMQ, in a folder that only its owner can enter. Both ends check that
// the other belongs to the same user; where that is not so, or the name is too long, there is no such link and messages
// go over ZeroMQ.
//
// Bytes: the connecting side's token (8 bytes), then both ways messages: u32 count of frames, u32 zero, a u64 size of
// each, the frames.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/frame.h"
#include "runtime/time.h"

namespace betterbox {

using LinkToken = std::array<char, 8>;

/// Where links to the listener at `path` are made; empty: that name would be too long.
std::string link_path_of(const std::string& path);
/// Listens for links beside the socket at `path`, in place of what lies there. Result: a descriptor, or -1.
int listen_for_links(const std::string& path);
/// Who looked at the door.
enum class Caller { kNobody, kOurs, kStranger, kNoRoom };
/// Takes one in: `fd` is set for kOurs. Strangers are turned away. kNoRoom: no descriptors are left.
Caller accept_link(int listener, int& fd);
/// Result: a descriptor that may be written to, or -1.
int connect_link(const std::string& path, const LinkToken& token);
/// Result: 1: read; 0: it has not come yet; -1: it never will.
int read_token(int fd, LinkToken& token);

class DirectLink {
 public:
  /// Takes over `fd`.
  explicit DirectLink(int fd) : fd_(fd) {}
  ~DirectLink();
  DirectLink(const DirectLink&) = delete;
  DirectLink& operator=(const DirectLink&) = delete;

  int fd() const { return fd_; }
  /// To be written by flush().
  void queue(std::string head, std::span<const Frame> payload);
  std::size_t queued_bytes() const { return queued_; }
  /// Bytes that the other end has taken so far, for who wants to know whether it reads.
  std::uint64_t written_bytes() const { return written_; }
  std::size_t queued_frames() const { return pending_.size(); }
  /// Writes what goes now. Result: true if nothing is left, or if nobody can read it any more.
  bool flush();
  /// The same, and waits for the other end to read.
  void flush_until(TimePoint deadline);

  enum class Reading {
    kMessage,  ///< one was read
    kDry,      ///< no whole one is there
    kOver,     ///< the other end is closed, and all of it was read
    kTooLarge  ///< over the limits
  };
  /// The next message's frames.
  Reading read(Frames& frames);
  /// Look at the socket again: it may have more.
  void wake() { silent_ = false; }

 private:
  enum class Filling { kSome, kNone, kEnd };
  Filling fill();
  bool take_sizes();
  Reading take_frames(Frames& frames);
  std::size_t buffered() const { return end_ - begin_; }

  int fd_;
  std::deque<Frame> pending_;
  std::size_t offset_ = 0;  // written of pending_.front()
  std::size_t queued_ = 0;
  std::uint64_t written_ = 0;

  std::vector<std::byte> buffer_;
  std::size_t begin_ = 0, end_ = 0;     // in buffer_: not taken yet
  bool silent_ = false;                 // the last read took all there was
  std::vector<std::uint64_t> sizes_;    // of the message that arrives
  Frames arrived_;                      // of it
  std::shared_ptr<std::byte[]> large_;  // the frame that arrives, if it is no small one
  std::size_t large_got_ = 0;
};

}  // namespace betterbox
