// The client against a scheduler and agents that a thread plays on an in-memory network.
#include "tests/unit/runtime/client_fixture.h"

#include <mutex>

namespace betterbox {
namespace {

TEST_F(ClientTest, NobodyToConnectToIsABusError) { EXPECT_THROW(connect(), BusError); }

TEST_F(ClientTest, EveryItemOfACallHasItsOwnOutcome) {
  PlayedPeer scheduler(network_, "scheduler", std::ref(echo_));
  auto client = connect();
  const CallPtr call = client->open_call({}, Frame("context"), int_items(0, 1000), true);
  ASSERT_TRUE(client->wait(client->over(call), kSoon, {}));
  for (std::uint64_t i = 0; i < 1000; ++i)
    EXPECT_EQ(int_outcome(*client, call, i), static_cast<std::int64_t>(i));
}

TEST_F(ClientTest, AnEmptyCallIsOverAtOnce) {
  PlayedPeer scheduler(network_, "scheduler", std::ref(echo_));
  auto client = connect();
  const CallPtr call = client->open_call({}, Frame("context"), {}, true);
  EXPECT_TRUE(client->progress(call).over);
}

// A successor of a scheduler may cut what it sends again otherwise; and a broken one may send what nobody asked for.
TEST_F(ClientTest, OutcomesThatOverlapKnownOnesOrPassTheEndSettleWhatIsNew) {
  PlayedPeer scheduler(network_, "scheduler", [&](PlayedPeer& peer, ConnectionId from, Message& message) {
    const auto* items = std::get_if<Items>(&message.body);
    if (items == nullptr) return echo_(peer, from, message);
    const auto page = [](std::int64_t begin, std::int64_t end) {
      return int_items(begin, end).pages[0].frame;
    };
    peer.send(from, {Results{1, items->serial, {{9, 5}}}, {page(9, 14)}});
    peer.send(from, {Results{2, items->serial, {{2, 3}}}, {page(2, 5)}});
    peer.send(from, {Results{3, items->serial, {{0, 10}}}, {page(0, 10)}});
  });
  auto client = connect();
  const CallPtr call = client->open_call({}, Frame("context"), int_items(0, 10), true);
  ASSERT_TRUE(client->wait(client->over(call), monotonic_now() + seconds(10), {}));
  for (std::uint64_t i = 0; i < 10; ++i)
    EXPECT_EQ(int_outcome(*client, call, i), static_cast<std::int64_t>(i));
}

TEST_F(ClientTest, SubmissionsAreGatheredAndEachGetsItsOutcome) {
  PlayedPeer scheduler(network_, "scheduler", std::ref(echo_));
  auto client = connect();
  const Client::Template common({}, Frame("f"));
  std::vector<Submission> calls;
  for (std::int64_t i = 0; i < 500; ++i) calls.push_back(client->submit(common, bytes(int_item(i))));
  for (std::int64_t i = 0; i < 500; ++i) {
    const Submission& call = calls[static_cast<std::size_t>(i)];
    ASSERT_TRUE(client->wait(client->settled(call), kSoon, {}));
    EXPECT_EQ(int_of(client->outcome(call)), i);
  }
}

// A successor of a scheduler may cut what it sends again otherwise.
TEST_F(ClientTest, OutcomesThatOverlapKnownOnesSettleTheOthers) {
  PlayedPeer scheduler(network_, "scheduler", [&](PlayedPeer& peer, ConnectionId from, Message& message) {
    const auto* items = std::get_if<Items>(&message.body);
    if (items == nullptr) return echo_(peer, from, message);
    if (items->spans.empty() || items->spans[0].first == 0) return;  // the first one leaves alone
    const auto page = [](std::int64_t begin, std::int64_t end) {
      return int_items(begin, end).pages[0].frame;
    };
    peer.send(from, {Results{1, items->serial, {{2, 5}}}, {page(0, 5)}});  // more than there are
    peer.send(from, {Results{2, items->serial, {{0, 2}}}, {page(0, 2)}});
    peer.send(from, {Results{3, items->serial, {{1, 2}}}, {page(1, 3)}});
  });
  auto client = connect();
  const Client::Template common({}, Frame("f"));
  std::vector<Submission> calls;
  for (std::int64_t i = 0; i < 3; ++i) calls.push_back(client->submit(common, bytes(int_item(i))));
  for (std::int64_t i = 2; i >= 0; --i) {
    const Submission& call = calls[static_cast<std::size_t>(i)];
    ASSERT_TRUE(client->wait(client->settled(call), monotonic_now() + seconds(10), {}));
    EXPECT_EQ(int_of(client->outcome(call)), i);
  }
}

TEST_F(ClientTest, ACancelledSubmissionHasItsOutcomeAtOnceAndItsNeighboursTheirOwn) {
  std::mutex mutex;
  std::vector<Range> cancelled;
  PlayedPeer scheduler(network_, "scheduler", [&](PlayedPeer& peer, ConnectionId from, Message& message) {
    if (const auto* cancel = std::get_if<Cancel>(&message.body)) {
      const std::lock_guard lock(mutex);
      cancelled.push_back(cancel->range);
    }
    if (std::get_if<Items>(&message.body) == nullptr) echo_(peer, from, message);
  });
  auto client = connect();
  const Client::Template common({}, Frame("f"));
  const Submission first = client->submit(common, bytes(int_item(1)));
  const Submission second = client->submit(common, bytes(int_item(2)));
  EXPECT_TRUE(client->cancel(second));
  EXPECT_FALSE(client->cancel(second));
  EXPECT_TRUE(client->cancelled(second));
  EXPECT_TRUE(client->outcome(second)->failed());
  EXPECT_FALSE(client->outcome(first).has_value());
  EXPECT_NE(first.token(), second.token());
  client->close();
  EXPECT_TRUE(client->outcome(first)->failed());
  EXPECT_FALSE(client->cancelled(first));
}

TEST_F(ClientTest, OnlySubmissionsThatHaveNotBegunAreWithdrawn) {
  std::atomic<int> asked{0};
  PlayedPeer scheduler(network_, "scheduler", [&](PlayedPeer& peer, ConnectionId from, Message& message) {
    if (const auto* inquire = std::get_if<Inquire>(&message.body)) {
      ++asked;
      if (inquire->withdraw) {
        const std::string lost = make_lost_item(LostCode::kCancelled, 1, {}, "");
        peer.send(from, {Results{1, inquire->serial, {{1, 1}}}, {make_single_page(bytes(lost))}});
      }
      peer.send(from, {Begun{inquire->serial, inquire->number, {{0, 1}}}, {}});
    } else if (std::get_if<Items>(&message.body) == nullptr) {
      echo_(peer, from, message);
    }
  });
  auto client = connect();
  const Client::Template common({}, Frame("f"));
  const Submission first = client->submit(common, bytes(int_item(1)));
  const Submission second = client->submit(common, bytes(int_item(2)));
  EXPECT_EQ(client->begun({first, second}, false, kSoon, {}), (std::vector{true, false}));
  EXPECT_FALSE(client->outcome(second).has_value());
  EXPECT_EQ(client->begun({second, first}, true, kSoon, {}), (std::vector{false, true}));
  EXPECT_TRUE(client->cancelled(second));
  EXPECT_FALSE(client->cancelled(first));
  EXPECT_EQ(client->begun({second}, true, kSoon, {}), std::vector{false});
  EXPECT_EQ(asked, 2) << "nobody is asked about what has an outcome";
}

TEST_F(ClientTest, SubmissionsShareACallOnlyWithTheSameOptions) {
  std::mutex mutex;
  std::vector<Call> opened;
  PlayedPeer scheduler(network_, "scheduler", [&](PlayedPeer& peer, ConnectionId from, Message& message) {
    if (const auto* call = std::get_if<Call>(&message.body)) {
      const std::lock_guard lock(mutex);
      opened.push_back(*call);
    }
    echo_(peer, from, message);
  });
  auto client = connect();
  Client::CallOptions urgent;
  urgent.priority = 7;
  urgent.needs.cpus_milli = 2000;
  urgent.policy = "gss";
  urgent.copies_permille = 50;
  for (const Client::CallOptions& options : {Client::CallOptions{}, urgent, Client::CallOptions{}, urgent}) {
    const Submission call = client->submit(Client::Template(options, Frame("f")), bytes(int_item(1)));
    ASSERT_TRUE(client->wait(client->settled(call), kSoon, {}));
  }
  const std::lock_guard lock(mutex);
  ASSERT_EQ(opened.size(), 2U);
  EXPECT_EQ(opened[0].priority, 0);
  EXPECT_EQ(opened[1].priority, 7);
  EXPECT_EQ(opened[1].needs.cpus_milli, 2000U);
  EXPECT_EQ(opened[1].policy, "gss");
  EXPECT_EQ(opened[1].copies_permille, 50U);
}

TEST_F(ClientTest, CostsGoWithTheirItemsAlsoWhenSentAgain) {
  std::mutex mutex;
  std::vector<Items> sent;
  const auto record = [&](Message& message) {
    const std::lock_guard lock(mutex);
    if (const auto* items = std::get_if<Items>(&message.body)) sent.push_back(*items);
  };
  // The first scheduler settles item 0 alone and is lost.
  PlayedPeer first(network_, "scheduler", [&](PlayedPeer& peer, ConnectionId from, Message& message) {
    record(message);
    if (std::get_if<Hello>(&message.body)) return echo_(peer, from, message);
    if (const auto* items = std::get_if<Items>(&message.body)) {
      peer.send(from, {Results{1, items->serial, {items->spans.front()}}, {message.frames.front()}});
      peer.close(from);
    }
  });
  EchoScheduler second_echo;
  second_echo.id = PeerId{2};
  PlayedPeer second(network_, "successor", [&](PlayedPeer& peer, ConnectionId from, Message& message) {
    record(message);
    second_echo(peer, from, message);
  });
  Client::Options options;
  options.endpoint = "scheduler";
  options.peer = PeerId{77};
  options.find_bus = [] { return std::string("successor"); };
  Client client(network_.make_transport(), options);
  std::thread driver([&] {
    while (!client.drive().empty()) {}
  });
  EncodedItems items = int_items(0, 1);
  items.pages.push_back(int_items(1, 4).pages.front());
  items.count = 4;
  items.costs = {1, 2, 3, 4};
  const CallPtr call = client.open_call({}, Frame("context"), std::move(items), true);
  ASSERT_TRUE(client.wait(client.over(call), kSoon, {}));
  EXPECT_EQ(int_outcome(client, call, 3), 3);
  client.close();
  driver.join();
  const std::lock_guard lock(mutex);
  ASSERT_EQ(sent.size(), 2U);
  EXPECT_EQ(sent[0].costs, (std::vector<float>{1, 2, 3, 4}));
  // Nobody runs the settled item again, so nobody asks for its cost.
  EXPECT_EQ(sent[1].costs, (std::vector<float>{0, 2, 3, 4}));
}

TEST_F(ClientTest, TheDriverFlushesGatheredSubmissionsAndTellsOfFinishedCalls) {
  PlayedPeer scheduler(network_, "scheduler", std::ref(echo_));
  auto client = connect();
  std::atomic<int> told{0};
  std::thread driver([&] {
    for (auto tokens = client->drive(); !tokens.empty(); tokens = client->drive())
      told += static_cast<int>(tokens.size());
  });
  const Client::Template common({}, Frame("f"));
  for (std::int64_t i = 0; i < 200; ++i) client->notify(client->submit(common, bytes(int_item(i))));
  while (told < 200) std::this_thread::yield();
  client->close();
  driver.join();
  EXPECT_EQ(told, 200);
}

TEST_F(ClientTest, ManyThreadsMayWaitAtOnce) {
  PlayedPeer scheduler(network_, "scheduler", std::ref(echo_));
  auto client = connect();
  std::thread driver([&] {
    while (!client->drive().empty()) {}
  });
  const Client::Template common({}, Frame("f"));
  std::vector<std::thread> threads;
  std::atomic<int> right{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (std::int64_t i = 0; i < 50; ++i) {
        const Submission call = client->submit(common, bytes(int_item(t * 1000 + i)));
        if (client->wait(client->settled(call), kSoon, {}) && int_of(client->outcome(call)) == t * 1000 + i)
          ++right;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(right, 200);
  client->close();
  driver.join();
}

TEST_F(ClientTest, ACallLargerThanTheWindowArrivesWhole) {
  PlayedPeer scheduler(network_, "scheduler", std::ref(echo_));
  auto client = connect();
  EncodedItems items;
  std::string big(1 << 20, 'x');
  big[0] = static_cast<char>(ItemTag::kBytes);
  for (int i = 0; i < 100; ++i) items.pages.push_back({make_single_page(bytes(big)), 1});
  items.count = 100;
  const CallPtr call = client->open_call({}, Frame("context"), std::move(items), true);
  ASSERT_TRUE(client->wait(client->over(call), kSoon, {}));
  EXPECT_EQ(client->outcome(call, 99, false)->item.size(), big.size());
}

TEST_F(ClientTest, TakenItemsMoveTheWindowOfAGeneratorCall) {
  PlayedPeer scheduler(network_, "scheduler", std::ref(echo_));
  auto client = connect();
  Client::CallOptions options;
  options.windowed = true;
  const CallPtr call = client->open_call(options, Frame("context"), {}, false);
  ASSERT_EQ(client->feed_room(call, kSoon), kGeneratorWindowItems);
  client->feed(call, int_items(0, static_cast<std::int64_t>(kGeneratorWindowItems)), false);
  EXPECT_EQ(client->feed_room(call, monotonic_now()), 0U);
  ASSERT_TRUE(client->wait(client->settled_item(call, 0), kSoon, {}));
  EXPECT_TRUE(client->outcome(call, 0, true));
  EXPECT_EQ(client->feed_room(call, kSoon), 1U);
  client->free_running(call, true);
  EXPECT_EQ(client->feed_room(call, kSoon), kGeneratorWindowItems);
}

TEST_F(ClientTest, ACancelledCallIsOverAndItsItemsAreCancelled) {
  PlayedPeer scheduler(network_, "scheduler", std::ref(echo_));
  auto client = connect();
  const CallPtr call = client->open_call({}, Frame("context"), {}, false);
  EXPECT_TRUE(client->cancel(call));
  EXPECT_FALSE(client->cancel(call));
  EXPECT_TRUE(client->progress(call).over);
  EXPECT_EQ(lost_code(*client, call, 0), LostCode::kCancelled);
}

TEST_F(ClientTest, ACancelledCallKeepsWhatHasLanded) {
  PlayedPeer scheduler(network_, "scheduler", std::ref(echo_));
  auto client = connect();
  const CallPtr call = client->open_call({}, Frame("context"), int_items(0, 4), false);
  ASSERT_TRUE(client->wait(client->settled_item(call, 3), kSoon, {}));
  EXPECT_TRUE(client->cancel(call));
  EXPECT_EQ(client->outcome(call, 3, false)->item.size(), int_item(3).size());
  EXPECT_EQ(client->successes(call, 0, 10, false).front().items, (Range{0, 4}));
  EXPECT_EQ(lost_code(*client, call, 4), LostCode::kCancelled) << "stands for what was not fed";
  EXPECT_EQ(client->progress(call).settled, 5U);
}

TEST_F(ClientTest, FewItemsThatWereTakenAreKeptAndManyAreNot) {
  PlayedPeer scheduler(network_, "scheduler", std::ref(echo_));
  auto client = connect();
  Client::CallOptions options;
  options.windowed = true;
  const CallPtr call = client->open_call(options, Frame("context"), int_items(0, 4), false);
  ASSERT_TRUE(client->wait(client->settled_item(call, 3), kSoon, {}));
  client->take(call, {0, 4});
  EXPECT_TRUE(client->successes(call, 0, 4, true).empty()) << "somebody has them";
  EXPECT_FALSE(client->outcome(call, 0, true));
  EXPECT_EQ(client->successes(call, 0, 4, false).front().items, (Range{0, 4})) << "but they are there";
  EXPECT_TRUE(client->keeps_all(call));
  EncodedItems more;
  std::string big(2 << 20, 'x');
  big[0] = static_cast<char>(ItemTag::kBytes);
  more.pages.push_back({make_single_page(bytes(big)), 1});
  more.count = 1;
  client->feed(call, std::move(more), true);
  ASSERT_TRUE(client->wait(client->over(call), kSoon, {}));
  client->take(call, {4, 5});
  EXPECT_FALSE(client->keeps_all(call));
  EXPECT_FALSE(client->outcome(call, 0, false));
}

TEST_F(ClientTest, TheDriverTellsOfLandings) {
  PlayedPeer scheduler(network_, "scheduler", std::ref(echo_));
  auto client = connect();
  const CallPtr call = client->open_call({}, Frame("context"), int_items(0, 4), false);
  client->notify_landing(call, 0);
  EXPECT_EQ(client->drive(), std::vector{call->landing_token()});
  client->notify_landing(call, 0);
  EXPECT_EQ(client->drive(), std::vector{call->landing_token()}) << "it has landed";
  client->notify_landing(call, 1000);
  client->cancel(call);
  EXPECT_EQ(client->drive(), std::vector{call->landing_token()});
}

TEST_F(ClientTest, AGroupCallKeepsTheOrderOfItsBoxes) {
  PlayedPeer scheduler(network_, "scheduler", std::ref(echo_));
  PlayedPeer one(network_, "one", agent_named(PeerId{11}, 1));
  PlayedPeer two(network_, "two", agent_named(PeerId{12}, 2));
  echo_.add_box(PeerId{12}, "two", 1);
  echo_.add_box(PeerId{11}, "one", 2);
  auto client = connect();
  client->watch(Port{80});
  const auto boxes = client->wait_boxes(Port{80}, 2, kSoon, {});
  ASSERT_EQ(boxes.size(), 2U);
  const CallPtr call = client->box_call({boxes[0].info.box, boxes[1].info.box}, "name", Frame("args"), {});
  ASSERT_TRUE(client->wait(client->over(call), kSoon, {}));
  EXPECT_EQ(int_outcome(*client, call, 0), 2);
  EXPECT_EQ(int_outcome(*client, call, 1), 1);
}

TEST_F(ClientTest, ABoxThatDiesLeavesItsMarkAndTheOthersAnswer) {
  PlayedPeer scheduler(network_, "scheduler", std::ref(echo_));
  PlayedPeer one(network_, "one", agent_named(PeerId{11}, 1));
  PlayedPeer two(network_, "two", [](PlayedPeer& peer, ConnectionId from, Message& message) {
    if (std::get_if<BoxCall>(&message.body)) return peer.close(from);
    agent_named(PeerId{12}, 2)(peer, from, message);
  });
  echo_.add_box(PeerId{11}, "one", 1);
  echo_.add_box(PeerId{12}, "two", 2);
  auto client = connect();
  client->watch(Port{80});
  const auto boxes = client->wait_boxes(Port{80}, 2, kSoon, {});
  ASSERT_EQ(boxes.size(), 2U);
  const CallPtr call = client->box_call({boxes[0].info.box, boxes[1].info.box}, "name", Frame("args"), {});
  ASSERT_TRUE(client->wait(client->over(call), kSoon, {}));
  EXPECT_EQ(int_outcome(*client, call, 0), 1);
  EXPECT_EQ(lost_code(*client, call, 1), LostCode::kBoxLost);
  EXPECT_EQ(client->first_success(call), 0U);
  EXPECT_EQ(client->boxes(Port{80}).size(), 1U);
}

TEST_F(ClientTest, ADirectCallThatTakesTooLongTimesOut) {
  PlayedPeer scheduler(network_, "scheduler", std::ref(echo_));
  PlayedPeer one(network_, "one", agent_named(PeerId{11}, 1));
  echo_.add_box(PeerId{11}, "one", 1);
  auto client = connect();
  client->watch(Port{80});
  const auto box = client->first_box(Port{80}, kSoon, {});
  ASSERT_TRUE(box);
  const CallPtr call = client->box_call({box->info.box}, "sleep", Frame("args"), milliseconds(20));
  ASSERT_TRUE(client->wait(client->over(call), kSoon, {}));
  EXPECT_EQ(lost_code(*client, call, 0), LostCode::kTimeout);
}

TEST_F(ClientTest, ABusThatIsLostEndsEveryWait) {
  auto scheduler = std::make_unique<PlayedPeer>(
      network_, "scheduler", [this](PlayedPeer& peer, ConnectionId from, Message& message) {
        if (std::get_if<Call>(&message.body)) return peer.close(from);
        echo_(peer, from, message);
      });
  auto client = connect();
  const CallPtr call = client->open_call({}, Frame("context"), {}, false);
  ASSERT_TRUE(client->wait(client->over(call), kSoon, {}));
  EXPECT_FALSE(client->progress(call).failure.empty());
  EXPECT_EQ(lost_code(*client, call, 0), LostCode::kBusLost) << "stands for what was not fed";
}

TEST_F(ClientTest, CallsAreSentAgainToTheSuccessorOfALostScheduler) {
  int calls_seen = 0;
  std::atomic<bool> losing{false};
  auto first = std::make_unique<PlayedPeer>(network_, "scheduler",
                                            [&](PlayedPeer& peer, ConnectionId from, Message& message) {
                                              if (losing && std::get_if<Items>(&message.body))
                                                return peer.close(from);
                                              if (!losing || !std::get_if<Call>(&message.body))
                                                echo_(peer, from, message);
                                            });
  EchoScheduler second_echo;
  second_echo.id = PeerId{2};
  PlayedPeer second(network_, "successor", [&](PlayedPeer& peer, ConnectionId from, Message& message) {
    if (std::get_if<Call>(&message.body)) ++calls_seen;
    second_echo(peer, from, message);
  });
  Client::Options options;
  options.endpoint = "scheduler";
  options.peer = PeerId{77};
  options.find_bus = [] { return std::string("successor"); };
  Client client(network_.make_transport(), options);
  std::thread driver([&] {
    while (!client.drive().empty()) {}
  });
  // The first scheduler has counted its results further than the second one will.
  const CallPtr before = client.open_call({}, Frame("context"), int_items(0, 5), true);
  ASSERT_TRUE(client.wait(client.over(before), kSoon, {}));
  losing = true;
  const CallPtr call = client.open_call({}, Frame("context"), int_items(0, 10), true);
  ASSERT_TRUE(client.wait(client.over(call), kSoon, {}));
  EXPECT_EQ(int_outcome(client, call, 9), 9);
  client.close();
  driver.join();
  EXPECT_EQ(calls_seen, 1);
}

TEST_F(ClientTest, ForgetsACallThatItGaveUpWhileItGreeted) {
  std::atomic<bool> forgotten{false};
  PlayedPeer scheduler(network_, "scheduler", [&](PlayedPeer& peer, ConnectionId from, Message& message) {
    if (const auto* hello = std::get_if<Hello>(&message.body)) {
      Welcome welcome;
      welcome.peer = PeerId{1};
      welcome.session = hello->session;
      welcome.calls = {{99, 3}};
      peer.send(from, {std::move(welcome), {}});
    } else if (const auto* forget = std::get_if<Forget>(&message.body)) {
      forgotten = forget->serial == 99;
    }
  });
  auto client = connect();
  while (!forgotten) std::this_thread::yield();
}

TEST_F(ClientTest, ForgetsASettledCallAtTheScheduler) {
  PlayedPeer scheduler(network_, "scheduler", std::ref(echo_));
  auto client = connect();
  const CallPtr call = client->open_call({}, Frame("context"), int_items(0, 10), true);
  ASSERT_TRUE(client->wait([&] { return call->has_stats; }, kSoon, {}));
  while (echo_.forgotten == 0) std::this_thread::yield();
}

}  // namespace
}  // namespace betterbox
