// Many workers that come to a bus at the same moment, over TCP under CURVE: how long until the last one is welcome, what
// that costs the scheduler, and how long another peer waits for an answer meanwhile.
//
//   many_peers [PEERS [THREADS [SCHEDULER]]]
//
// SCHEDULER is the real program, by default that of this build. The workers are threads' connections, each with a try
// whether the port answers, a greeting and an offer of its own, from a host of a name of its own: the scheduler does for
// each what it does for a real one. Exit code 1: not all were let in, or one was lost again.
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "runtime/bus_file.h"
#include "runtime/bus_start.h"
#include "runtime/limits.h"
#include "runtime/network.h"
#include "runtime/zmq_transport.h"

namespace betterbox {
namespace {

constexpr Duration kPatience = seconds(60);
constexpr Duration kAfterwards = seconds(3);  ///< all stay for so long
constexpr const char* kPython = "3.x";
constexpr std::uint64_t kFirstPeer = 1'000'000;
constexpr std::uint64_t kAsking = 500'000;  ///< those who ask

/// The scheduler of a bus of its own, on the loopback.
class Bus {
 public:
  explicit Bus(const std::string& program) {
    if (::mkdtemp(folder_.data()) == nullptr) throw std::runtime_error("no folder");
    file_ = folder_ + "/bus.json";
    start_daemon({program, "--bus", file_, "--python", kPython, "--interface", "lo"}, folder_ + "/log",
                 monotonic_now() + seconds(20));
    info_ = *read_bus_file(file_);
  }
  ~Bus() {
    ::kill(static_cast<pid_t>(info_.pid), SIGTERM);
    for (int i = 0; i < 500 && std::filesystem::exists(info_.socket_folder); ++i) ::usleep(10'000);
    std::filesystem::remove_all(folder_);
  }
  Bus(const Bus&) = delete;
  Bus& operator=(const Bus&) = delete;
  const std::string& file() const { return file_; }
  const BusInfo& info() const { return info_; }
  /// What the scheduler has taken of the processors.
  double cpu_seconds() const {
    std::ifstream stat("/proc/" + std::to_string(info_.pid) + "/stat");
    std::string word;
    double ticks = 0;
    for (int field = 1; stat >> word; ++field)
      if (field == 14 || field == 15) ticks += std::stod(word);
    return ticks / static_cast<double>(::sysconf(_SC_CLK_TCK));
  }

 private:
  std::string folder_ = "/tmp/many-peers-XXXXXX";
  std::string file_;
  BusInfo info_;
};

void wait_for_something(ZmqTransport& transport, int most_ms) {
  std::vector<pollfd> waited;
  for (const int fd : transport.wait_fds()) waited.push_back({fd, POLLIN, 0});
  ::poll(waited.data(), waited.size(), most_ms);
}

Hello greeting(Role role, std::uint64_t number) {
  Hello hello;
  hello.role = role;
  hello.peer = PeerId{kFirstPeer + number};
  hello.session = 1;
  hello.python = kPython;
  hello.host = "host-" + std::to_string(number);
  hello.boot_id = hello.host;
  hello.pid = 1;
  hello.name = "peer-" + std::to_string(number);
  return hello;
}

struct Tally {
  std::atomic<int> welcome{0};
  std::atomic<int> refused{0};
  std::atomic<int> lost{0};
  std::atomic<std::int64_t> last_ns{0};
  std::atomic<bool> over{false};
};

/// Workers [first, first + count).
void come(const Bus& bus, std::uint64_t first, int count, Tally& tally) {
  ZmqTransport transport(keys_in(bus.file()));
  for (int i = 0; i < count; ++i) {
    if (!network_answers(bus.info().network_endpoint, monotonic_now() + kLivenessBound)) ++tally.lost;
    const ConnectionId connection = transport.connect(bus.info().network_endpoint);
    transport.send(connection, {greeting(Role::kWorker, first + static_cast<std::uint64_t>(i)), {}});
  }
  while (!tally.over) {
    while (auto event = transport.receive()) {
      if (event->kind == TransportEvent::kClosed) {
        if (tally.lost++ == 0) std::fprintf(stderr, "lost: %s\n", event->reason.c_str());
      } else if (const auto* refused = std::get_if<Refused>(&event->message.body)) {
        if (tally.refused++ == 0) std::fprintf(stderr, "refused: %s\n", refused->text.c_str());
      } else if (std::holds_alternative<Welcome>(event->message.body)) {
        Offer offer;
        offer.function_slots = 4;
        offer.capacity.cpus_milli = 4'000;
        transport.send(event->connection, {offer, {}});
        tally.last_ns = monotonic_now().ns;
        ++tally.welcome;
      }
    }
    wait_for_something(transport, 50);
  }
}

/// Another peer, which asks for something cheap again and again. Result: how long each answer took.
std::vector<double> ask(const Bus& bus, std::uint64_t number, const std::atomic<bool>& over) {
  ZmqTransport transport(keys_in(bus.file()));
  const ConnectionId connection = transport.connect(bus.info().endpoint);
  transport.send(connection, {greeting(Role::kClient, number), {}});
  std::vector<double> took_ms;
  TimePoint asked = monotonic_now();
  const auto answered = [&] {
    while (auto event = transport.receive())
      if (event->kind == TransportEvent::kMessage) return true;
    return false;
  };
  while (!over) {
    if (!answered()) {
      wait_for_something(transport, 50);
      continue;
    }
    took_ms.push_back((monotonic_now() - asked).seconds() * 1e3);
    ::usleep(2'000);
    asked = monotonic_now();
    transport.send(connection, {Watch{Port{1}}, {}});
  }
  if (!took_ms.empty()) took_ms.erase(took_ms.begin());  // the greeting
  std::ranges::sort(took_ms);
  return took_ms;
}

int run(const std::string& program, int peers, int threads) {
  const Bus bus(program);
  Tally tally;
  std::atomic<bool> quiet_over{false};
  const auto alone = [&] {
    std::thread timer([&] {
      ::sleep(1);
      quiet_over = true;
    });
    auto result = ask(bus, kAsking, quiet_over);
    timer.join();
    return result;
  }();

  const double cpu_before = bus.cpu_seconds();
  std::atomic<bool> all_in{false};
  std::vector<double> meanwhile;
  std::thread asking([&] { meanwhile = ask(bus, kAsking + 1, all_in); });
  const TimePoint began = monotonic_now();
  std::vector<std::thread> coming;
  for (int i = 0; i < threads; ++i) {
    const int first = 1 + peers * i / threads;
    const int end = 1 + peers * (i + 1) / threads;
    coming.emplace_back(
        [&bus, &tally, first, end] { come(bus, static_cast<std::uint64_t>(first), end - first, tally); });
  }
  while (tally.welcome + tally.lost < peers && monotonic_now() - began < kPatience) ::usleep(1'000);
  const double took_s = (TimePoint{tally.last_ns} - began).seconds();
  const double cpu_s = bus.cpu_seconds() - cpu_before;
  all_in = true;
  asking.join();
  const int came = tally.welcome;
  const double cpu_idle_before = bus.cpu_seconds();
  ::usleep(static_cast<useconds_t>(kAfterwards.ns / 1'000));
  const double idle = (bus.cpu_seconds() - cpu_idle_before) / kAfterwards.seconds();
  tally.over = true;
  for (std::thread& thread : coming) thread.join();

  const auto part = [](const std::vector<double>& sorted, double share) {
    return sorted.empty() ? 0
                          : sorted[static_cast<std::size_t>(share * static_cast<double>(sorted.size() - 1))];
  };
  std::printf(
      "%d of %d workers welcome in %.2f s; %.2f ms of the scheduler's processor time each; %d refused, %d "
      "lost\n",
      came, peers, took_s, cpu_s * 1e3 / std::max(came, 1), tally.refused.load(), tally.lost.load());
  std::printf(
      "an answer to another peer: p50 %.2f ms, p99 %.2f ms, most %.2f ms (before: %.2f, %.2f, %.2f)\n",
      part(meanwhile, 0.5), part(meanwhile, 0.99), part(meanwhile, 1), part(alone, 0.5), part(alone, 0.99),
      part(alone, 1));
  std::printf("while nothing happens, with all of them on the bus: %.1f %% of a core\n", idle * 100);
  return came == peers && tally.lost == 0 ? 0 : 1;
}

}  // namespace
}  // namespace betterbox

int main(int argc, char** argv) {
  namespace fs = std::filesystem;
  const fs::path build = fs::read_symlink("/proc/self/exe").parent_path().parent_path();
  const fs::path scheduler =
      argc > 3 ? fs::absolute(argv[3]) : build / "python/betterbox/_bin/betterbox-scheduler";
  const int peers = argc > 1 ? std::atoi(argv[1]) : 1000, threads = argc > 2 ? std::atoi(argv[2]) : 4;
  if (peers < 1 || threads < 1) {
    std::fprintf(stderr, "many_peers [PEERS [THREADS [SCHEDULER]]]\n");
    return 2;
  }
  try {
    return betterbox::run(scheduler, peers, threads);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "many_peers: %s\n", error.what());
    return 1;
  }
}
