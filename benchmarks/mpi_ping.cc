// A ping-pong of 64 bytes between two ranks: MPI_Send and MPI_Recv themselves, and this project's carrier over MPI.
// mpirun -n 2 mpi_ping [ROUNDS]
#include <mpi.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cluster/mpi_load.h"
#include "cluster/mpi_transport.h"
#include "runtime/time.h"

namespace betterbox {
namespace {

void print(const char* what, std::vector<std::int64_t> times) {
  std::sort(times.begin(), times.end());
  std::printf("{\"what\": \"%s\", \"p50_us\": %.3f, \"p99_us\": %.3f}\n", what,
              static_cast<double>(times[times.size() / 2]) / 1e3,
              static_cast<double>(times[times.size() * 99 / 100]) / 1e3);
}

template <class Trip> std::vector<std::int64_t> timed(int rounds, const Trip& trip) {
  std::vector<std::int64_t> times;
  for (int i = 0; i < rounds; ++i) {
    const TimePoint began = monotonic_now();
    trip();
    times.push_back((monotonic_now() - began).ns);
  }
  return times;
}

void raw(int rank, int rounds) {
  char bytes[64] = {};
  const auto send = [&] { MPI_Send(bytes, sizeof bytes, MPI_BYTE, 1 - rank, 0, MPI_COMM_WORLD); };
  const auto receive = [&] {
    MPI_Recv(bytes, sizeof bytes, MPI_BYTE, 1 - rank, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
  };
  if (rank == 0) {
    print("raw", timed(rounds, [&] { send(), receive(); }));
  } else {
    for (int i = 0; i < rounds; ++i) receive(), send();
  }
}

TransportEvent next(Transport& transport) {
  for (;;) {
    if (auto event = transport.receive()) return std::move(*event);
  }
}

void carrier(MpiNode& node, int rounds) {
  const auto transport = node.make_transport();
  const Message ping{BoxReply{1}, {Frame(std::string(64, 'x'))}};
  if (node.rank() == 0) {
    const ConnectionId other = transport->connect("mpi://1/echo");
    print("carrier", timed(rounds, [&] { transport->send(other, ping), next(*transport); }));
  } else {
    transport->listen("mpi://1/echo");
    MPI_Barrier(MPI_COMM_WORLD);
    for (int i = 0; i < rounds; ++i) {
      const TransportEvent event = next(*transport);
      transport->send(event.connection, event.message);
    }
    next(*transport);  // the end
  }
}

}  // namespace
}  // namespace betterbox

int main(int argc, char** argv) {
  using namespace betterbox;
  const auto node = MpiNode::start(load_mpi_shim(BETTERBOX_SHIM));
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 20000;
  raw(node->rank(), rounds);
  if (node->rank() == 0) MPI_Barrier(MPI_COMM_WORLD);
  carrier(*node, rounds);
  return node->finish(seconds(10)) ? 0 : 1;
}
