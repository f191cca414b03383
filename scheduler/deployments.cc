#include "scheduler/deployments.h"

#include <algorithm>

#include "runtime/printable.h"

namespace betterbox::scheduler {
namespace {

/// The client is told once; if it is away, when it is back.
void answer(const Turn& turn, Deployment& deployment, bool ok, std::string error, Frames frames) {
  deployment.answered = true;
  Peer* client = turn.state.find_peer(deployment.id.client);
  if (client == nullptr) return;
  Message message{Deployed{deployment.id.serial, ok, std::move(error)}, std::move(frames)};
  if (!turn.send(*client, message.body, message.frames))
    client->client.late_answers.push_back(std::move(message));
}

void take_down(const Turn& turn, const Deployment& deployment) {
  for (const auto& [id, hosted] : deployment.workers) {
    if (const Peer* worker = turn.state.find_peer(id)) turn.send(*worker, Undeploy{deployment.id});
  }
}

/// Slots per worker: one after the other to the worker that hosts fewest boxes.
std::map<PeerId, std::uint32_t> spread(const State& state, std::uint32_t slots) {
  std::set<std::pair<std::size_t, PeerId>> by_hosted;
  for (const auto& [id, peer] : state.peers) {
    if (peer.role == Role::kWorker && peer.connected()) by_hosted.insert({peer.agent.boxes.size(), id});
  }
  std::map<PeerId, std::uint32_t> shares;
  for (std::uint32_t i = 0; i < slots && !by_hosted.empty(); ++i) {
    auto fewest = by_hosted.extract(by_hosted.begin());
    ++shares[fewest.value().second];
    ++fewest.value().first;
    by_hosted.insert(std::move(fewest));
  }
  return shares;
}

}  // namespace

Complaint on_deploy(const Turn& turn, Peer& client, Deploy&& deploy, Frames&& frames) {
  const CallId id{client.id, deploy.serial};
  if (frames.size() != 1) return "Deploy needs the box as the one frame";
  if (turn.state.deployments.contains(id))
    return "Deploy " + std::to_string(deploy.serial) + " is there already";
  Deployment& deployment = turn.state.deployments[id];
  deployment.id = id;
  deployment.port = deploy.port;
  std::string error;
  if (deploy.port == kFunctionPool) error = "port 0 is not for boxes: use 1 to 65535";
  if (deploy.slots == 0) error = "at least one slot is needed";
  if (deploy.slots > kMaxSlots)
    error = "at most " + std::to_string(kMaxSlots) + " slots can be deployed at once";
  const auto shares = error.empty() ? spread(turn.state, deploy.slots) : std::map<PeerId, std::uint32_t>{};
  if (error.empty() && shares.empty()) error = "no worker is on the bus: start one with `betterbox worker`";
  if (!error.empty()) {
    answer(turn, deployment, false, error, {});
    turn.state.deployments.erase(id);
    return std::nullopt;
  }
  std::uint32_t first = 0;
  for (const auto& [worker, slots] : shares) {
    deployment.workers[worker] = false;
    turn.send(turn.state.peers.at(worker), Host{id, deploy.port, first, slots, deploy.slots, deploy.name},
              frames);
    first += slots;
  }
  return std::nullopt;
}

Complaint on_hosted(const Turn& turn, Peer& worker, const Hosted& hosted, Frames&& frames) {
  const auto it = turn.state.deployments.find(hosted.deployment);
  if (it == turn.state.deployments.end()) return std::nullopt;  // taken down meanwhile
  Deployment& deployment = it->second;
  const auto own = deployment.workers.find(worker.id);
  if (own == deployment.workers.end()) return "Hosted by a worker that was not asked";
  if (deployment.answered) return std::nullopt;
  if (!hosted.ok) {
    take_down(turn, deployment);
    answer(turn, deployment, false, "", std::move(frames));
    turn.state.deployments.erase(it);
    return std::nullopt;
  }
  own->second = true;
  const bool all = std::all_of(deployment.workers.begin(), deployment.workers.end(),
                               [](const auto& w) { return w.second; });
  if (all) answer(turn, deployment, true, "", {});
  return std::nullopt;
}

Complaint on_undeploy(const Turn& turn, Peer& client, const Undeploy& undeploy) {
  if (undeploy.deployment.client != client.id) return "Undeploy of a deployment of somebody else";
  const auto it = turn.state.deployments.find(undeploy.deployment);
  if (it == turn.state.deployments.end()) return std::nullopt;
  take_down(turn, it->second);
  turn.state.deployments.erase(it);
  return std::nullopt;
}

namespace {

/// Takes down the deployments that wait for this worker. Result: the others that it has boxes of.
std::vector<CallId> fail_waiting(const Turn& turn, const Peer& worker, const std::string& error) {
  std::vector<CallId> rest;
  auto it = turn.state.deployments.begin();
  while (it != turn.state.deployments.end()) {
    Deployment& deployment = it->second;
    const auto own = deployment.workers.find(worker.id);
    if (own != deployment.workers.end() && !deployment.answered && !own->second) {
      take_down(turn, deployment);
      answer(turn, deployment, false, error, {});
      it = turn.state.deployments.erase(it);
      continue;
    }
    if (own != deployment.workers.end()) rest.push_back(deployment.id);
    ++it;
  }
  return rest;
}

}  // namespace

void fail_unhosted(const Turn& turn, Peer& worker) {
  fail_waiting(turn, worker,
               "the connection to worker '" + printable(worker.name) + "' on " + printable(worker.host) +
                   " broke before its boxes were up");
}

void forget_worker(const Turn& turn, Peer& worker) {
  const std::string error = "worker '" + printable(worker.name) + "' on " + printable(worker.host) +
                            " was lost before its boxes were up";
  for (const CallId id : fail_waiting(turn, worker, error)) {
    Deployment& deployment = turn.state.deployments.at(id);
    deployment.workers.erase(worker.id);
    if (deployment.workers.empty()) turn.state.deployments.erase(id);
  }
}

}  // namespace betterbox::scheduler
