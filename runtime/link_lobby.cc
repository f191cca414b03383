#include "runtime/link_lobby.h"

#include <unistd.h>

#include <iterator>

namespace betterbox {

/// Result: its descriptor, which is the caller's now.
int LinkLobby::remove(At at) {
  const int fd = at->fd;
  by_fd_.erase(fd);
  if (at->token) by_token_.erase(*at->token);
  links_.erase(at);
  return fd;
}

void LinkLobby::enter(int fd, TimePoint now) {
  while (links_.size() >= most_) ::close(remove(links_.begin()));
  links_.push_back({fd, now, std::nullopt});
  by_fd_[fd] = std::prev(links_.end());
}

LinkLobby::Reading LinkLobby::read(int fd, LinkToken& token) {
  const At at = by_fd_.at(fd);
  const int got = read_token(fd, token);
  if (got == 0) return Reading::kDry;
  if (got < 0 || !by_token_.emplace(token, at).second) {  // two of one token: somebody plays
    drop(fd);
    return Reading::kGone;
  }
  at->token = token;
  return Reading::kNamed;
}

int LinkLobby::take(const LinkToken& token) {
  const auto found = by_token_.find(token);
  return found == by_token_.end() ? -1 : remove(found->second);
}

void LinkLobby::drop(int fd) {
  if (const auto found = by_fd_.find(fd); found != by_fd_.end()) ::close(remove(found->second));
}

void LinkLobby::expire(TimePoint then) {
  while (!links_.empty() && links_.front().since < then) ::close(remove(links_.begin()));
}

void LinkLobby::clear() {
  while (!links_.empty()) ::close(remove(links_.begin()));
}

}  // namespace betterbox
