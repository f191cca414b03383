// Client: the boxes that it watches, the links to their agents, deployment, status.
#include <algorithm>
#include <utility>

#include "runtime/client.h"

namespace betterbox {

// --- boxes and links ------------------------------------------------------------------------------

void Client::watch(Port port) {
  Lock lock = enter();
  if (watched_[port].users++ == 0) send({Watch{port}, {}});
  drain();
}

void Client::unwatch(Port port) {
  if (forked()) return;
  Lock lock = enter();
  const auto found = watched_.find(port);
  if (found == watched_.end() || --found->second.users > 0) return;
  watched_.erase(found);
  send({Unwatch{port}, {}});
  drain();
}

void Client::on_boxes(const Boxes& boxes) {
  const auto found = watched_.find(boxes.port);
  if (found == watched_.end()) return;
  WatchedPort& watched = found->second;
  watched.known = true;
  if (boxes.snapshot) watched.boxes.clear();
  for (const BoxId& box : boxes.left) {
    std::erase_if(watched.boxes, [&](const auto& entry) { return entry.second.info.box == box; });
    forget_route(box);
  }
  for (const BoxEntry& entry : boxes.joined) {
    std::erase_if(watched.boxes, [&](const auto& known) { return known.second.info.box == entry.info.box; });
    watched.boxes[entry.joined] = entry;
    link_to(entry);
  }
}

Client::Link& Client::link_to(const BoxEntry& entry) {
  const PeerId agent = entry.info.box.agent;
  if (const auto found = links_.find(agent); found != links_.end()) return found->second;
  Link& link = links_[agent];
  link.endpoint =
      entry.host == options_.host || entry.network_endpoint.empty() ? entry.endpoint : entry.network_endpoint;
  link.agent = agent;
  link.connection = connect(link.endpoint);
  link_of_[link.connection] = agent;
  Hello hello = make_hello(Role::kClient);
  --session_number_;  // counts sessions with the scheduler only
  hello.session = link.connection.value;
  transport_->send(link.connection, {std::move(hello), {}});
  return link;
}

void Client::on_link(Link& link, Message& message) {
  if (auto* reply = std::get_if<BoxReply>(&message.body)) {
    const Frame page = make_single_page(message.frames.at(0).bytes());
    const auto found = link.in_flight.find(reply->serial);
    if (found == link.in_flight.end()) return settle_in_lane(link, reply->serial, page);
    const Link::OnLink flight = found->second;
    link.in_flight.erase(found);
    if (flight.call == nullptr && flight.route != nullptr) return end_lane(*flight.route, page);
    settle_flight(flight, page);
    if (flight.route != nullptr) --flight.route->on_link, pump(*flight.route);
    while (link.waiting_from < link.waiting.size() && link.sent_in_flight() < kMaxDirectCallsInFlight) {
      transport_->send(link.connection, link.waiting[link.waiting_from++]);
    }
    if (link.waiting_from == link.waiting.size()) link.waiting.clear(), link.waiting_from = 0;
  } else if (const auto* welcome = std::get_if<Welcome>(&message.body)) {
    if (link.ready == 0) link.ready = ++answers_;
    link.same_store = !welcome->store.empty() && welcome->store == options_.store;
  } else if (std::get_if<Refused>(&message.body) || std::get_if<Bye>(&message.body)) {
    const ConnectionId connection = link.connection;
    transport_->close(connection);
    on_link_closed(connection);
  }
}

void Client::on_link_closed(ConnectionId connection) {
  const auto found = link_of_.find(connection);
  if (found == link_of_.end()) return;
  const PeerId agent = found->second;
  link_of_.erase(found);
  Link& link = links_.at(agent);
  std::vector<Flight> lost;
  for (auto& [box, route] : link.routes) {
    drain_lane(route);
    for (const auto& [serial, flight] : route.in_lane) lost.push_back(flight);
    for (const auto& [serial, flight] : route.queued) lost.push_back(flight);
    busy_lanes_.erase(&route);
  }
  for (const auto& [serial, flight] : link.in_flight) lost.push_back(flight);
  links_.erase(agent);
  const std::string item =
      make_lost_item(LostCode::kBoxLost, 0, {},
                     "its process ended or the connection to it broke while the call was under way");
  const Frame page = make_single_page(std::as_bytes(std::span(item)));
  for (const Flight& flight : lost) settle_flight(flight, page);
}

std::vector<BoxEntry> Client::answered(Port port) {
  std::vector<BoxEntry> result;
  if (const auto watched = watched_.find(port); watched != watched_.end()) {
    for (const auto& [joined, entry] : watched->second.boxes) {
      const auto link = links_.find(entry.info.box.agent);
      if (link != links_.end() && link->second.ready != 0) result.push_back(entry);
    }
  }
  return result;
}

std::optional<BoxEntry> Client::first_answer(Port port) {
  std::optional<BoxEntry> best;
  std::uint64_t best_order = 0;
  for (BoxEntry& entry : answered(port)) {
    const std::uint64_t order = links_.at(entry.info.box.agent).ready;
    if (!best || order < best_order) best = std::move(entry), best_order = order;
  }
  return best;
}

std::vector<BoxEntry> Client::boxes(Port port) {
  Lock lock = enter();
  drain();
  return answered(port);
}

std::vector<BoxEntry> Client::wait_boxes(Port port, std::size_t count, TimePoint deadline,
                                         const Interrupt& interrupt) {
  {
    Lock lock = enter();
    for (const auto& [joined, entry] : watched_[port].boxes) link_to(entry);
  }
  wait([&] { return answered(port).size() >= count; }, deadline, interrupt);
  Lock lock = enter();
  return answered(port);
}

std::optional<BoxEntry> Client::first_box(Port port, TimePoint deadline, const Interrupt& interrupt) {
  {
    Lock lock = enter();
    for (const auto& [joined, entry] : watched_[port].boxes) link_to(entry);
  }
  wait([&] { return first_answer(port).has_value(); }, deadline, interrupt);
  Lock lock = enter();
  return first_answer(port);
}

// --- deployment and status ------------------------------------------------------------------------

Client::DeployResult Client::deploy(Port port, std::uint32_t slots, const std::string& name, Frame payload,
                                    TimePoint deadline, const Interrupt& interrupt) {
  std::uint64_t serial = 0;
  {
    Lock lock = enter();
    serial = next_serial_++;
    send({Deploy{serial, port, slots, name}, {std::move(payload)}});
  }
  const bool answered =
      wait([&] { return deployed_.contains(serial) || session_ != Session::kOpen; }, deadline, interrupt);
  Lock lock = enter();
  if (const auto found = deployed_.find(serial); found != deployed_.end()) {
    DeployResult result = std::move(found->second);
    deployed_.erase(found);
    return result;
  }
  if (session_ == Session::kOpen) send({Undeploy{{options_.peer, serial}}, {}});
  return {false, answered ? "the bus was lost" : "the workers did not have the boxes up in time", {}, serial};
}

void Client::undeploy(std::uint64_t serial) {
  Lock lock = enter();
  if (session_ == Session::kOpen) send({Undeploy{{options_.peer, serial}}, {}});
  drain();
}

StatusReport Client::status(TimePoint deadline, const Interrupt& interrupt) {
  {
    Lock lock = enter();
    status_.reset();
    send({Status{}, {}});
  }
  wait([&] { return status_.has_value() || session_ != Session::kOpen; }, deadline, interrupt);
  Lock lock = enter();
  if (!status_) throw BusError("the scheduler at " + options_.endpoint + " did not answer");
  return *status_;
}

}  // namespace betterbox
