// libFuzzer target: messages of all kinds, from peers of all roles, in any order, with ends and deaths between them, against
// the scheduler's core. Its tables agree after each; what a journal keeps makes a successor whose tables agree, too.
#include <map>
#include <memory>

#include "scheduler/core.h"
#include "tests/fuzz/drawn_messages.h"

namespace betterbox::scheduler {
namespace {

constexpr unsigned kConnections = 6;
constexpr std::size_t kHello = 0;  // in Body

Config drawn_config(fuzz::Input& input) {
  Config config;
  config.peer = PeerId{0x5EED};
  config.host = "here";
  config.boot_id = "boot";
  config.pid = 1;
  config.journal = input.below(2) == 1;
  return config;
}

class Bus {
 public:
  explicit Bus(fuzz::Input& input)
      : input_(input), core_(std::make_unique<SchedulerCore>(drawn_config(input), now_)) {}

  void run() {
    for (int step = 0; step < 300 && !input_.empty() && !stopped_; ++step) turn();
  }

 private:
  void turn() {
    switch (input_.below(12)) {
      case 0: return pass();
      case 1: return end(input_.below(kConnections));
      case 2: return handle(ProcessEnded{PeerId{input_.number()}});
      case 3: return greet(input_.below(kConnections));
      case 4:
        if (input_.below(16) == 0) return succeed();
        return greet(input_.below(kConnections));
      default: return say(input_.below(kConnections), input_.byte());
    }
  }

  void pass() {
    constexpr std::int64_t kMs[] = {1, 100, 1'000, 6'000, 70'000};
    const TimePoint until = now_ + milliseconds(kMs[input_.below(std::size(kMs))]);
    for (int i = 0; i < 100 && core_->next_deadline() <= until && !stopped_; ++i) {
      now_ = std::max(now_, core_->next_deadline());
      handle(DeadlineReached{});
    }
    now_ = until;
  }

  void end(unsigned place) {
    const auto at = connections_.find(place);
    if (at == connections_.end()) return;
    const ConnectionId over = at->second;
    connections_.erase(at);
    handle(ConnectionEnded{over, "cut", input_.below(4) == 0});
  }

  /// What a peer of this bus says first, mostly.
  void greet(unsigned place) {
    end(place);
    connections_[place] = ConnectionId{++last_connection_};
    auto message = fuzz::draw_message(input_, kHello);
    if (!message) return;
    Hello& hello = std::get<Hello>(message->body);
    if (input_.below(8) != 0 && hello.role == Role::kScheduler) hello.role = Role::kWorker;
    if (!hello.peer) hello.peer = PeerId{1 + place};
    handle(MessageArrived{connections_[place], std::move(*message)});
  }

  void say(unsigned place, std::size_t kind) {
    const auto at = connections_.find(place);
    if (at == connections_.end()) return;
    if (auto message = fuzz::draw_message(input_, kind))
      handle(MessageArrived{at->second, std::move(*message)});
  }

  /// The scheduler is killed, and its successor begins with what was kept.
  void succeed() {
    Config config = core_->state().config;
    if (!config.journal) return;
    ++config.peer.value;
    core_ = std::make_unique<SchedulerCore>(std::move(config), now_, core_->snapshot());
    core_->sanity_check();
    connections_.clear();
  }

  void handle(Event&& event) {
    Effects effects;
    core_->handle(now_, std::move(event), effects);
    core_->sanity_check();
    for (const Effect& effect : effects.send) {
      if (const auto* over = std::get_if<EndConnection>(&effect))
        std::erase_if(connections_, [&](const auto& each) { return each.second == over->connection; });
      if (const auto* send = std::get_if<SendMessage>(&effect))
        encode(send->message);  // a message that may be sent
      stopped_ = stopped_ || std::holds_alternative<Stop>(effect);
    }
  }

  fuzz::Input& input_;
  TimePoint now_{0};
  std::unique_ptr<SchedulerCore> core_;
  std::map<unsigned, ConnectionId> connections_;
  std::uint64_t last_connection_ = 0;
  bool stopped_ = false;
};

}  // namespace
}  // namespace betterbox::scheduler

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  betterbox::fuzz::Input input(data, size);
  betterbox::scheduler::Bus(input).run();
  return 0;
}
