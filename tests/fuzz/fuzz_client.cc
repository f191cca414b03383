// libFuzzer target: the client, whose scheduler and agents answer its calls with messages of any kind in any order, end
// connections, and come back.
#include <sys/eventfd.h>
#include <unistd.h>

#include <deque>
#include <set>

#include "runtime/client.h"
#include "tests/fuzz/drawn_messages.h"

namespace betterbox {
namespace {

constexpr std::uint64_t kAsked = 3;  // connections whose peers the input plays

/// A transport whose peers say what the input has; one thread, no other process.
class PlayedTransport final : public Transport {
 public:
  explicit PlayedTransport(fuzz::Input& input)
      : input_(input), ready_(::eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK)) {}
  ~PlayedTransport() override { ::close(ready_); }

  void say(std::size_t kind) {
    if (open_.empty()) return;
    auto at = open_.begin();
    std::advance(at, input_.below(static_cast<unsigned>(std::min<std::size_t>(open_.size(), kAsked))));
    if (input_.below(24) == 0) {
      events_.push_back({TransportEvent::kClosed, *at, {}, "cut", input_.below(2) == 1});
      open_.erase(at);
    } else if (auto message = fuzz::draw_message(input_, kind)) {
      events_.push_back({TransportEvent::kMessage, *at, std::move(*message), {}});
    }
  }

  std::string listen(const std::string& endpoint) override { return endpoint; }
  ConnectionId connect(const std::string&) override { return *open_.insert(ConnectionId{++last_}).first; }
  bool send(ConnectionId to, const Message& message) override {
    encode(message);  // one that may be sent
    const auto* hello = std::get_if<Hello>(&message.body);
    if (hello != nullptr) {
      Welcome welcome;
      welcome.peer = PeerId{to.value == 1 ? 1 : to.value % 4};
      welcome.session = hello->session;
      welcome.host = "here";
      events_.push_back({TransportEvent::kMessage, to, {std::move(welcome), {}}, {}});
    }
    return open_.contains(to);
  }
  std::optional<TransportEvent> receive() override {
    if (events_.empty()) return std::nullopt;
    TransportEvent event = std::move(events_.front());
    events_.pop_front();
    return event;
  }
  void close(ConnectionId connection) override {
    open_.erase(connection);
    std::erase_if(events_, [&](const TransportEvent& event) { return event.connection == connection; });
  }
  std::vector<int> wait_fds() override { return {ready_}; }
  std::uint64_t malformed_messages() const override { return 0; }

 private:
  fuzz::Input& input_;
  int ready_;
  std::uint64_t last_ = 0;
  std::set<ConnectionId> open_;
  std::deque<TransportEvent> events_;
};

class User {
 public:
  User(fuzz::Input& input, PlayedTransport& bus, Client& client)
      : input_(input), bus_(bus), client_(client) {}

  void run() {
    for (int step = 0; step < 120 && !input_.empty(); ++step) {
      try {
        turn();
      } catch (const BusError&) {
        // The bus is lost, or refuses: every way in says so from now on.
      }
    }
    for (const CallPtr& call : calls_) client_.release(call, input_.below(2) == 1);
  }

 private:
  void turn() {
    if (input_.below(3) != 0) return bus_.say(input_.byte());
    switch (input_.below(9)) {
      case 0: return client_.watch(port());
      case 1: return client_.unwatch(port());
      case 2: return open();
      case 3: {
        std::vector<BoxId> boxes;
        for (const BoxEntry& box : client_.boxes(port())) boxes.push_back(box.info.box);
        calls_.push_back(client_.box_call(boxes, "name", fuzz::draw_page(input_, 1), {}));
        return;
      }
      case 4: return submit();
      default: look();
    }
    client_.wait([] { return false; }, monotonic_now(), {});  // carries what has come
  }

  Port port() { return Port{static_cast<std::uint16_t>(input_.below(4))}; }

  void open() {
    Client::CallOptions options;
    options.port = port();
    options.method = "f";
    options.fold = input_.below(4) == 0;
    options.windowed = !options.fold && input_.below(4) == 0;
    EncodedItems items;
    items.count = 1 + input_.below(6);
    PageBuilder page;
    for (std::uint64_t i = 0; i < items.count; ++i) page.add(std::as_bytes(std::span("\x01", 1)));
    items.pages.push_back({page.finish(), items.count});
    calls_.push_back(
        client_.open_call(options, Frame(std::string("context")), std::move(items), input_.below(4) != 0));
  }

  void submit() {
    Client::CallOptions options;
    options.method = "g";
    const Client::Template common(options, Frame(std::string("context")));
    submissions_.push_back(client_.submit(common, std::as_bytes(std::span("\x01", 1))));
  }

  void look() {
    client_.wait([] { return false; }, monotonic_now(), {});
    for (const Submission& submission : submissions_) client_.outcome(submission);
    if (!submissions_.empty() && input_.below(4) == 0) client_.cancel(submissions_.front());
    if (calls_.empty()) return;
    const CallPtr& call =
        calls_[input_.below(static_cast<unsigned>(std::min<std::size_t>(calls_.size(), 256)))];
    const Client::Progress progress = client_.progress(call);
    BB_CHECK(progress.settled <= progress.known || !progress.closed);
    for (std::uint64_t i = 0; i < std::min<std::uint64_t>(progress.known, 8); ++i) {
      if (const auto outcome = client_.outcome(call, i, input_.below(4) == 0))
        BB_CHECK(!outcome->item.empty());
    }
    for (const auto& span : client_.successes(call, 0, 8, false)) BB_CHECK(!span.items.empty());
    std::optional<std::uint64_t> failed;
    Client::Landing at;
    client_.landed(call, at, 8, false, failed);
    client_.first_success(call);
    if (progress.over) client_.result_spans(call);
    if (input_.below(6) == 0) client_.cancel(call);
  }

  fuzz::Input& input_;
  PlayedTransport& bus_;
  Client& client_;
  std::vector<CallPtr> calls_;
  std::vector<Submission> submissions_;
};

}  // namespace
}  // namespace betterbox

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace betterbox;
  fuzz::Input input(data, size);
  auto transport = std::make_unique<PlayedTransport>(input);
  PlayedTransport& bus = *transport;
  Client::Options options;
  options.endpoint = "scheduler";
  options.peer = PeerId{7};
  Client client(std::move(transport), options);
  User(input, bus, client).run();
  return 0;
}
