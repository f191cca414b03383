// betterbox-scheduler: the scheduler process. One per bus file; it writes the bus file when it listens and
// leaves nothing behind, however it ends (see sweeper.h).
#include <fcntl.h>
#include <signal.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "runtime/bus_file.h"
#include "runtime/bus_start.h"
#include "runtime/command_line.h"
#include "runtime/descriptor_limit.h"
#include "runtime/limits.h"
#include "runtime/log_format.h"
#include "runtime/network.h"
#include "runtime/own_files.h"
#include "runtime/segment_pool.h"
#include "runtime/zmq_transport.h"
#include "scheduler/server.h"
#include "scheduler/sweeper.h"

namespace betterbox::scheduler {
namespace {

namespace fs = std::filesystem;

struct Arguments {
  std::string bus_file;
  std::string name = "scheduler";
  std::string python;
  std::string log_level = "warning";
  std::string interface;
  int network_port = 0;
  double idle_timeout_s = -1;
  int ready_fd = -1;
  int die_with_fd = -1;
  bool self_started = false;
  bool ephemeral = false;
};

/// A scheduler that ends leaves its lock a moment later than its bus file.
constexpr int kLockPatienceMs = 5'000;

[[noreturn]] void fail(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

std::string read_owner(int fd) {
  char text[256];
  const ssize_t count = ::pread(fd, text, sizeof text, 0);
  return count > 0 ? std::string(text, static_cast<std::size_t>(count)) : "unknown";
}

/// True if `fd` is still the file at `path`: its former owner may have removed it.
bool is_still_there(int fd, const std::string& path) {
  struct stat opened {};
  struct stat named {};
  return ::fstat(fd, &opened) == 0 && ::stat(path.c_str(), &named) == 0 && opened.st_ino == named.st_ino &&
         opened.st_dev == named.st_dev;
}

[[noreturn]] void refuse_second_scheduler(const std::string& bus_file, const std::string& owner) {
  throw std::runtime_error("a scheduler serves " + bus_file + " already: " + owner +
                           "; use that one, stop it, or name another bus file");
}

/// The one scheduler of a bus file is who holds this lock. Result: the descriptor that holds it.
int lock_bus(const std::string& bus_file, const std::string& lock_file) {
  for (int waited = 0;; waited += 20) {
    const int fd = open_own_file(lock_file, O_RDWR | O_CREAT).release();
    const bool held = ::flock(fd, LOCK_EX | LOCK_NB) == 0;
    if (held && is_still_there(fd, lock_file)) {
      const std::string owner = "pid " + std::to_string(::getpid()) + " on " + host_name();
      if (::ftruncate(fd, 0) != 0 ||
          ::pwrite(fd, owner.data(), owner.size(), 0) != static_cast<ssize_t>(owner.size())) {
        fail("cannot write " + lock_file);
      }
      return fd;
    }
    const std::string owner = held ? "unknown" : read_owner(fd);
    ::close(fd);
    if (held) continue;
    const auto info = read_bus_file(bus_file);
    if ((info && bus_answers(*info)) || waited >= kLockPatienceMs) refuse_second_scheduler(bus_file, owner);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

/// A bus file that is there belongs to a scheduler that was killed, or to another host's.
void check_old_bus_file(const std::string& bus_file) {
  const auto info = read_bus_file(bus_file);
  if (!info) return;
  if (info->host == host_name() && !bus_answers(*info)) return;
  refuse_second_scheduler(bus_file, "pid " + std::to_string(info->pid) + " on " + info->host);
}

/// Result: where others reach this bus over the network; empty if it stays on this host.
std::string listen_on_network(Transport& transport, const Arguments& arguments) {
  if (arguments.interface == kNoInterface) return {};
  const std::string address = advertised_address(arguments.interface, "");
  return transport.listen("tcp://" + address + ":" + std::to_string(arguments.network_port));
}

/// --ephemeral removes the bus file's folder: only one that holds nothing but what belongs to the bus.
void check_ephemeral_folder(const fs::path& bus_file) {
  for (const auto& entry : fs::directory_iterator(bus_file.parent_path())) {
    const std::string name = entry.path().filename().string();
    const bool ours =
        name.starts_with(bus_file.filename().string()) || name.ends_with(".log") || name == "logs";
    if (!ours)
      throw std::runtime_error("--ephemeral would remove " + entry.path().string() +
                               ": give the bus file a folder of its own");
  }
}

int block_stop_signals() {
  ::signal(SIGPIPE, SIG_IGN);
  sigset_t signals;
  sigemptyset(&signals);
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&signals, number);
  if (::sigprocmask(SIG_BLOCK, &signals, nullptr) != 0) fail("cannot block signals");
  const int fd = ::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
  if (fd < 0) fail("cannot make a signalfd");
  return fd;
}

/// "ready", or "error: ..." in one line.
void answer_starter(int fd, std::string line) {
  if (fd < 0) return;
  std::replace(line.begin(), line.end(), '\n', ' ');
  line += '\n';
  if (::write(fd, line.data(), line.size()) != static_cast<ssize_t>(line.size()))
    spdlog::warn("nobody waited for readiness");
  ::close(fd);
}

Config make_config(const Arguments& arguments, std::uint64_t incarnation) {
  Config config;
  config.peer = PeerId{incarnation};
  config.host = host_name();
  config.boot_id = boot_id();
  config.store = store_id();
  config.pid = static_cast<std::uint32_t>(::getpid());
  config.name = arguments.name;
  if (arguments.idle_timeout_s >= 0) {
    config.idle_life =
        Duration{std::max<std::int64_t>(1, static_cast<std::int64_t>(arguments.idle_timeout_s * 1e9))};
  } else if (arguments.self_started) {
    config.idle_life = kIdleSchedulerLife;
  }
  return config;
}

void serve(Arguments& arguments) {
  const fs::path bus_file = fs::absolute(arguments.bus_file).lexically_normal();
  if (!fs::is_directory(bus_file.parent_path()))
    throw std::runtime_error("no such folder: " + bus_file.parent_path().string());
  if (arguments.ephemeral) check_ephemeral_folder(bus_file);
  raise_descriptor_limit();
  require_descriptors(2 * kReservedDescriptors, "a scheduler");
  const std::string lock_file = bus_file.string() + ".scheduler";
  const int lock = lock_bus(bus_file, lock_file);
  check_old_bus_file(bus_file);
  const BusKeys keys = make_bus_keys();

  const std::uint64_t incarnation = incarnation_of(keys);
  const std::string folder = make_socket_folder(bus_file);
  start_sweeper(
      {bus_file, lock_file, folder, incarnation, arguments.ephemeral});  // its pipe closes with this process

  Server::Options options;
  options.config = make_config(arguments, incarnation);
  options.bus_file = bus_file;
  options.socket_folder = folder;
  options.signal_fd = block_stop_signals();
  options.die_with_fd = arguments.die_with_fd;

  char name[32];
  std::snprintf(name, sizeof name, "/s-%016llx", static_cast<unsigned long long>(incarnation));
  const std::string socket = folder + name;
  const std::string endpoint = "ipc://" + socket;
  {
    ZmqTransport transport([&keys] { return keys; });
    transport.listen(endpoint);
    const std::string network_endpoint = listen_on_network(transport, arguments);
    write_bus_file(bus_file, {endpoint, network_endpoint, keys, folder, options.config.host,
                              options.config.boot_id, incarnation, options.config.pid, arguments.python,
                              arguments.self_started, BETTERBOX_VERSION});
    answer_starter(std::exchange(arguments.ready_fd, -1), "ready");
    Server server(std::move(options), transport);
    spdlog::info("the scheduler ends: {}", server.run());
  }
  ::unlink(socket.c_str());
  ::close(lock);
}

int run(int argc, char** argv) {
  Arguments arguments;
  CLI::App app{"The scheduler of a BetterBox bus", "betterbox-scheduler"};
  app.add_option("--bus", arguments.bus_file, "the bus file to write")->required()->type_name("FILE");
  app.add_option("--name", arguments.name, "a name for people");
  app.add_option("--python", arguments.python, "MAJOR.MINOR of who starts it, for the bus file")->required();
  app.add_option(
         "--interface", arguments.interface,
         "the interface (or address of this host) that other hosts are to use; default: the one towards the "
         "world; none: this host only")
      ->type_name("NAME");
  app.add_option("--port", arguments.network_port, "the TCP port for other hosts; default: any that is free")
      ->check(CLI::Range(0, 65535));
  app.add_option("--ready-fd", arguments.ready_fd,
                 "a line is written to this descriptor once peers can connect");
  app.add_option("--die-with-fd", arguments.die_with_fd, "end when this descriptor comes to its end of file");
  app.add_option("--idle-timeout", arguments.idle_timeout_s,
                 "end when nobody has been on the bus for this many seconds")
      ->type_name("S")
      ->check(CLI::Range(0.0, 1e9))
      ->check(is_number);
  app.add_option("--log-level", arguments.log_level, "what goes to stderr")
      ->check(CLI::IsMember({"trace", "debug", "info", "warning", "error", "critical", "off"}));
  app.add_flag("--self-started", arguments.self_started, "started by a peer: ends when idle");
  app.add_flag("--ephemeral", arguments.ephemeral, "the folder of the bus file goes with the bus");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  spdlog::set_default_logger(std::make_shared<spdlog::logger>(
      "betterbox-scheduler", std::make_shared<spdlog::sinks::stderr_sink_mt>()));
  spdlog::set_level(spdlog::level::from_str(arguments.log_level));
  spdlog::set_formatter(log_format("%Y-%m-%d %H:%M:%S.%e %n[%P] %l: %*"));
  try {
    serve(arguments);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "betterbox-scheduler: %s\n", error.what());
    answer_starter(arguments.ready_fd, std::string("error: ") + error.what());
    return 1;
  }
}

}  // namespace
}  // namespace betterbox::scheduler

int main(int argc, char** argv) { return betterbox::scheduler::run(argc, argv); }
