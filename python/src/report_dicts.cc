// CallStats and StatusReport as plain dicts (python/src/report_dicts.h).
#include "python/src/report_dicts.h"

#include "runtime/time.h"

namespace py = pybind11;

namespace betterbox {

namespace {

py::dict to_dict(const AgentStats& agent) {
  py::list seats;
  for (const SlotStats& seat : agent.seats) {
    py::dict fields;
    fields["slot"] = seat.seat.value;
    fields["items"] = seat.items;
    fields["busy_s"] = Duration{seat.busy_ns}.seconds();
    fields["longest_s"] = Duration{seat.longest_ns}.seconds();
    fields["first_s"] = Duration{seat.first_ns}.seconds();
    fields["last_s"] = Duration{seat.last_ns}.seconds();
    seats.append(fields);
  }
  py::dict fields;
  fields["agent"] = agent.agent.value;
  fields["name"] = agent.name;
  fields["host"] = agent.host;
  fields["pid"] = agent.pid;
  fields["slots"] = agent.slots;
  fields["items"] = agent.items;
  fields["busy_s"] = Duration{agent.busy_ns}.seconds();
  fields["first_s"] = Duration{agent.first_ns}.seconds();
  fields["last_s"] = Duration{agent.last_ns}.seconds();
  fields["retries"] = agent.retries;
  fields["steals"] = agent.steals;
  fields["outstanding"] = agent.outstanding;
  fields["seats"] = seats;
  return fields;
}

}  // namespace

py::dict to_dict(const CallStats& stats) {
  py::list agents;
  for (const AgentStats& agent : stats.agents) agents.append(to_dict(agent));
  py::dict fields;
  fields["total"] = stats.closed ? py::object(py::int_(stats.total)) : py::object(py::none());
  fields["known"] = stats.total;
  fields["settled"] = stats.settled;
  fields["makespan_s"] = Duration{stats.makespan_ns}.seconds();
  fields["busy_s"] = Duration{stats.busy_ns}.seconds();
  fields["longest_s"] = Duration{stats.longest_ns}.seconds();
  fields["agents"] = agents;
  fields["waiting"] = stats.waiting;
  fields["policy"] = stats.policy;
  fields["pending"] = stats.pending;
  fields["leases"] = stats.leases;
  fields["splits"] = stats.splits;
  fields["copies"] = stats.copies;
  fields["copies_won"] = stats.copies_won;
  fields["wasted_s"] = Duration{stats.wasted_ns}.seconds();
  fields["ideal_s"] = Duration{stats.ideal_ns}.seconds();
  fields["greedy_s"] = Duration{stats.greedy_ns}.seconds();
  return fields;
}

namespace {

py::dict to_dict(const Resources& resources) {
  py::dict named;
  for (const Amount& amount : resources.named)
    named[py::cast(amount.name)] = static_cast<double>(amount.milli) / 1000;
  py::dict fields;
  fields["cpus"] = static_cast<double>(resources.cpus_milli) / 1000;
  fields["memory"] =
      resources.memory_bytes == kAnyMemory ? py::object(py::none()) : py::int_(resources.memory_bytes);
  fields["gpus"] = static_cast<double>(resources.gpus_milli) / 1000;
  fields["resources"] = named;
  return fields;
}

py::dict to_dict(const Load& load) {
  py::dict fields;
  fields["busy_slots"] = load.busy_slots;
  fields["others_cpus"] = static_cast<double>(load.others_cpus_milli) / 1000;
  fields["memory"] = load.memory_bytes;
  fields["waiting_slots"] = load.waiting_slots;
  fields["paused"] = load.paused;
  fields["ending"] = load.ending;
  fields["time_left"] = load.time_left_ms == 0 ? py::object(py::none())
                                               : py::float_(1e-3 * static_cast<double>(load.time_left_ms));
  return fields;
}

py::dict to_dict(const PeerStatus& peer) {
  static const char* const kRoles[] = {"unknown", "scheduler", "worker", "box host", "client"};
  const auto role = static_cast<std::size_t>(peer.role);
  py::dict fields;
  fields["role"] = kRoles[role < 5 ? role : 0];
  fields["peer"] = peer.peer.value;
  fields["name"] = peer.name;
  fields["host"] = peer.host;
  fields["pid"] = peer.pid;
  fields["slots"] = peer.function_slots;
  fields["leased_items"] = peer.leased_items;
  fields["log_folder"] = peer.log_folder;
  fields["connected"] = peer.connected;
  fields["capacity"] = to_dict(peer.capacity);
  fields["load"] = to_dict(peer.load);
  return fields;
}

}  // namespace

py::tuple key_of(const BoxId& box) { return py::make_tuple(box.agent.value, box.seat.value, box.life); }

py::dict to_dict(const StatusReport& report) {
  py::list peers, boxes, calls, values;
  py::dict counters;
  for (const PeerStatus& peer : report.peers) peers.append(to_dict(peer));
  for (const BoxEntry& entry : report.boxes) {
    py::list methods;
    for (const MethodInfo& method : entry.info.methods) methods.append(method.name);
    py::dict fields;
    fields["port"] = entry.info.port.value;
    fields["class"] = entry.info.class_name;
    fields["box"] = key_of(entry.info.box);
    fields["host"] = entry.host;
    fields["pid"] = entry.pid;
    fields["network_endpoint"] = entry.network_endpoint;
    fields["methods"] = methods;
    boxes.append(fields);
  }
  for (const CallStatus& call : report.calls) {
    py::dict fields;
    fields["client"] = call.call.client.value;
    fields["serial"] = call.call.serial;
    fields["port"] = call.port.value;
    fields["method"] = call.method;
    fields["name"] = call.name;
    fields["total"] = call.total;
    fields["settled"] = call.settled;
    fields["running"] = call.running;
    calls.append(fields);
  }
  for (const ValueStatus& value : report.values) {
    py::dict fields;
    fields["name"] = value.value.name;
    fields["bytes"] = value.value.bytes;
    fields["label"] = value.label;
    fields["owner_host"] = value.owner_host;
    fields["owner_pid"] = value.owner_pid;
    fields["holders"] = value.holders;
    fields["replicas"] = value.replicas;
    fields["copies"] = value.copies;
    fields["stores"] = value.stores;
    values.append(fields);
  }
  py::object clock = py::none();
  for (const Counter& counter : report.counters) {
    if (counter.name == kClockCounter) {
      clock = py::float_(static_cast<double>(counter.value) * 1e-6);
    } else {
      counters[py::cast(counter.name)] = counter.value;
    }
  }
  py::dict fields;
  fields["scheduler"] = to_dict(report.scheduler);
  fields["uptime_s"] = Duration{report.uptime_ns}.seconds();
  fields["clock_s"] = clock;
  fields["peers"] = peers;
  fields["boxes"] = boxes;
  fields["calls"] = calls;
  fields["counters"] = counters;
  fields["values"] = values;
  return fields;
}

}  // namespace betterbox
