// libFuzzer target: the worker's core, told anything that a scheduler and clients may send, and that slots may write into
// the memory they share, in any order. Its tables agree after each event.
#include <map>
#include <set>

#include "tests/fuzz/drawn_messages.h"
#include "worker/core.h"

namespace betterbox {
namespace {

class Machine {
 public:
  explicit Machine(fuzz::Input& input)
      : input_(input),
        core_(WorkerCore::Options{PeerId{7}, 1 + input.below(3), input.below(4) == 0, {}, {}}) {}

  void run() {
    feed(SessionBegan{PeerId{1}, {}});
    for (int step = 0; step < 300 && !input_.empty() && !stopped_; ++step) turn();
  }

 private:
  void turn() {
    switch (input_.below(10)) {
      case 0: now_ = now_ + milliseconds(input_.below(2) == 0 ? 1 : 3000); return feed(TurnEnded{});
      case 1: return feed(TurnEnded{});
      case 2: return seat_event();
      case 3: return seat_event();
      case 4: return own_event();
      default: return message();
    }
  }

  /// What the agent's loop makes of a message.
  void message() {
    const ClientRef client{1 + input_.number() % 4};
    auto drawn = fuzz::draw_message(input_, input_.byte());
    if (!drawn) return;
    Body& body = drawn->body;
    Frames& frames = drawn->frames;
    const auto first = [&] { return frames.empty() ? Frame() : frames.front(); };
    if (auto* context = std::get_if<Context>(&body)) return feed(ContextArrived{*context, first()});
    if (auto* lease = std::get_if<Lease>(&body)) return feed(LeaseGranted{*lease, frames});
    if (auto* revoke = std::get_if<Revoke>(&body)) return feed(RevokeAsked{revoke->lease, revoke->count});
    if (auto* abandon = std::get_if<Abandon>(&body))
      return feed(ItemsAbandoned{abandon->lease, abandon->range});
    if (auto* drop = std::get_if<DropCall>(&body)) return feed(CallDropped{drop->call});
    if (auto* acknowledge = std::get_if<Acknowledge>(&body))
      return feed(AcknowledgeArrived{acknowledge->ack});
    if (auto* host = std::get_if<Host>(&body)) return feed(HostAsked{*host, first(), false});
    if (auto* undeploy = std::get_if<Undeploy>(&body)) return feed(UndeployAsked{undeploy->deployment});
    if (auto* call = std::get_if<BoxCall>(&body)) return feed(BoxCallArrived{client, *call, first()});
    if (auto* lane = std::get_if<OpenLane>(&body)) return feed(LaneAsked{client, *lane});
    if (auto* cancel = std::get_if<BoxCancel>(&body)) return feed(BoxCallCancelled{client, cancel->serial});
    if (std::holds_alternative<Bye>(body)) return feed(ClientGone{client, input_.below(2) == 0});
  }

  void own_event() {
    switch (input_.below(6)) {
      case 0:
        return feed(
            SeatOpened{Port{static_cast<std::uint16_t>(1 + input_.below(4))}, Frame(std::string("p"))});
      case 1: return feed(SeatCloseAsked{SeatId{static_cast<std::uint32_t>(input_.below(6))}});
      case 2:
        return feed(LoadSampled{static_cast<std::uint32_t>(input_.number()), input_.number(),
                                input_.below(3) == 0, input_.below(8) == 0,
                                milliseconds(static_cast<std::int64_t>(input_.below(200)))});
      case 3:
        feed(SessionEnded{});
        return feed(SessionBegan{PeerId{1 + input_.number() % 2}, {LeaseId{input_.number()}}});
      case 4: return feed(ValuesArrived{{PeerId{input_.number()}, input_.number()}});
      default:
        if (input_.below(16) == 0) feed(StopAsked{});
    }
  }

  /// Of a seat that lives; numbers are what its slot wrote.
  void seat_event() {
    if (alive_.empty()) return;
    auto at = alive_.begin();
    std::advance(at, input_.below(static_cast<unsigned>(alive_.size())));
    const SeatId seat = at->first;
    const std::uint32_t life = at->second;
    const auto small = [&] { return static_cast<std::uint32_t>(input_.number()); };
    switch (input_.below(9)) {
      case 0: return feed(SeatReady{seat, life, "A", input_.below(2) == 1, {{"name", 0}, {"a", 1}}});
      case 1: return feed(SeatFailed{seat, life, Frame(std::string("\x01", 1))});
      case 2: return feed(SeatStopped{seat, life, Frame()});
      case 3: {
        SeatProgressed progress{seat, life, input_.below(2), small(), small(), 1 + input_.below(4), 0, 0,
                                0,    {}};
        progress.busy_ns = static_cast<std::int64_t>(input_.number() >> 1);
        progress.longest_ns = static_cast<std::int64_t>(input_.number() >> 1);
        progress.page = fuzz::draw_page(input_, progress.count);
        return feed(std::move(progress));
      }
      case 4: return feed(SubLeaseDone{seat, life, input_.below(2), small()});
      case 5: return feed(SeatReplied{seat, life, input_.number(), Frame(std::string("\x01", 1))});
      case 6:
        return feed(LaneReplied{seat, life, input_.number(), input_.number(), Frame(std::string("\x01", 1))});
      default: {
        SeatDied died{seat, life, {}, {}};
        for (auto& station : died.stations) station = {small(), small(), {small(), small()}};
        alive_.erase(at);
        return feed(std::move(died));
      }
    }
  }

  void feed(Event&& event) {
    Effects effects;
    core_.handle(now_, std::move(event), effects);
    for (Effect& effect : effects.send) {
      if (const auto* spawn = std::get_if<SpawnSeat>(&effect)) alive_[spawn->seat] = spawn->life;
      if (const auto* discard = std::get_if<DiscardSeat>(&effect)) alive_.erase(discard->seat);
      if (const auto* send = std::get_if<SendToScheduler>(&effect)) encode(send->message);
      if (const auto* cut = std::get_if<CutLease>(&effect)) {
        const auto small = [&] { return static_cast<std::uint32_t>(input_.number()); };
        feed(CutDone{cut->seat, cut->station, {small(), small()}, {small(), small()}, small()});
      }
      stopped_ = stopped_ || std::holds_alternative<Stopped>(effect);
    }
    core_.sanity_check();
  }

  fuzz::Input& input_;
  TimePoint now_{0};
  WorkerCore core_;
  std::map<SeatId, std::uint32_t> alive_;  // the life of those whose process is there
  bool stopped_ = false;
};

}  // namespace
}  // namespace betterbox

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  betterbox::fuzz::Input input(data, size);
  betterbox::Machine(input).run();
  return 0;
}
