// betterbox-worker: one per node. Runs the agent's loop until it is told to stop, the bus ends, or no template can be
// started (worker/template_process.h).
//
// Exit codes: 0 stopped, 1 failed. The line on --ready-fd is "ready" or "error: ...".
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <CLI/CLI.hpp>

#include <fcntl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <iostream>

#include "runtime/bus_start.h"
#include "runtime/command_line.h"
#include "runtime/descriptor_limit.h"
#include "runtime/log_format.h"
#include "runtime/page.h"
#include "runtime/zmq_transport.h"
#include "worker/agent_loop.h"
#include "worker/capacity.h"
#include "worker/template_process.h"

namespace betterbox {
namespace {

struct Arguments {
  std::string bus;
  std::string interface;
  std::uint32_t slots = 0;
  std::string cpus, memory, gpus;
  std::vector<std::string> resources;
  std::string name;
  std::string log_folder;
  std::string python = "python3";
  std::vector<std::string> python_flags;
  std::string python_path;
  std::uint64_t interpreter = 0;
  std::string python_version;
  std::vector<std::string> preload;
  int host_fd = -1;
  std::uint16_t port = 0;
  std::uint32_t host_slots = 1;
  double ends_in_s = 0, drain_s = 0;
  bool background = false, follow_client = false, echo = false, ignore_sigint = false;
  int die_with_fd = -1, ready_fd = -1, await_bus_fd = -1;
  std::string log_level = "info";
};

void add_options(CLI::App& app, Arguments& a) {
  app.add_option("--bus", a.bus, "The bus file");
  app.add_option(
      "--interface", a.interface,
      "The interface, or address of this host, that clients elsewhere use; none; default: by the routes");
  app.add_option("--slots", a.slots, "Slots for plain functions")->check(CLI::Range(0U, kMaxSlots));
  app.add_option("--cpus", a.cpus, "Cores that items may take at a time (default: one per slot)");
  app.add_option("--memory", a.memory, "Memory for items: bytes, or 64G (default: what this machine has)");
  app.add_option("--gpus", a.gpus, "Devices: how many, or which (0,2; one alone is 2,). Default: none");
  app.add_option("--resource", a.resources, "NAME=AMOUNT of anything else that is scarce (repeatable)");
  app.add_option("--name", a.name, "For people: w0");
  app.add_option("--log-folder", a.log_folder, "Where the output of slots goes");
  app.add_option("--python", a.python, "The interpreter that slots are");
  app.add_option("--python-flag", a.python_flags, "An option of that interpreter (repeatable)");
  app.add_option("--python-path", a.python_path,
                 "Where its betterbox is: put in front of sys.path unless it is there");
  app.add_option("--interpreter", a.interpreter,
                 "The number by which calls name that interpreter, if they do");
  app.add_option("--python-version", a.python_version, "Its MAJOR.MINOR");
  app.add_option("--preload", a.preload, "Modules that slots start with")->delimiter(',');
  app.add_option("--host-fd", a.host_fd, "Host the box whose definition is read from this descriptor");
  app.add_option("--port", a.port, "The port of that box");
  app.add_option("--host-slots", a.host_slots, "Instances of that box")->check(CLI::Range(1U, kMaxSlots));
  app.add_option("--ends-in", a.ends_in_s,
                 "Seconds until this host is taken away (0: never): drains before that")
      ->check(CLI::Range(0.0, 1e8))
      ->check(is_number);
  app.add_option("--drain", a.drain_s, "Seconds for what runs to end when told to end (default: 25)")
      ->check(CLI::Range(0.001, 1e8))
      ->check(is_number);
  app.add_flag("--background", a.background, "Does not keep a bus alive that started itself");
  app.add_flag("--follow-client", a.follow_client,
               "Slots are their client's interpreter, in its environment alone, where it is on this host");
  app.add_flag("--echo", a.echo, "Also write what slots print to this process's output, tagged");
  app.add_flag("--ignore-sigint", a.ignore_sigint, "Another process handles the terminal's SIGINT");
  app.add_option("--die-with-fd", a.die_with_fd, "Stop when this pipe ends");
  app.add_option("--ready-fd", a.ready_fd, "Write one line here once ready");
  app.add_option("--await-bus-fd", a.await_bus_fd,
                 "The scheduler is just being started: a byte comes here when there is a bus file");
  app.add_option("--log-level", a.log_level, "trace, debug, info, warning, error");
}

std::string read_all(int fd) {
  std::string bytes;
  char buffer[64 << 10];
  for (;;) {
    const ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw std::runtime_error(std::string("--host-fd cannot be read: ") + std::strerror(errno));
    if (n == 0) break;
    bytes.append(buffer, static_cast<std::size_t>(n));
  }
  ::close(fd);
  return bytes;
}

/// "Type: message" of an error item (runtime/page.h), or what a lost item says.
std::string error_text(const Frame& item) {
  if (auto lost = parse_lost_item(item.bytes())) {
    std::string text(lost->detail);
    if (lost->signal != 0) text += " (signal " + std::to_string(lost->signal) + ")";
    if (!lost->stderr_tail.empty()) text += "\n" + std::string(lost->stderr_tail);
    return text;
  }
  std::string_view rest = item.view();
  if (rest.size() < 1 || rest[0] != static_cast<char>(ItemTag::kError)) return "unknown";
  rest.remove_prefix(1);
  std::string text;
  for (int i = 0; i < 2 && rest.size() >= 4; ++i) {
    std::uint32_t size = 0;
    std::memcpy(&size, rest.data(), 4);
    text += (i > 0 ? ": " : "") + std::string(rest.substr(4, size));
    rest.remove_prefix(std::min<std::size_t>(rest.size(), std::size_t{4} + size));
  }
  return text;
}

/// What the loop reports, and the ready line that depends on it.
class Worker : public AgentLoop::Observer {
 public:
  Worker(const Arguments& arguments, spdlog::logger& log)
      : arguments_(arguments), log_(log), hosted_(arguments.host_fd < 0) {}

  void attach(AgentLoop& loop) { loop_ = &loop; }
  void welcomed() override {
    log_.info("on the bus");
    welcomed_ = true;
    tell_if_ready();
  }
  void template_up() override {
    template_up_ = true;
    tell_if_ready();
  }
  void hosting_reported(const HostingReport& report) override {
    if (!report.ok) {
      failure_ = error_text(report.error);
      loop_->request_stop();
      return;
    }
    hosted_ = true;
    tell_if_ready();
  }
  void log(const std::string& text) override { log_.warn(text); }

  void tell(std::string line) {
    if (arguments_.ready_fd < 0 || std::exchange(told_, true)) return;
    std::replace(line.begin(), line.end(), '\n', ' ');
    line += "\n";
    [[maybe_unused]] const ssize_t n = ::write(arguments_.ready_fd, line.data(), line.size());
    ::close(arguments_.ready_fd);
  }
  const std::string& failure() const { return failure_; }

 private:
  void tell_if_ready() {
    if (!welcomed_ || !template_up_ || !hosted_) return;
    log_.info("ready");
    tell("ready");
  }

  const Arguments& arguments_;
  spdlog::logger& log_;
  AgentLoop* loop_ = nullptr;
  bool welcomed_ = false, template_up_ = false, hosted_, told_ = false;
  std::string failure_;
};

/// SIGTERM and SIGUSR1 drain, a second SIGTERM stops; SIGINT stops, a second one kills at once.
class Signals {
 public:
  explicit Signals(bool ignore_sigint) {
    std::signal(SIGPIPE, SIG_IGN);
    std::signal(SIGHUP, SIG_IGN);
    if (ignore_sigint) std::signal(SIGINT, SIG_IGN);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGUSR1);
    if (!ignore_sigint) sigaddset(&set, SIGINT);
    ::sigprocmask(SIG_BLOCK, &set, nullptr);
    fd_ = ::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  }
  void attach(AgentLoop& loop) {
    loop.watch(fd_, [this, &loop] {
      signalfd_siginfo info{};
      while (::read(fd_, &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
        if (info.ssi_signo == SIGUSR1 || (info.ssi_signo == SIGTERM && ++terminations_ == 1)) {
          loop.request_drain("told to end");
        } else {
          const bool again = info.ssi_signo == SIGINT && ++interrupts_ > 1;
          again ? loop.kill() : loop.request_stop();
        }
      }
      return true;
    });
  }

 private:
  int fd_ = -1;
  int interrupts_ = 0, terminations_ = 0;
};

std::shared_ptr<spdlog::logger> make_log(const Arguments& a) {
  std::shared_ptr<spdlog::logger> log;
  try {
    if (!a.log_folder.empty()) log = spdlog::basic_logger_st("worker", a.log_folder + "/worker.log");
  } catch (const spdlog::spdlog_ex& error) {
    std::cerr << "betterbox-worker: " << error.what() << "\n";
  }
  if (log == nullptr) log = spdlog::stderr_logger_st("worker");
  log->set_formatter(log_format("[%Y-%m-%d %H:%M:%S.%e] [%n] [%l] %*"));
  log->set_level(spdlog::level::from_str(a.log_level));
  log->flush_on(spdlog::level::info);
  return log;
}

/// What items may need together. Throws std::invalid_argument.
void take_capacity(const Arguments& a, AgentLoop::Options& options) {
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  if (!a.gpus.empty()) options.devices = parse_devices(a.gpus, visible != nullptr ? visible : "");
  options.capacity.cpus_milli =
      a.cpus.empty() ? std::uint64_t{1000} * a.slots : parse_thousandths("--cpus", a.cpus);
  options.capacity.memory_bytes = a.memory.empty() ? usable_memory() : parse_memory(a.memory);
  options.capacity.gpus_milli = 1000 * options.devices.size();
  options.capacity.named = parse_amounts(a.resources);
}

/// Throws std::runtime_error.
void check_descriptors(const Arguments& a) {
  constexpr std::size_t kPerSlot = 4;  // its arena, its two pipes, its log
  const std::size_t slots = std::max<std::size_t>(a.slots, a.host_fd >= 0 ? a.host_slots : 0);
  const std::size_t needed = 2 * kReservedDescriptors + kPerSlot * slots;
  const std::uint64_t most = std::min<std::uint64_t>(descriptor_limit().hard, kMaxDescriptors);
  if (needed > most) {
    throw std::runtime_error("a worker with " + std::to_string(slots) + " slots needs " +
                             std::to_string(needed) + " descriptors: " + descriptor_advice() +
                             "; or give it fewer slots");
  }
}

Duration duration_of(double seconds) { return {static_cast<std::int64_t>(seconds * 1e9)}; }

/// Throws std::runtime_error if the pipe ends without a byte: whoever starts the scheduler has given up.
void await_byte(int fd) {
  char byte = 0;
  ssize_t got = 0;
  while ((got = ::read(fd, &byte, 1)) < 0 && errno == EINTR) {}
  ::close(fd);
  if (got != 1) throw std::runtime_error("the scheduler did not start");
}

int run(const Arguments& a) {
  AgentLoop::Options options;
  take_capacity(a, options);
  std::optional<FoundBus> found;
  if (a.await_bus_fd < 0) found = find_bus(a.bus);
  std::string box;
  if (a.host_fd >= 0) box = read_all(a.host_fd);
  options.self = make_peer_id();
  check_descriptors(a);
  for (const int fd : {a.ready_fd, a.die_with_fd, a.await_bus_fd}) {
    if (fd >= 0) ::fcntl(fd, F_SETFD, FD_CLOEXEC);  // this process's alone
  }
  Interpreter own{a.python, a.python_path, {}, a.python_flags, {}};
  const std::string folder = found ? found->socket_folder : socket_folder_of(a.bus);
  TemplateProcesses templates({a.preload, agent_socket_path(folder, options.self), a.follow_client},
                              std::move(own));
  // Who starts a worker by hand has chosen what slots are.
  if (a.follow_client) options.templates.own = a.interpreter;
  // Python takes longer to start than all else here, so it begins first.
  int first_template = templates.start(options.templates.own, {});
  if (a.await_bus_fd >= 0) await_byte(a.await_bus_fd);
  const FoundBus bus = found ? *found : find_bus(a.bus);

  Signals signals(a.ignore_sigint);
  const auto log = make_log(a);
  options.scheduler_endpoint = bus.endpoint;
  options.interface = a.interface;
  options.bus_file = a.bus;
  options.socket_folder = bus.socket_folder;
  options.name = a.name.empty() ? "w-" + std::to_string(::getpid()) : a.name;
  options.python_version = a.python_version;
  options.log_folder = a.log_folder;
  options.background = a.background;
  options.function_slots = a.slots;
  options.templates.start = [&](std::uint64_t key, std::string_view text) {
    if (text.empty() && first_template >= 0) return std::exchange(first_template, -1);
    if (text.empty() && templates.started())
      log->warn("the process that forks slots is gone; another one is started");
    return templates.start(key, text);
  };
  options.templates.end = [&](std::uint64_t key) { templates.let_end(key); };
  options.bell_fd = templates.take_bell();
  options.echo = a.echo;
  if (a.ends_in_s > 0) options.ends = monotonic_now() + duration_of(a.ends_in_s);
  if (a.drain_s > 0) options.drain_time = duration_of(a.drain_s);
  Worker worker(a, *log);
  int code = 0;
  {
    AgentLoop loop(options, std::make_unique<ZmqTransport>(keys_in(a.bus)), worker);
    worker.attach(loop);
    signals.attach(loop);
    if (a.die_with_fd >= 0) {
      loop.watch(a.die_with_fd, [&loop] {
        loop.request_stop();
        return false;
      });
    }
    if (a.host_fd >= 0) {
      loop.feed(HostAsked{
          {{}, Port{a.port}, 0, a.host_slots, a.host_slots, options.name}, Frame(std::move(box)), true});
    }
    while (loop.turn(TimePoint::never())) {}
    std::string why = worker.failure().empty() ? loop.end_text() : worker.failure();
    if (loop.end() != AgentLoop::End::kStopped || !worker.failure().empty()) {
      code = 1;
      log->error(why);
      std::cerr << "betterbox-worker: " << why << "\n";
    }
    worker.tell("error: " + (why.empty() ? std::string("stopped before it was ready") : why));
  }
  templates.await_end();
  log->info("ended");
  return code;
}

int main_function(int argc, char** argv) {
  CLI::App app("A BetterBox worker: runs functions and boxes in slots on this machine.", "betterbox-worker");
  Arguments a;
  add_options(app, a);
  CLI11_PARSE(app, argc, argv);
  try {
    if (a.bus.empty()) throw std::runtime_error("--bus FILE is needed");
    if (a.host_fd >= 0 && a.port == 0) throw std::runtime_error("a box needs --port, 1 to 65535");
    return run(a);
  } catch (const std::exception& error) {
    std::cerr << "betterbox-worker: " << error.what() << "\n";
    if (a.ready_fd >= 0) {
      const std::string line = std::string("error: ") + error.what() + "\n";
      [[maybe_unused]] const ssize_t n = ::write(a.ready_fd, line.data(), line.size());
    }
    return 1;
  }
}

}  // namespace
}  // namespace betterbox

int main(int argc, char** argv) { return betterbox::main_function(argc, argv); }
