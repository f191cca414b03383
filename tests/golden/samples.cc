// The samples behind tests/golden/*.hex. tests/decoder/test_decoder.py expects the same values.
#include "tests/golden/samples.h"

#include <cstdio>

#include "runtime/codec.h"

namespace betterbox {
namespace {

const CallId kCall{PeerId{0x1122334455667788}, 9};
const BoxId kBox{PeerId{0xA1A2A3A4A5A6A7A8}, SeatId{3}, 2};

BoxInfo box_info() {
  return {kBox,
          Port{8090},
          "ABox",
          true,
          {{"name", kPlainMethod}, {"tick", kConcurrentMethod}, {"wait", kAsyncMethod}}};
}
BoxEntry box_entry() {
  return {box_info(), "ipc:///run/user/1000/betterbox/0/a", "tcp://10.0.0.7:40123", "node1", 4242, 17};
}

CallStats call_stats() {
  CallStats stats;
  stats.total = 1000;
  stats.closed = true;
  stats.settled = 900;
  stats.makespan_ns = 5'000'000'000;
  stats.busy_ns = 9'000'000'000;
  stats.longest_ns = 70'000'000;
  stats.agents = {{PeerId{0xA1A2A3A4A5A6A7A8},
                   "w-1",
                   "node1",
                   4242,
                   2,
                   900,
                   9'000'000'000,
                   20'000'000,
                   4'900'000'000,
                   1,
                   3,
                   50,
                   {{SeatId{0}, 400, 4'000'000'000, 60'000'000, 20'000'000, 4'800'000'000},
                    {SeatId{1}, 500, 5'000'000'000, 70'000'000, 30'000'000, 4'900'000'000}}}};
  stats.waiting = "no worker has joined";
  stats.policy = "auto";
  stats.pending = 50;
  stats.leases = 12;
  stats.splits = 4;
  stats.copies = 2;
  stats.copies_won = 1;
  stats.wasted_ns = 80'000'000;
  stats.ideal_ns = 4'500'000'000;
  stats.greedy_ns = 4'600'000'000;
  return stats;
}

DeathReport death() { return {11, 3, "node1", 4343, 123456, "Fatal error: \xC3\xA9"}; }

Resources resources() { return {4'000, 8'000'000'000, 1'500, {{"licence", 2'000}, {"tape", 500}}}; }

Load load() { return {2, 1'250, 3'000'000'000, true, true, 90'000, 3, false}; }

PeerStatus peer_status() {
  return {Role::kWorker,
          PeerId{0xA1A2A3A4A5A6A7A8},
          "w-1",
          "node1",
          4242,
          2,
          77,
          "/var/log/betterbox",
          false,
          resources(),
          load()};
}

ValueId value() { return {"betterbox-0-1122334455667788-7", 7, 1'052'672}; }

Frames frames(std::initializer_list<const char*> texts) {
  Frames all;
  for (const char* text : texts) all.push_back(Frame(std::string(text)));
  return all;
}

void add_greeting(std::vector<Message>& all) {
  Hello hello;
  hello.role = Role::kWorker;
  hello.peer = PeerId{0xA1A2A3A4A5A6A7A8};
  hello.session = 2;
  hello.python = "3.11";
  hello.host = "node1";
  hello.boot_id = "0b8e5b8e-0000-4000-8000-123456789abc";
  hello.pid = 4242;
  hello.name = "w-1";
  hello.endpoint = "ipc:///run/user/1000/betterbox/0/a";
  hello.network_endpoint = "tcp://10.0.0.7:40123";
  hello.log_folder = "/var/log/betterbox";
  hello.background = true;
  hello.leases = {{LeaseId{5}, {{10, 20}, {30, 31}}}, {LeaseId{6}, {{0, 1}}}};
  hello.calls = {1, 2, 3};
  hello.store = "0b8e5b8e-0000-4000-8000-123456789abc:25";
  all.push_back({hello, {}});
  all.push_back({Welcome{PeerId{0xB1},
                         2,
                         "node0",
                         99,
                         {LeaseId{6}},
                         {{1, 100}, {3, 0}},
                         "0b8e5b8e-0000-4000-8000-123456789abc:25"},
                 {}});
  all.push_back({Refused{RefusalCode::kIdentity, "the peer id is in use"}, {}});
  all.push_back({Bye{}, {}});
}

void add_boxes(std::vector<Message>& all) {
  all.push_back({Offer{2, {box_info()}, {{PeerId{0xA1}, SeatId{1}, 1}}, resources()}, {}});
  all.push_back({Watch{Port{8090}}, {}});
  all.push_back({Unwatch{Port{8091}}, {}});
  all.push_back({Boxes{Port{8090}, true, {box_entry()}, {kBox}}, {}});
  all.push_back({BoxCall{41, kBox, "name"}, frames({"arguments"})});
  all.push_back({BoxCancel{41}, {}});
  all.push_back({BoxReply{41}, frames({"\x05MyBox"})});
}

void add_calls(std::vector<Message>& all) {
  all.push_back({Call{9,
                      Port{8090},
                      "energy",
                      2,
                      true,
                      true,
                      1'500'000'000,
                      "sweep",
                      {{0, 5}},
                      "fac2",
                      -3,
                      resources(),
                      50,
                      true,
                      {{value(), "store"}},
                      {0x0123456789ABCDEF, 0xFEDCBA9876543210},
                      6},
                 frames({"context"})});
  all.push_back({Items{9, {{0, 2}, {2, 3}}, true, {1, 2, 0.5F, 4, 8}}, frames({"page one", "page two"})});
  all.push_back({Cancel{9, {4, 8}}, {}});
  all.push_back({Forget{9}, {}});
  all.push_back({Results{12, 9, {{0, 2}, {4, 1}}}, frames({"page a", "page b"})});
  all.push_back({Acknowledge{12}, {}});
  all.push_back({Settled{9, call_stats()}, {}});
  all.push_back({Explain{9}, {}});
  all.push_back({Explanation{9, call_stats()}, {}});
}

void add_leases(std::vector<Message>& all) {
  all.push_back(
      {Context{kCall, Port{8090}, "energy", true, "auto", 7, resources(), {{value(), "store"}}, 3, {1, 2}, 6},
       frames({"context"})});
  all.push_back({Lease{LeaseId{5}, kCall, {10, 20}, 1, {{8, 8}, {16, 8}}, {0.5F, 2}, 2, 10'000'000},
                 frames({"page one", "page two"})});
  all.push_back({Revoke{LeaseId{5}, 4}, {}});
  all.push_back({Released{LeaseId{5}, {{16, 20}}}, {}});
  all.push_back({Abandon{LeaseId{5}, {12, 14}}, {}});
  all.push_back({DropCall{kCall}, {}});
  all.push_back(
      {Outcomes{
           7, LeaseId{5}, {{10, 2, 3000}}, {{SeatId{1}, 2, 3000, 5e6, 2000}}, {{12, death()}}, 3, 70'000},
       frames({"page a"})});
}

void add_deployment(std::vector<Message>& all) {
  all.push_back({Deploy{4, Port{8090}, 4, "keeper"}, frames({"box"})});
  all.push_back({Host{kCall, Port{8090}, 2, 2, 5, "keeper"}, frames({"box"})});
  all.push_back({Hosted{kCall, false}, frames({"error"})});
  all.push_back({Deployed{4, false, "no worker has joined"}, frames({"error"})});
  all.push_back({Undeploy{kCall}, {}});
}

void add_status(std::vector<Message>& all) {
  all.push_back({Status{}, {}});
  StatusReport report;
  report.scheduler = peer_status();
  report.scheduler.role = Role::kScheduler;
  report.uptime_ns = 123'456'789;
  report.peers = {peer_status()};
  report.boxes = {box_entry()};
  report.calls = {{kCall, Port{8090}, "energy", "sweep", 1000, 900, 50}};
  report.counters = {{"malformed_messages", 3}, {"stale_outcomes", 1}};
  report.values = {{value(), "ndarray", "node1", 4242, 2, 3, 1, 2}};
  all.push_back({report, {}});
}

void add_engine(std::vector<Message>& all) {
  all.push_back({Accepted{9, 5}, {}});
  all.push_back({load(), {}});
  all.push_back({OpenLane{42, kBox, 4711, 17, 0x1122334455667788}, {}});
}

void add_values(std::vector<Message>& all) {
  const std::string store = "0b8e5b8e-0000-4000-8000-123456789abc:25";
  const PeerId peer{0xA1A2A3A4A5A6A7A8};
  all.push_back({Hold{value(), store, "ndarray", 3}, {}});
  all.push_back({Drop{value().name}, {}});
  all.push_back({Keep{value(), store}, {}});
  all.push_back({Kept{value(), false, "no room"}, {}});
  all.push_back({Discard{value().name}, {}});
  all.push_back({Locate{value(), store, peer}, {}});
  all.push_back({Source{value().name, true, peer, "ipc:///run/a", "nobody has it"}, {}});
  all.push_back({Fetch{peer, value(), 4096, 1048576}, {}});
  all.push_back({Chunk{peer, value().name, 4096}, frames({"bytes"})});
  all.push_back({Fetched{value().name, true}, {}});
  all.push_back({Broadcast{7, value(), store, {0, 3, 5}}, {}});
  all.push_back({Relay{peer, false}, frames({"first", "payload"})});
  all.push_back({Waits{3, kBox, kCall, {kBox}, {9, 10}}, {}});
  all.push_back({Deadlock{3, "box A waits for box A"}, {}});
  all.push_back({Inquire{9, 3, {{0, 4}, {6, 7}}, true}, {}});
  all.push_back({Begun{9, 3, {{2, 4}}}, {}});
}

void add_proof(std::vector<Message>& all) {
  all.push_back({Proof{0xA1A2A3A4A5A6A7A8, 0xB1B2B3B4B5B6B7B8}, {}});
}

std::string hex(std::span<const std::byte> bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const std::byte b : bytes) {
    text += kDigits[std::to_integer<unsigned>(b) >> 4];
    text += kDigits[std::to_integer<unsigned>(b) & 15];
  }
  return text;
}

}  // namespace

std::vector<Message> golden_messages() {
  std::vector<Message> all;
  add_greeting(all);
  add_boxes(all);
  add_calls(all);
  add_leases(all);
  add_deployment(all);
  add_status(all);
  add_engine(all);
  add_values(all);
  add_proof(all);
  return all;
}

std::string golden_file_name(const Message& message) {
  char number[8];
  std::snprintf(number, sizeof number, "%02zu_", message.body.index() + 1);
  return number + std::string(kind_name(message.body)) + ".hex";
}

std::string golden_text(const Message& message) {
  const std::string first = encode(message);
  std::string text = hex(std::as_bytes(std::span(first))) + "\n";
  for (const Frame& frame : message.frames) text += hex(frame.bytes()) + "\n";
  return text;
}

}  // namespace betterbox
