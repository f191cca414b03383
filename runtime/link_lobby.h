// LinkLobby: links that were taken in and whose connections are not known yet (docs/protocol.md, "Carrier").
//
// A link is there from when it is accepted until its connection has named it. Each has an age after which it is closed, and
// when there are too many the oldest goes: a crowd that says nothing keeps nobody out.
#pragma once

#include <cstddef>
#include <list>
#include <map>
#include <optional>
#include <unordered_map>

#include "runtime/direct_link.h"
#include "runtime/time.h"

namespace betterbox {

class LinkLobby {
 public:
  explicit LinkLobby(std::size_t most) : most_(most) {}
  ~LinkLobby() { clear(); }
  LinkLobby(const LinkLobby&) = delete;
  LinkLobby& operator=(const LinkLobby&) = delete;

  /// Takes over `fd`. The oldest is closed if there are too many.
  void enter(int fd, TimePoint now);
  bool contains(int fd) const { return by_fd_.contains(fd); }

  enum class Reading {
    kNamed,  ///< its token was read: `token`
    kDry,    ///< it has not come
    kGone    ///< it never will: the link is closed
  };
  /// REQUIRES: contains(fd), and its token was not read.
  Reading read(int fd, LinkToken& token);
  /// The link of this token, which leaves; or -1.
  int take(const LinkToken& token);
  void drop(int fd);
  /// Closes those that came before `then`.
  void expire(TimePoint then);
  bool empty() const { return links_.empty(); }
  void clear();

 private:
  struct Link {
    int fd = -1;
    TimePoint since;
    std::optional<LinkToken> token;
  };
  using At = std::list<Link>::iterator;
  int remove(At at);

  const std::size_t most_;
  std::list<Link> links_;  // the oldest first
  std::unordered_map<int, At> by_fd_;
  std::map<LinkToken, At> by_token_;
};

}  // namespace betterbox
