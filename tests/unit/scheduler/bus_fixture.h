// A bus without processes: tests play agents and clients by messages. Every table is checked after every
// event, and a test that leaves an effect unread fails.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "runtime/page.h"
#include "runtime/socket_names.h"
#include "scheduler/core.h"

namespace betterbox::scheduler {

inline Config test_config() {
  Config config;
  config.peer = PeerId{0x5EED};
  config.host = "here";
  config.boot_id = "boot";
  config.pid = 1;
  return config;
}

inline Frame page_of_bytes(std::size_t size) { return Frame(std::string(size, 'p')); }

/// A page of `count` one-byte items.
inline Frame page_of_items(std::uint64_t count) {
  PageBuilder builder;
  const std::byte none{0};
  for (std::uint64_t i = 0; i < count; ++i) builder.add({&none, 1});
  return builder.finish();
}

/// The other end of one peer.
struct Actor {
  Hello hello;
  ConnectionId connection;
};

class BusTest : public ::testing::Test {
 public:
  explicit BusTest(const Config& config = test_config()) : core(incarnation_.emplace(config, TimePoint{0})) {}

  void TearDown() override {
    core.sanity_check();
    for (const auto& [connection, messages] : inbox_) {
      for (const Message& message : messages) {
        ADD_FAILURE() << "nobody read " << kind_name(message.body) << " on connection " << connection.value;
      }
    }
    EXPECT_THAT(removed_sockets, ::testing::IsEmpty());
    EXPECT_THAT(stopped, ::testing::IsEmpty());
  }

  // --- what happens ----------------------------------------------------------------------------------

  void handle(Event&& event) {
    Effects effects;
    core.handle(now, std::move(event), effects);
    core.sanity_check();
    for (Record& record : effects.persist) journal.push_back(std::move(record));
    for (Effect& effect : effects.send) take(effect);
  }

  void say(const Actor& from, Body body, Frames frames = {}) {
    handle(MessageArrived{from.connection, {std::move(body), std::move(frames)}});
  }

  /// Time passes; the core gets every deadline that it asked for.
  void pass(Duration time) {
    const TimePoint until = now + time;
    while (core.next_deadline() <= until) {
      now = std::max(now, core.next_deadline());
      handle(DeadlineReached{});
    }
    now = until;
  }

  void cut(Actor& actor) {
    handle(ConnectionEnded{actor.connection, "cut", false});
    actor.connection = {};
  }

  void kill(Actor& actor) {
    handle(ProcessEnded{actor.hello.peer});
    cut(actor);
  }

  /// The scheduler's process dies; another one takes over with the journal. All connections are gone.
  void restart(std::vector<Actor*> actors) {
    Config config = core.state().config;
    ++config.peer.value;
    incarnation_.emplace(std::move(config), now, journal);
    core.sanity_check();
    inbox_.clear();
    for (Actor* actor : actors) actor->connection = {};
  }

  // --- actors ----------------------------------------------------------------------------------------

  Actor stranger(Role role, std::uint64_t id) {
    Actor actor;
    actor.hello.role = role;
    actor.hello.peer = PeerId{id};
    actor.hello.python = "3.11";
    actor.hello.host = "here";
    actor.hello.boot_id = "boot";
    actor.hello.pid = static_cast<std::uint32_t>(100 + id);
    actor.hello.name = "peer-" + std::to_string(id);
    actor.connection = new_connection();
    return actor;
  }

  Welcome greet(Actor& actor) {
    if (!actor.connection) actor.connection = new_connection();
    ++actor.hello.session;
    say(actor, actor.hello);
    return expect<Welcome>(actor);
  }

  Actor client(std::uint64_t id = 10) {
    Actor actor = stranger(Role::kClient, id);
    greet(actor);
    return actor;
  }

  Actor worker(std::uint64_t id, std::uint32_t slots, const Resources& capacity = {}) {
    Actor actor = stranger(Role::kWorker, id);
    actor.hello.endpoint = "ipc:///run/bus/" + socket_name_of(actor.hello.peer);
    greet(actor);
    say(actor, Offer{slots, {}, {}, capacity});
    return actor;
  }

  static BoxInfo box_info(const Actor& agent, std::uint32_t seat, std::uint16_t port,
                          std::uint32_t life = 0) {
    return {{agent.hello.peer, SeatId{seat}, life}, Port{port}, "ABox", false, {{"name", kPlainMethod}}};
  }

  /// A script that serves one box.
  Actor box_host(std::uint64_t id, std::uint16_t port) {
    Actor actor = stranger(Role::kBoxHost, id);
    actor.hello.endpoint = "ipc:///run/bus/" + socket_name_of(actor.hello.peer);
    greet(actor);
    say(actor, Offer{0, {box_info(actor, 0, port)}, {}});
    return actor;
  }

  // --- calls ----------------------------------------------------------------------------------------

  CallId open(const Actor& client, const Call& call) {
    say(client, call, {Frame("context")});
    return {client.hello.peer, call.serial};
  }

  CallId open_call(const Actor& client, std::uint64_t serial, std::uint16_t port = 0,
                   std::uint32_t retries = 2) {
    Call call;
    call.serial = serial;
    call.port = Port{port};
    call.method = "f";
    call.retries = retries;
    say(client, call, {Frame("context")});
    return {client.hello.peer, serial};
  }

  void add_items(const Actor& client, std::uint64_t serial, Range range, bool closed) {
    say(client, Items{serial, {{range.begin, range.size()}}, closed},
        {make_int_range_page(static_cast<std::int64_t>(range.begin), 1, range.size())});
  }

  /// A closed call of `items` items.
  CallId start_call(const Actor& client, std::uint64_t serial, std::uint64_t items, std::uint16_t port = 0,
                    std::uint32_t retries = 2) {
    const CallId id = open_call(client, serial, port, retries);
    add_items(client, serial, {0, items}, true);
    return id;
  }

  /// `held`: since the lease arrived; 0: not said.
  void finish(const Actor& agent, LeaseId lease, Range range, Duration each = milliseconds(1),
              Duration held = {}) {
    Outcomes outcomes;
    outcomes.held_ns = held.ns;
    outcomes.ack = ++outcomes_sent_[agent.hello.peer];
    outcomes.lease = lease;
    const std::int64_t busy = each.ns * static_cast<std::int64_t>(range.size());
    outcomes.spans = {{range.begin, range.size(), busy}};
    outcomes.seats = {
        {SeatId{0}, range.size(), busy, static_cast<double>(busy) * static_cast<double>(each.ns), each.ns}};
    say(agent, outcomes, {page_of_items(range.size())});
  }

  void lose(const Actor& agent, LeaseId lease, std::uint64_t index) {
    Outcomes outcomes;
    outcomes.ack = ++outcomes_sent_[agent.hello.peer];
    outcomes.lease = lease;
    outcomes.lost = {{index, {11, 0, "here", 77, 1000, "Segmentation fault"}}};
    say(agent, outcomes);
  }

  // --- what the core said -------------------------------------------------------------------------------

  template <class T> T expect(const Actor& actor, Frames* frames = nullptr) {
    auto& messages = inbox_[actor.connection];
    if (messages.empty()) {
      ADD_FAILURE() << "no message for " << actor.hello.name << ", wanted " << kind_name(T{});
      return {};
    }
    Message message = std::move(messages.front());
    messages.pop_front();
    const T* body = std::get_if<T>(&message.body);
    if (body == nullptr) {
      ADD_FAILURE() << actor.hello.name << " got " << kind_name(message.body) << ", wanted "
                    << kind_name(T{});
      return {};
    }
    if (frames != nullptr) *frames = std::move(message.frames);
    return *body;
  }

  bool has_message(const Actor& actor) { return !inbox_[actor.connection].empty(); }

  /// The next lease, with the context before it if this is the call's first one there.
  Lease expect_first_lease(const Actor& agent) {
    expect<Context>(agent);
    return expect<Lease>(agent);
  }

  std::vector<Lease> expect_leases(const Actor& agent) {
    std::vector<Lease> leases;
    while (has_message(agent)) {
      if (std::holds_alternative<Context>(inbox_[agent.connection].front().body)) expect<Context>(agent);
      leases.push_back(expect<Lease>(agent));
    }
    return leases;
  }

  /// Reads all results. Result: the items that have one.
  RangeSet expect_results(const Actor& client) {
    RangeSet items;
    while (has_message(client) && std::holds_alternative<Results>(inbox_[client.connection].front().body)) {
      Frames frames;
      const Results results = expect<Results>(client, &frames);
      EXPECT_EQ(results.spans.size(), frames.size());
      for (const PageSpan& span : results.spans) {
        EXPECT_EQ(items.insert({span.first, span.first + span.count}), span.count) << "delivered twice";
      }
      last_result = results.ack;
      last_pages = std::move(frames);
    }
    return items;
  }

  /// The code of the lost item that the last page read is.
  LostItemView expect_lost() {
    const auto view = last_pages.empty() ? std::nullopt : PageView::parse(last_pages.back().bytes());
    const auto lost = view ? parse_lost_item(view->item(0)) : std::nullopt;
    if (!lost) {
      ADD_FAILURE() << "no lost item";
      return {};
    }
    return *lost;
  }

  void forget_unread() { inbox_.clear(); }
  bool was_closed(ConnectionId connection) const { return ended.contains(connection); }
  std::uint64_t acknowledged(const Actor& agent) { return acknowledged_[agent.connection]; }
  const Counters& counters() const { return core.state().counters; }

  std::optional<SchedulerCore> incarnation_;
  SchedulerCore& core;
  std::vector<Record> journal;
  TimePoint now{0};
  std::set<ConnectionId> ended;
  std::vector<std::string> removed_sockets;
  std::vector<std::string> stopped;
  std::vector<ReadValue> reads;
  std::vector<Broadcast> given;
  std::uint64_t last_result = 0;
  Frames last_pages;

  ConnectionId new_connection() { return ConnectionId{++connections_}; }

 private:
  void take(Effect& effect) {
    if (auto* send = std::get_if<SendMessage>(&effect)) {
      // Acknowledgements come when they come: tests ask for the number.
      if (const auto* ack = std::get_if<Acknowledge>(&send->message.body)) {
        acknowledged_[send->connection] = ack->ack;
      } else {
        inbox_[send->connection].push_back(std::move(send->message));
      }
    } else if (auto* end = std::get_if<EndConnection>(&effect)) {
      ended.insert(end->connection);
    } else if (auto* remove = std::get_if<RemoveSocket>(&effect)) {
      removed_sockets.push_back(remove->path);
    } else if (auto* read = std::get_if<ReadValue>(&effect)) {
      reads.push_back(*read);
    } else if (auto* give = std::get_if<GiveValue>(&effect)) {
      given.push_back(give->broadcast);
    } else {
      stopped.push_back(std::get<Stop>(effect).reason);
    }
  }

  std::map<ConnectionId, std::deque<Message>> inbox_;
  std::map<ConnectionId, std::uint64_t> acknowledged_;
  std::map<PeerId, std::uint64_t> outcomes_sent_;
  std::uint64_t connections_ = 0;
};

}  // namespace betterbox::scheduler
