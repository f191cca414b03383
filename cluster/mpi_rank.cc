#include "cluster/mpi_rank.h"

#include <fcntl.h>
#include <signal.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/random.h>
#include <unistd.h>

#include <cstdlib>
#include <stdexcept>
#include <thread>

#include "runtime/bus_file.h"
#include "runtime/segment_pool.h"
#include "scheduler/server.h"

namespace betterbox {
namespace {

constexpr Duration kFinishPatience = seconds(3);
constexpr const char* kScheduler = "scheduler";

}  // namespace

/// The scheduler of the job, on a thread that takes no signals.
class JobScheduler {
 public:
  JobScheduler(MpiNode& node, const std::string& endpoint) : transport_(node.make_transport()) {
    if (::pipe2(life_, O_CLOEXEC) != 0) throw std::runtime_error("cannot make a pipe");
    transport_->listen(endpoint);
    scheduler::Server::Options options;
    options.config.host = host_name();
    options.config.boot_id = boot_id();
    options.config.pid = static_cast<std::uint32_t>(::getpid());
    options.config.name = "mpi";
    options.config.store = store_id();
    options.config.rank = static_cast<std::uint32_t>(node.rank());
    while (options.config.peer.value == 0) {
      if (::getrandom(&options.config.peer.value, sizeof options.config.peer.value, 0) < 0)
        throw std::runtime_error("cannot draw random bits");
    }
    options.die_with_fd = life_[0];
    server_ = std::make_unique<scheduler::Server>(std::move(options), *transport_);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    thread_ = std::thread([this, &node] {
      node.roam();
      server_->run();
    });
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
  ~JobScheduler() {
    ::close(life_[1]);
    thread_.join();
    ::close(life_[0]);
  }
  JobScheduler(const JobScheduler&) = delete;
  JobScheduler& operator=(const JobScheduler&) = delete;

 private:
  int life_[2] = {-1, -1};
  std::unique_ptr<Transport> transport_;
  std::unique_ptr<scheduler::Server> server_;
  std::thread thread_;
};

MpiRank::MpiRank(const BetterboxMpi& mpi) {
  spdlog::set_default_logger(
      std::make_shared<spdlog::logger>("betterbox mpi", std::make_shared<spdlog::sinks::stderr_sink_mt>()));
  spdlog::set_level(spdlog::level::warn);
  node_ = MpiNode::start(mpi);
  carrier_.scheme = "mpi://";
  carrier_.make = [this] { return node_->make_transport(); };
  carrier_.endpoint = [this](const std::string& name) {
    return "mpi://" + std::to_string(node_->rank()) + "/" + name;
  };
  carrier_.roam = [this] { node_->roam(); };
  carrier_.own_cpus = node_->cpus_elsewhere();
  if (node_->rank() == 0) scheduler_ = std::make_unique<JobScheduler>(*node_, scheduler_endpoint());
}

std::string MpiRank::scheduler_endpoint() { return "mpi://0/" + std::string(kScheduler); }

void MpiRank::finish(int code) {
  scheduler_.reset();
  if (!node_->finish(kFinishPatience)) node_->abort(code);
}

void MpiRank::end(int code) {
  finish(code);
  std::thread([code] {  // what else ends with the process may wait for the thread that is stuck
    ::usleep(static_cast<useconds_t>(kFinishPatience.ns / 1000));
    std::_Exit(code);
  })
      .detach();
  std::exit(code);
}

}  // namespace betterbox
