// Client, fourth part: how direct calls get to their boxes, and lanes to those on this host (runtime/lane.h).
//
// Order. Calls of this client to one box run in the order in which they were made, except those of concurrent and async
// methods. A lane and the link to the agent are two ways that could overtake each other, so calls use one of them only
// when none is under way on the other; what has to wait for that, or for room, waits in the route's queue.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "runtime/client.h"
#include "runtime/shared_items.h"
#include "runtime/slot_limits.h"

namespace betterbox {
namespace {

/// A lane is worth its making from this call on.
constexpr std::uint64_t kCallsBeforeLane = 2;

template <class T> std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

}  // namespace

Client::BoxRoute& Client::route_to(Link& link, const BoxId& box) {
  const auto [at, fresh] = link.routes.try_emplace(box);
  BoxRoute& route = at->second;
  if (!fresh) return route;
  route.link = &link;
  if (const BoxEntry* entry = find_entry(box)) {
    for (const MethodInfo& method : entry->info.methods) {
      if ((method.flags & (kConcurrentMethod | kAsyncMethod)) != 0) route.express.insert(method.name);
    }
    route.near = entry->host == options_.host && !link.relayed;
  }
  return route;
}

bool Client::near(const std::vector<BoxId>& boxes) {
  const Lock lock(mutex_);
  return std::all_of(boxes.begin(), boxes.end(), [&](const BoxId& box) {
    const auto link = links_.find(box.agent);
    return link != links_.end() && link->second.same_store;
  });
}

const BoxEntry* Client::find_entry(const BoxId& box) const {
  for (const auto& [port, watched] : watched_) {
    for (const auto& [joined, entry] : watched.boxes) {
      if (entry.info.box == box) return &entry;
    }
  }
  return nullptr;
}

void Client::begin_direct(BoxRoute& route, Message message, Flight flight) {
  const auto& call = std::get<BoxCall>(message.body);
  const std::uint64_t serial = call.serial;
  if (route.express.contains(call.method)) {
    route.link->in_flight[serial] = {std::move(flight), nullptr};
    return send_on_link(*route.link, std::move(message));
  }
  if (++route.calls == kCallsBeforeLane && route.near) open_lane(route, call.box);
  if (route.queue.empty() && dispatch(route, message, flight)) return;
  route.queued[serial] = std::move(flight);
  route.queue.push_back(std::move(message));
}

/// Result: false if it has to wait.
bool Client::dispatch(BoxRoute& route, Message& message, Flight& flight) {
  if (auto* cancel = std::get_if<BoxCancel>(&message.body)) {
    return !route.lane || route.lane->send(LaneRecord::kCancel, {bytes_of(cancel->serial)});
  }
  const auto& call = std::get<BoxCall>(message.body);
  const std::uint64_t serial = call.serial;
  const Frame& arguments = message.frames.front();
  const bool has_lane = route.lane && route.lane->up();
  if (has_lane && LaneRing::may_fit(call.method.size() + arguments.size() + sizeof(LaneCall))) {
    if (route.on_link > 0 || route.in_lane.size() >= kMaxDirectCallsInFlight) return false;
    if (pollers_ > 0) route.lane->want_bell(true);  // they do not know of this lane
    const LaneCall head{serial, static_cast<std::uint32_t>(call.method.size()), 0};
    if (!route.lane->send(LaneRecord::kCall,
                          {bytes_of(head), std::as_bytes(std::span(call.method)), arguments.bytes()})) {
      if (route.lane->broken()) busy_lanes_.insert(&route);  // it is ended at the next look
      return false;
    }
    route.in_lane.emplace(serial, std::move(flight));
    if (route.in_lane.size() == 1) busy_lanes_.insert(&route);
    return true;
  }
  if (!route.in_lane.empty()) return false;
  ++route.on_link;
  route.link->in_flight[serial] = {std::move(flight), &route};
  send_on_link(*route.link, std::move(message));
  return true;
}

void Client::pump(BoxRoute& route) {
  while (!route.queue.empty()) {
    Message& message = route.queue.front();
    const auto* call = std::get_if<BoxCall>(&message.body);
    Flight flight;
    if (call != nullptr) {
      const auto at = route.queued.find(call->serial);
      if (at == route.queued.end()) {  // cancelled
        route.queue.pop_front();
        continue;
      }
      const std::uint64_t serial = call->serial;
      flight = at->second;
      if (!dispatch(route, message, flight)) return;
      route.queued.erase(serial);
    } else if (!dispatch(route, message, flight)) {
      return;
    }
    route.queue.pop_front();
  }
}

// --- the life of a lane -------------------------------------------------------------------------

void Client::open_lane(BoxRoute& route, const BoxId& box) {
  if (lane_pipe_[0] < 0) {
    if (::pipe2(lane_pipe_, O_CLOEXEC | O_NONBLOCK) != 0) return;
    wake_pollers();
  }
  route.lane = ClientLane::create(lane_pipe_[1]);
  if (!route.lane) return;
  route.lane_serial = next_direct_serial_++;
  route.link->in_flight[route.lane_serial] = {{nullptr, 0}, &route};
  send_on_link(*route.link, {OpenLane{route.lane_serial, box, options_.pid,
                                      static_cast<std::uint32_t>(route.lane->fd()), route.lane->nonce()},
                             {}});
}

/// What the slot had answered counts; what it had not is what `page` says.
void Client::end_lane(BoxRoute& route, const Frame& page) {
  drain_lane(route);
  busy_lanes_.erase(&route);
  route.lane.reset();
  route.near = false;
  const auto lost = std::exchange(route.in_lane, {});
  for (const auto& [serial, flight] : lost) settle_flight(flight, page);
  pump(route);
}

std::size_t Client::lanes() {
  Lock lock = enter();
  std::size_t count = 0;
  for (auto& [agent, link] : links_) {
    for (auto& [box, route] : link.routes) count += route.lane && route.lane->up() ? 1 : 0;
  }
  return count;
}

/// When the client is closed: its calls are over, the memory can go.
void Client::drop_lanes() {
  busy_lanes_.clear();
  for (auto& [agent, link] : links_) {
    for (auto& [box, route] : link.routes) {
      route.lane.reset();
      route.in_lane.clear();
    }
  }
}

/// A box that has left the bus is called no more, once what is under way has ended.
void Client::forget_route(const BoxId& box) {
  const auto link = links_.find(box.agent);
  if (link == links_.end()) return;
  const auto at = link->second.routes.find(box);
  if (at == link->second.routes.end()) return;
  const BoxRoute& route = at->second;
  if (!route.lane && route.in_lane.empty() && route.queue.empty() && route.on_link == 0)
    link->second.routes.erase(at);
}

// --- replies ------------------------------------------------------------------------------------

void Client::settle_flight(const Flight& flight, const Frame& page) {
  const Frame taken = take_shared(page, flight.item);  // also what nobody wants any more: it is freed
  if (flight.call == nullptr || flight.call->over) return;
  settle(flight.call, flight.item, 1, taken);
  check_over(flight.call);
}

/// A reply that was too large for its lane comes over the link.
void Client::settle_in_lane(Link& link, std::uint64_t serial, const Frame& page) {
  for (auto& [box, route] : link.routes) {
    const auto at = route.in_lane.find(serial);
    if (at == route.in_lane.end()) continue;
    const Flight flight = std::move(at->second);
    route.in_lane.erase(at);
    if (route.in_lane.empty()) busy_lanes_.erase(&route);
    settle_flight(flight, page);
    return pump(route);
  }
  take_shared(page, 0);  // of a call that was cancelled: what was sent is freed
}

bool Client::drain_lane(BoxRoute& route) {
  if (!route.lane) return false;
  bool any = false;
  Record record;
  while (route.lane->receive(record)) {
    std::uint64_t serial = 0;
    if (record.payload.size() >= sizeof serial) std::memcpy(&serial, record.payload.data(), sizeof serial);
    const auto at = route.in_lane.find(serial);
    const bool reply = record.kind == static_cast<std::uint32_t>(LaneRecord::kReply);
    // Calls are answered once, and only those that were cancelled are skipped.
    if (at == route.in_lane.end() || (!reply && at->second.call != nullptr)) {
      route.lane->give_up();
      break;
    }
    const Flight flight = std::move(at->second);
    route.in_lane.erase(at);
    any = true;
    if (!reply) continue;
    settle_flight(flight, make_single_page(std::as_bytes(std::span(record.payload)).subspan(sizeof serial)));
  }
  if (route.in_lane.empty()) busy_lanes_.erase(&route);
  return any;
}

void Client::drain_lanes() {
  if (busy_lanes_.empty()) return;
  bool any = false;
  const std::vector<BoxRoute*> routes(busy_lanes_.begin(), busy_lanes_.end());
  for (BoxRoute* route : routes) {
    any = drain_lane(*route) || any;
    pump(*route);
    if (!route->lane->broken()) continue;
    send_over(*route->link, {BoxCancel{route->lane_serial}, {}});
    const auto opening = route->link->in_flight.find(route->lane_serial);
    if (opening != route->link->in_flight.end()) {
      route->link->uncount(opening->second);
      route->link->in_flight.erase(opening);
    }
    const std::string item = make_lost_item(LostCode::kBoxLost, 0, {}, "its lane was written over");
    end_lane(*route, make_single_page(std::as_bytes(std::span(item))));
    any = true;
  }
  if (any && waiters_ > 0) wake_waiters();  // whoever polls will not see what was taken from under it
}

/// Cancelled, or too late: what has not begun is not to begin.
void Client::drop_direct(const CallPtr& call) {
  for (auto& [agent, connected] : links_) {
    Link& link = connected;
    std::vector<BoxRoute*> freed;
    std::erase_if(link.in_flight, [&](const auto& entry) {
      if (entry.second.call != call) return false;
      link.uncount(entry.second);
      if (entry.second.sent) send_over(link, {BoxCancel{entry.first}, {}});
      if (entry.second.route != nullptr) --entry.second.route->on_link, freed.push_back(entry.second.route);
      return true;
    });
    for (auto& [box, route] : link.routes) {
      std::erase_if(route.queued, [&](const auto& entry) { return entry.second.call == call; });
      for (auto& [serial, flight] : route.in_lane) {
        if (flight.call != call) continue;
        flight.call = nullptr;  // still answered
        Message cancel{BoxCancel{serial}, {}};
        if (!route.queue.empty() || !dispatch(route, cancel, flight))
          route.queue.push_back(std::move(cancel));
      }
    }
    for (BoxRoute* route : freed) pump(*route);
    pump(link);
  }
}

// --- waiting ------------------------------------------------------------------------------------

/// Asks the slots to ring. Result: false if there is a reply already.
bool Client::prepare_lanes_for_sleep() {
  for (BoxRoute* route : busy_lanes_) route->lane->want_bell(true);
  for (BoxRoute* route : busy_lanes_) {
    if (route->lane->has_replies()) {
      lanes_are_awake();
      return false;
    }
  }
  return true;
}

/// Slots that neither read nor answer although something is under way.
void Client::look_after_lanes() {
  const TimePoint now = monotonic_now();
  if (busy_lanes_.empty() || now < next_lane_look_) return;
  next_lane_look_ = now + kSeatLookInterval;
  for (BoxRoute* route : busy_lanes_) {
    if (!route->in_lane.empty() && !route->lane->slot_attends()) route->lane->give_up();
  }
}

/// Who still polls may not have seen the ring that is taken away here: it is armed again. What has come until then
/// the caller drains.
void Client::lanes_are_awake() {
  if (lane_pipe_[0] < 0) return;
  look_after_lanes();
  for (BoxRoute* route : busy_lanes_) route->lane->want_bell(pollers_ > 0);
  char rings[64];
  while (::read(lane_pipe_[0], rings, sizeof rings) == sizeof rings) {}
}

/// A short look at the lanes without the mutex, by one thread at a time. Result: true if something came.
bool Client::look_at_lanes(Lock& lock) {
  if (busy_lanes_.empty() || spinning_) return false;
  std::vector<std::shared_ptr<ClientLane>> lanes;
  for (BoxRoute* route : busy_lanes_) lanes.push_back(route->lane);
  spinning_ = true;
  lock.unlock();
  const bool found = spinner_.spin([&] {
    for (const auto& lane : lanes) {
      if (lane->has_replies()) return true;
    }
    return false;
  });
  lock.lock();
  spinning_ = false;
  if (!found) return false;
  drain_lanes();
  ++waits_;
  last_wait_ = monotonic_now();  // the driver stays away
  return true;
}

}  // namespace betterbox
