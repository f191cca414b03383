// A seeded simulation: agents run, die, return and drop connections; clients submit, cancel, forget and come
// back. First everything may fail; then all heals, and every call must settle. A failing seed is printed and
// repeats exactly.
#include <deque>
#include <memory>
#include <random>

#include "tests/unit/scheduler/bus_fixture.h"

namespace betterbox::scheduler {
namespace {

class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}
  std::uint64_t below(std::uint64_t n) { return engine_() % n; }
  bool chance(int percent) { return below(100) < static_cast<std::uint64_t>(percent); }

 private:
  std::mt19937_64 engine_;
};

class World;

/// A worker as the scheduler sees one: it holds leases, numbers its outcomes, keeps them until acknowledged.
class FakeAgent {
 public:
  FakeAgent(World& world, std::uint64_t id, std::uint32_t slots) : world_(world), slots_(slots) {
    hello_.role = Role::kWorker;
    hello_.peer = PeerId{id};
    hello_.python = "3.11";
    hello_.host = "there";
    hello_.pid = static_cast<std::uint32_t>(id);
    hello_.name = "w-" + std::to_string(id);
  }
  void connect();
  void cut();
  void receive(Message&& message);
  void step();
  void leave();
  bool connected() const { return static_cast<bool>(connection_); }
  ConnectionId connection() const { return connection_; }
  PeerId id() const { return hello_.peer; }
  bool welcomed = false;

 private:
  struct Held {
    CallId call;
    RangeSet todo;
  };
  void on_welcome(const Welcome& welcome);
  void say_load();
  void run_some(LeaseId id, Held& held);
  void say_outcomes(Outcomes&& outcomes, Frames&& frames);

  World& world_;
  std::uint32_t slots_;
  Hello hello_;
  ConnectionId connection_;
  std::map<LeaseId, Held> held_;
  std::deque<std::pair<Outcomes, Frames>> unacked_;
  std::uint64_t sent_ = 0;
  std::set<CallId> contexts_;
};

/// A client that checks what it gets: each item once, and Settled behind all of them.
class FakeClient {
 public:
  FakeClient(World& world, std::uint64_t id) : world_(world) {
    hello_.peer = PeerId{id};
    hello_.python = "3.11";
    hello_.host = "there";
    hello_.pid = static_cast<std::uint32_t>(id);
  }
  void connect();
  void cut();
  void receive(Message&& message);
  void step();
  void close_all();
  bool done() const;
  bool connected() const { return static_cast<bool>(connection_); }
  ConnectionId connection() const { return connection_; }
  bool welcomed = false;

 private:
  struct Open {
    std::uint64_t items = 0;
    bool closed = false;
    bool settled = false;
    RangeSet delivered;
  };
  void open_call();
  void send_call(std::uint64_t serial, const Open& call);
  void send_items(std::uint64_t serial, const Open& call, std::uint64_t from);
  void on_results(const Results& results);

  World& world_;
  Hello hello_;
  ConnectionId connection_;
  std::map<std::uint64_t, Open> calls_;
  std::uint64_t serials_ = 0;
};

/// Delivers messages in order, in both directions, or loses them with their connection.
class World {
 public:
  explicit World(std::uint64_t seed) : random(seed), core(incarnation.emplace(config_of(0), TimePoint{0})) {
    for (std::uint64_t i = 1; i <= 4; ++i)
      agents.push_back(std::make_unique<FakeAgent>(*this, i, 1 + random.below(4)));
    for (std::uint64_t i = 11; i <= 12; ++i) clients.push_back(std::make_unique<FakeClient>(*this, i));
    for (auto& agent : agents) agent->connect();
    for (auto& client : clients) client->connect();
  }

  void say(ConnectionId from, Body body, Frames frames = {}) {
    to_core.push_back({from, {std::move(body), std::move(frames)}});
  }

  static Config config_of(std::uint64_t incarnations) {
    Config config = test_config();
    config.journal = true;
    config.peer.value += incarnations;
    return config;
  }

  /// The scheduler dies with all connections, and another one takes over with what the journal has.
  void restart();

  void handle(Event&& event) {
    Effects effects;
    core.handle(now, std::move(event), effects);
    for (Record& record : effects.persist) journal.push_back(std::move(record));
    if (++handled % 4 == 0) core.sanity_check();
    for (Effect& effect : effects.send) {
      if (auto* send = std::get_if<SendMessage>(&effect)) {
        if (const auto* refused = std::get_if<Refused>(&send->message.body))
          ADD_FAILURE() << "refused: " << refused->text;
        if (open.contains(send->connection))
          from_core.emplace_back(send->connection, std::move(send->message));
      }
    }
  }

  ConnectionId connect() {
    const ConnectionId id{++connections};
    open.insert(id);
    return id;
  }

  /// What was on its way in both directions may be lost: a prefix of what the core gets still arrives.
  void end(ConnectionId connection) {
    open.erase(connection);
    std::erase_if(from_core, [&](const auto& m) { return m.first == connection; });
    const bool lose = random.chance(50);
    if (lose) std::erase_if(to_core, [&](const auto& m) { return m.connection == connection; });
    ended.push_back(connection);
  }

  void deliver_one_to_core() {
    if (to_core.empty()) {
      if (ended.empty()) return;
      const ConnectionId connection = ended.front();
      ended.pop_front();
      return handle(ConnectionEnded{connection, "cut", false});
    }
    auto arrived = std::move(to_core.front());
    to_core.pop_front();
    handle(std::move(arrived));
  }

  void deliver_one_from_core() {
    if (from_core.empty()) return;
    auto [connection, message] = std::move(from_core.front());
    from_core.pop_front();
    for (auto& agent : agents) {
      if (agent->connection() == connection) return agent->receive(std::move(message));
    }
    for (auto& client : clients) {
      if (client->connection() == connection) return client->receive(std::move(message));
    }
  }

  void pass(Duration time) {
    now = now + time;
    if (core.next_deadline() <= now) handle(DeadlineReached{});
  }

  void run_quiet() {
    while (!to_core.empty() || !from_core.empty() || !ended.empty()) {
      deliver_one_to_core();
      deliver_one_from_core();
    }
  }

  Random random;
  std::optional<SchedulerCore> incarnation;
  SchedulerCore& core;
  std::vector<Record> journal;
  std::uint64_t restarts = 0;
  TimePoint now{0};
  bool may_fail = true;
  std::uint64_t handled = 0;
  std::set<ConnectionId> open;
  std::deque<MessageArrived> to_core;
  std::deque<std::pair<ConnectionId, Message>> from_core;
  std::deque<ConnectionId> ended;
  std::uint64_t connections = 0;
  std::vector<std::unique_ptr<FakeAgent>> agents;
  std::vector<std::unique_ptr<FakeClient>> clients;
};

void World::restart() {
  for (auto& agent : agents) {
    if (agent->connected()) agent->cut();
  }
  for (auto& client : clients) {
    if (client->connected()) client->cut();
  }
  to_core.clear();
  ended.clear();
  if (random.chance(50)) journal = core.snapshot();
  incarnation.emplace(config_of(++restarts), now, journal);
  core.sanity_check();
}

// --- agents --------------------------------------------------------------------------------------------

void FakeAgent::connect() {
  connection_ = world_.connect();
  welcomed = false;
  ++hello_.session;
  hello_.leases.clear();
  std::map<LeaseId, RangeSet> undelivered;
  for (const auto& [id, held] : held_) undelivered[id] = held.todo;
  for (const auto& [outcomes, frames] : unacked_) {
    for (const OutcomeSpan& span : outcomes.spans)
      undelivered[outcomes.lease].insert({span.first, span.first + span.count});
    for (const LostItem& lost : outcomes.lost)
      undelivered[outcomes.lease].insert({lost.index, lost.index + 1});
  }
  for (const auto& [id, items] : undelivered) hello_.leases.push_back({id, items.ranges()});
  world_.say(connection_, hello_);
}

void FakeAgent::cut() {
  world_.end(connection_);
  connection_ = {};
}

void FakeAgent::say_load() {
  Load load;
  load.paused = world_.may_fail && world_.random.chance(30);
  load.others_cpus_milli = static_cast<std::uint32_t>(world_.random.below(3000));
  world_.say(connection_, load);
}

/// Its process ends and another one takes its place.
void FakeAgent::leave() {
  if (connected()) cut();
  held_.clear();
  unacked_.clear();
  contexts_.clear();
  sent_ = 0;
  hello_.peer.value += 100;
  hello_.session = 0;
  connect();
}

void FakeAgent::on_welcome(const Welcome& welcome) {
  welcomed = true;
  for (const LeaseId id : welcome.dropped_leases) {
    held_.erase(id);
    std::erase_if(unacked_, [&](const auto& kept) { return kept.first.lease == id; });
  }
  for (const auto& [outcomes, frames] : unacked_) world_.say(connection_, outcomes, frames);
  world_.say(connection_, Offer{slots_, {}, {}, {slots_ * 1000, kAnyMemory, 0, {}}});
  say_load();
}

void FakeAgent::receive(Message&& message) {
  if (auto* welcome = std::get_if<Welcome>(&message.body)) return on_welcome(*welcome);
  if (auto* context = std::get_if<Context>(&message.body)) {
    contexts_.insert(context->call);
  } else if (auto* lease = std::get_if<Lease>(&message.body)) {
    EXPECT_TRUE(contexts_.contains(lease->call)) << "a lease before its context";
    EXPECT_TRUE(lease->spans.front().first <= lease->range.begin &&
                lease->spans.back().first + lease->spans.back().count >= lease->range.end);
    held_[lease->lease] = {lease->call, RangeSet(lease->range)};
  } else if (auto* drop = std::get_if<DropCall>(&message.body)) {
    contexts_.erase(drop->call);
    std::erase_if(held_, [&](const auto& held) { return held.second.call == drop->call; });
  } else if (auto* abandon = std::get_if<Abandon>(&message.body)) {
    const auto held = held_.find(abandon->lease);
    if (held != held_.end()) held->second.todo.erase(abandon->range);
  } else if (auto* revoke = std::get_if<Revoke>(&message.body)) {
    Released released{revoke->lease, {}};
    const auto held = held_.find(revoke->lease);
    if (held != held_.end() && held->second.todo.size() > 1 && world_.random.chance(80)) {
      const Range back = held->second.todo.back();
      const Range given{std::max(back.begin + 1, back.end - std::min(revoke->count, back.size())), back.end};
      if (!given.empty()) {
        held->second.todo.erase(given);
        released.ranges.push_back(given);
      }
    }
    world_.say(connection_, released);
  } else if (auto* ack = std::get_if<Acknowledge>(&message.body)) {
    while (!unacked_.empty() && unacked_.front().first.ack <= ack->ack) unacked_.pop_front();
  }
}

void FakeAgent::say_outcomes(Outcomes&& outcomes, Frames&& frames) {
  outcomes.ack = ++sent_;
  unacked_.emplace_back(outcomes, frames);
  if (connected() && welcomed) world_.say(connection_, std::move(outcomes), std::move(frames));
}

void FakeAgent::run_some(LeaseId id, Held& held) {
  Outcomes outcomes;
  outcomes.lease = id;
  Frames frames;
  if (world_.may_fail && world_.random.chance(10)) {
    const std::uint64_t index = held.todo.take_front(1).begin;
    outcomes.lost.push_back({index, {9, 0, "there", 1, 0, ""}});
  } else {
    const Range done = held.todo.take_front(1 + world_.random.below(5));
    const auto busy = static_cast<std::int64_t>(done.size() * (1 + world_.random.below(3'000'000)));
    outcomes.spans.push_back({done.begin, done.size(), busy});
    outcomes.seats.push_back({SeatId{0}, done.size(), busy, 0, busy});
    frames.push_back(page_of_items(done.size()));
  }
  say_outcomes(std::move(outcomes), std::move(frames));
}

void FakeAgent::step() {
  if (!connected()) {
    if (world_.random.chance(30)) connect();
    return;
  }
  if (world_.may_fail && world_.random.chance(3)) return cut();
  if (world_.may_fail && world_.random.chance(1)) return leave();
  if (!welcomed) return;
  if (world_.random.chance(3) || !world_.may_fail) say_load();
  std::erase_if(held_, [](const auto& held) { return held.second.todo.empty(); });
  if (held_.empty()) return;
  auto lease = held_.begin();
  std::advance(lease, world_.random.below(held_.size()));
  run_some(lease->first, lease->second);
}

// --- clients -------------------------------------------------------------------------------------------

void FakeClient::connect() {
  connection_ = world_.connect();
  welcomed = false;
  ++hello_.session;
  hello_.calls.clear();
  for (const auto& [serial, call] : calls_) hello_.calls.push_back(serial);
  world_.say(connection_, hello_);
}

void FakeClient::cut() {
  world_.end(connection_);
  connection_ = {};
}

void FakeClient::send_call(std::uint64_t serial, const Open& call) {
  Call message;
  message.serial = serial;
  message.retries = static_cast<std::uint32_t>(serial % 3);
  message.settled = call.delivered.ranges();
  message.durable = serial % 2 == 0;
  message.idempotent = serial % 3 == 0;
  message.copies_permille = 1'000'000;
  message.needs.cpus_milli = 500 * (serial % 3);
  message.priority = static_cast<std::int32_t>(serial % 4);
  world_.say(connection_, message, {Frame("context")});
}

void FakeClient::send_items(std::uint64_t serial, const Open& call, std::uint64_t from) {
  Items items{serial, {}, call.closed};
  Frames frames;
  if (from < call.items) {
    items.spans.push_back({from, call.items - from});
    frames.push_back(make_int_range_page(0, 1, call.items - from));
    for (std::uint64_t i = from; serial % 5 == 0 && i < call.items; ++i)
      items.costs.push_back(static_cast<float>(i % 7));
  }
  world_.say(connection_, items, frames);
}

void FakeClient::open_call() {
  const std::uint64_t serial = ++serials_;
  Open& call = calls_[serial];
  send_call(serial, call);
  call.items = world_.random.below(60);
  call.closed = world_.random.chance(60);
  send_items(serial, call, 0);
}

void FakeClient::on_results(const Results& results) {
  const auto it = calls_.find(results.serial);
  if (it != calls_.end()) {
    for (const PageSpan& span : results.spans) {
      const Range range{span.first, span.first + span.count};
      // Sent again after a return: all of it or nothing is known.
      const std::uint64_t fresh = it->second.delivered.insert(range);
      EXPECT_TRUE(fresh == range.size() || fresh == 0) << "an item was delivered twice";
      EXPECT_FALSE(fresh > 0 && it->second.settled) << "a result behind Settled";
      EXPECT_LE(range.end, it->second.items);
    }
  }
  if (world_.random.chance(50)) world_.say(connection_, Acknowledge{results.ack});
}

void FakeClient::receive(Message&& message) {
  if (auto* welcome = std::get_if<Welcome>(&message.body)) {
    welcomed = true;
    std::set<std::uint64_t> known;
    for (const KnownCall& call : welcome->calls) {
      known.insert(call.serial);
      send_items(call.serial, calls_.at(call.serial), call.items);
    }
    for (auto& [serial, call] : calls_) {
      if (known.contains(serial)) continue;
      call.settled = false;
      send_call(serial, call);
      const std::uint64_t first =
          call.delivered.empty() || call.delivered.front().begin > 0 ? 0 : call.delivered.front().end;
      send_items(serial, call, std::min(first, call.items));
    }
  } else if (auto* results = std::get_if<Results>(&message.body)) {
    on_results(*results);
  } else if (auto* settled = std::get_if<Settled>(&message.body)) {
    const auto it = calls_.find(settled->serial);
    if (it == calls_.end()) return;
    EXPECT_EQ(settled->stats.total, it->second.items);
    EXPECT_EQ(it->second.delivered.size(), it->second.items) << "settled without all outcomes";
    it->second.settled = true;
  }
}

void FakeClient::step() {
  if (!connected()) {
    if (world_.random.chance(30)) connect();
    return;
  }
  if (world_.may_fail && world_.random.chance(2)) return cut();
  if (!welcomed || !world_.may_fail) return;
  if (world_.random.chance(10)) return open_call();
  if (calls_.empty()) return;
  auto it = calls_.begin();
  std::advance(it, world_.random.below(calls_.size()));
  auto& [serial, call] = *it;
  if (world_.random.chance(10)) {
    const std::uint64_t begin = world_.random.below(60);
    world_.say(connection_, Cancel{serial, {begin, begin + world_.random.below(20)}});
  } else if (world_.random.chance(5) || (call.settled && world_.random.chance(50))) {
    world_.say(connection_, Forget{serial});
    calls_.erase(it);
  } else if (!call.closed) {
    const std::uint64_t from = call.items;
    call.items += world_.random.below(10);
    call.closed = world_.random.chance(10);
    send_items(serial, call, from);
  }
}

void FakeClient::close_all() {
  for (auto& [serial, call] : calls_) {
    if (call.closed) continue;
    call.closed = true;
    send_items(serial, call, call.items);
  }
}

bool FakeClient::done() const {
  for (const auto& [serial, call] : calls_) {
    if (!call.settled) return false;
  }
  return true;
}

// --- the test ------------------------------------------------------------------------------------------

void fail_freely(World& world) {
  for (int step = 0; step < 600; ++step) {
    for (auto& agent : world.agents) agent->step();
    for (auto& client : world.clients) client->step();
    for (std::uint64_t i = world.random.below(12); i > 0; --i) {
      world.deliver_one_to_core();
      world.deliver_one_from_core();
    }
    if (world.random.chance(20)) world.pass(milliseconds(static_cast<std::int64_t>(world.random.below(300))));
    if (world.random.chance(1)) world.pass(seconds(6));
    if (step % 150 == 149) world.restart();
  }
}

bool heal(World& world) {
  world.may_fail = false;
  for (auto& agent : world.agents) {
    if (!agent->connected()) agent->connect();
  }
  for (auto& client : world.clients) {
    if (!client->connected()) client->connect();
  }
  world.run_quiet();
  for (auto& client : world.clients) client->close_all();
  for (int step = 0; step < 20'000; ++step) {
    world.run_quiet();
    bool done = true;
    for (auto& client : world.clients) done = done && client->done();
    if (done) return true;
    for (auto& agent : world.agents) agent->step();
    world.pass(milliseconds(10));
  }
  return false;
}

class SimulationTest : public ::testing::TestWithParam<std::uint64_t> {};

TEST_P(SimulationTest, EveryCallSettlesWithEachItemDeliveredOnce) {
  SCOPED_TRACE("seed " + std::to_string(GetParam()));
  World world(GetParam());
  fail_freely(world);
  EXPECT_TRUE(heal(world)) << "not all calls settled";

  world.pass(seconds(100));
  EXPECT_TRUE(world.core.state().leases.empty());
  for (const auto& [id, call] : world.core.state().calls) {
    EXPECT_TRUE(call.done);
    EXPECT_EQ(call.items.held_pages(), 0U);
    EXPECT_TRUE(call.deaths.empty());
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, SimulationTest, ::testing::Range<std::uint64_t>(1, 41));

}  // namespace
}  // namespace betterbox::scheduler
