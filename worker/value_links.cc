#include "worker/value_links.h"

#include <algorithm>
#include <utility>

namespace betterbox {

void ValueLinks::send(TimePoint now, const std::string& endpoint, const Fetch& fetch) {
  if (endpoint.empty()) return users_.relay({fetch, {}});
  const auto [at, fresh] = links_.try_emplace(endpoint);
  Link& link = at->second;
  if (fresh) {
    link.peer = fetch.peer;
    link.connection = transport_.connect(endpoint);
    link.deadline = now + kDirectLinkWait;
    endpoints_[link.connection] = endpoint;
    transport_.send(link.connection, {users_.hello(), {}});
  }
  if (link.relayed) return users_.relay({fetch, {}});
  if (!link.ready) {
    link.waiting.push_back(fetch);
    return;
  }
  link.deadline = now + kIdleLinkLife;
  transport_.send(link.connection, {fetch, {}});
}

bool ValueLinks::take(TimePoint now, TransportEvent& event) {
  const auto known = endpoints_.find(event.connection);
  if (known == endpoints_.end()) return false;
  const auto at = links_.find(known->second);
  Link& link = at->second;
  const bool refused =
      event.kind != TransportEvent::kClosed && std::holds_alternative<Refused>(event.message.body);
  if (event.kind == TransportEvent::kClosed || refused) {
    const PeerId peer = link.ready ? link.peer : PeerId{};
    give_up(now, at);
    if (peer) users_.lost(peer);
  } else if (std::holds_alternative<Welcome>(event.message.body)) {
    link.ready = true;
    link.deadline = now + kIdleLinkLife;
    for (const Fetch& fetch : std::exchange(link.waiting, {})) transport_.send(link.connection, {fetch, {}});
  } else if (const auto* chunk = std::get_if<Chunk>(&event.message.body)) {
    if (chunk->peer == link.peer) users_.chunk(*chunk, event.message.frames);
  }
  return true;
}

/// From here on through the scheduler; after a while the direct way is tried again.
void ValueLinks::give_up(TimePoint now, LinkAt at) {
  Link& link = at->second;
  endpoints_.erase(link.connection);
  transport_.close(link.connection);
  link.ready = false;
  link.relayed = true;
  link.deadline = now + kIdleLinkLife;
  for (const Fetch& fetch : std::exchange(link.waiting, {})) users_.relay({fetch, {}});
}

TimePoint ValueLinks::next_deadline() const {
  TimePoint first = TimePoint::never();
  for (const auto& [endpoint, link] : links_) first = std::min(first, link.deadline);
  return first;
}

void ValueLinks::on_deadline(TimePoint now) {
  for (auto at = links_.begin(); at != links_.end();) {
    const auto here = at++;
    Link& link = here->second;
    if (link.deadline > now) continue;
    if (!link.ready && !link.relayed) {
      give_up(now, here);
      continue;
    }
    if (link.ready) {
      endpoints_.erase(link.connection);
      transport_.send(link.connection, {Bye{}, {}});
      transport_.close(link.connection);
    }
    links_.erase(here);
  }
}

}  // namespace betterbox
