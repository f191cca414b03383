#include "scheduler/status.h"

#include <string>
#include <utility>
#include <vector>

#include "runtime/limits.h"
#include "scheduler/values.h"

namespace betterbox::scheduler {
namespace {

/// Bytes of a report that peers, boxes and calls may take each: together they fit the body of a message.
constexpr std::size_t kPartBytes = kMaxBodyBytes / 4;
/// What an entry takes beside its texts and lists, generously.
constexpr std::size_t kEntryBytes = 192;
constexpr std::size_t kTextBytes = 8;

std::vector<Counter> counters_of(const Counters& c) {
  return {
      {"malformed_messages", c.malformed_messages},
      {"refused_messages", c.refused_messages},
      {"refused_sessions", c.refused_sessions},
      {"sessions_begun", c.sessions_begun},
      {"sessions_ended", c.sessions_ended},
      {"sessions_resumed", c.sessions_resumed},
      {"peers_lost", c.peers_lost},
      {"messages_received", c.messages_received},
      {"messages_relayed", c.messages_relayed},
      {"stale_outcomes", c.stale_outcomes},
      {"items_settled", c.items_settled},
      {"items_lost", c.items_lost},
      {"items_retried", c.items_retried},
      {"leases_granted", c.leases_granted},
      {"leases_cut", c.leases_cut},
      {"revokes_sent", c.revokes_sent},
      {"values_broadcast", c.values_broadcast},
  };
}

PeerStatus status_of(const Peer& peer) {
  PeerStatus status{peer.role,
                    peer.id,
                    peer.name,
                    peer.host,
                    peer.pid,
                    peer.agent.function_slots,
                    0,
                    peer.log_folder,
                    peer.connected(),
                    peer.agent.capacity,
                    peer.agent.load};
  for (const auto& [port, member] : peer.agent.memberships) status.leased_items += member.outstanding;
  return status;
}

CallStatus status_of(const CallState& call) {
  return {call.id,
          call.port,
          call.method,
          call.name,
          call.items.known_end(),
          call.items.settled_items(),
          call.items.unsettled_items() - call.items.pending_items()};
}

std::size_t bytes_of(const PeerStatus& peer) {
  std::size_t bytes = kEntryBytes + peer.name.size() + peer.host.size() + peer.log_folder.size();
  for (const Amount& amount : peer.capacity.named) bytes += 2 * kTextBytes + amount.name.size();
  return bytes;
}

std::size_t bytes_of(const BoxEntry& box) {
  std::size_t bytes = kEntryBytes + box.info.class_name.size() + box.endpoint.size() +
                      box.network_endpoint.size() + box.host.size();
  for (const MethodInfo& method : box.info.methods) bytes += 2 * kTextBytes + method.name.size();
  return bytes;
}

std::size_t bytes_of(const CallStatus& call) { return kEntryBytes + call.method.size() + call.name.size(); }

/// Adds entries while they fit, and counts the others.
template <class Entry> class Bounded {
 public:
  Bounded(std::vector<Entry>& entries, const char* what) : entries_(entries), what_(what) {}
  void add(Entry&& entry) {
    bytes_ += bytes_of(entry);
    if (bytes_ <= kPartBytes) {
      entries_.push_back(std::move(entry));
    } else {
      ++left_out_;
    }
  }
  void say_left_out(std::vector<Counter>& counters) const {
    if (left_out_ > 0) counters.push_back({std::string(what_) + "_not_shown", left_out_});
  }

 private:
  std::vector<Entry>& entries_;
  const char* what_;
  std::size_t bytes_ = 0;
  std::uint64_t left_out_ = 0;
};

}  // namespace

StatusReport status_report(const State& state, TimePoint now) {
  StatusReport report;
  const Config& own = state.config;
  report.scheduler = {Role::kScheduler, own.peer, own.name, own.host, own.pid, 0, 0, "", true, {}, {}};
  report.uptime_ns = (now - state.started).ns;
  Bounded<PeerStatus> peers(report.peers, "peers");
  for (const auto& [id, peer] : state.peers) peers.add(status_of(peer));
  Bounded<BoxEntry> boxes(report.boxes, "boxes");
  for (const auto& [port, at_port] : state.boxes) {
    for (const auto& [joined, entry] : at_port) boxes.add(BoxEntry(entry));
  }
  Bounded<CallStatus> calls(report.calls, "calls");
  for (const auto& [id, call] : state.calls) calls.add(status_of(call));
  report.counters = counters_of(state.counters);
  report.values = value_statuses(state, kPartBytes / kEntryBytes / 2);
  peers.say_left_out(report.counters);
  boxes.say_left_out(report.counters);
  calls.say_left_out(report.counters);
  return report;
}

}  // namespace betterbox::scheduler
