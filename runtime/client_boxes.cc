// Client: the boxes that it watches, the links to their agents, deployment, status.
#include <algorithm>
#include <utility>

#include "runtime/client.h"
#include "runtime/codec.h"

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
  link.agent = agent;
  // A socket of this host's name may lie in another container.
  if (entry.host == options_.host || entry.network_endpoint.empty()) link.endpoints.push_back(entry.endpoint);
  if (!entry.network_endpoint.empty()) link.endpoints.push_back(entry.network_endpoint);
  try_next_way(link);
  return link;
}

void Client::try_next_way(Link& link) {
  if (link.connection) {
    transport_->close(link.connection);
    link_of_.erase(link.connection);
    link.connection = {};
  }
  reaching_.erase(link.agent);
  if (link.endpoints.empty()) {
    link.relayed = true;
  } else {
    const std::string endpoint = std::move(link.endpoints.front());
    link.endpoints.pop_front();
    link.connection = connect(endpoint);
    link_of_[link.connection] = link.agent;
    if (endpoint.starts_with("tcp://")) reaching_[link.agent] = monotonic_now() + kReachTimeout;
  }
  Hello hello = make_hello(Role::kClient);
  --session_number_;  // counts sessions with the scheduler only
  hello.session = 1;
  send_over(link, {std::move(hello), {}});
}

void Client::check_reached(TimePoint now) {
  std::vector<PeerId> late;
  for (const auto& [agent, until] : reaching_) {
    if (until <= now) late.push_back(agent);
  }
  for (const PeerId agent : late) try_next_way(links_.at(agent));
}

void Client::send_over(const Link& link, const Message& message) {
  if (!link.relayed) {
    transport_->send(link.connection, message);
  } else if (session_ == Session::kOpen) {
    send(wrap(link.agent, message));
  }
}

void Client::close_link(const Link& link) {
  if (!link.relayed) {
    transport_->close(link.connection);
  } else if (session_ == Session::kOpen) {
    send({Relay{link.agent, true}, {}});
  }
}

void Client::on_relay(const Relay& relay, Frames&& frames) {
  const auto found = links_.find(relay.peer);
  if (found == links_.end() || !found->second.relayed) return;
  auto inner = relay.over ? DecodeError{} : unwrap(std::move(frames));
  if (auto* message = std::get_if<Message>(&inner)) return on_link(found->second, *message);
  if (!relay.over) close_link(found->second);
  lose_link(relay.peer);
}

void Client::on_link(Link& link, Message& message) {
  if (auto* reply = std::get_if<BoxReply>(&message.body)) {
    const Frame page = make_single_page(message.frames.at(0).bytes());
    const auto found = link.in_flight.find(reply->serial);
    if (found == link.in_flight.end()) return settle_in_lane(link, reply->serial, page);
    const Link::OnLink flight = found->second;
    link.in_flight.erase(found);
    link.uncount(flight);
    if (flight.call == nullptr && flight.route != nullptr) return end_lane(*flight.route, page);
    settle_flight(flight, page);
    if (flight.route != nullptr) --flight.route->on_link, pump(*flight.route);
    pump(link);
  } else if (const auto* welcome = std::get_if<Welcome>(&message.body)) {
    if (link.ready == 0) link.ready = ++answers_;
    reaching_.erase(link.agent);
    pump(link);
    link.same_store = !welcome->store.empty() && welcome->store == options_.store;
  } else if (std::get_if<Refused>(&message.body) || std::get_if<Bye>(&message.body)) {
    close_link(link);
    lose_link(link.agent);
  }
}

void Client::on_link_closed(ConnectionId connection) {
  const auto found = link_of_.find(connection);
  if (found == link_of_.end()) return;
  Link& link = links_.at(found->second);
  const bool elsewhere = !link.endpoints.empty() || session_ == Session::kOpen;
  link.ready == 0 && elsewhere ? try_next_way(link) : lose_link(link.agent);
}

void Client::lose_relayed_links() {
  std::vector<PeerId> relayed;
  for (const auto& [agent, link] : links_) {
    if (link.relayed) relayed.push_back(agent);
  }
  for (const PeerId agent : relayed) lose_link(agent);
}

void Client::lose_link(PeerId agent) {
  Link& link = links_.at(agent);
  link_of_.erase(link.connection);
  reaching_.erase(agent);
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
