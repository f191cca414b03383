// Large pages from one rank to another: MPI_Send and MPI_Recv themselves into memory that is warm, and this project's
// carrier, whose receiver gets a frame and lets it go. Times are of the page and a short answer.
// mpirun -n 2 mpi_pages [ROUNDS]
#include <mpi.h>
#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "cluster/mpi_load.h"
#include "cluster/mpi_transport.h"
#include "runtime/time.h"

namespace betterbox {
namespace {

constexpr std::size_t kLargest = 64U << 20;

/// As NumPy has it: in huge pages where the system gives them.
std::shared_ptr<std::byte> warm_memory() {
  auto* data = static_cast<std::byte*>(std::aligned_alloc(2U << 20, kLargest));
  ::madvise(data, kLargest, MADV_HUGEPAGE);
  std::memset(data, 1, kLargest);
  return {data, [](std::byte* memory) { std::free(memory); }};
}

template <class Trip> double median_ms(int rounds, const Trip& trip) {
  std::vector<std::int64_t> times;
  for (int i = 0; i < rounds + 2; ++i) {
    const TimePoint began = monotonic_now();
    trip();
    if (i >= 2) times.push_back((monotonic_now() - began).ns);
  }
  std::sort(times.begin(), times.end());
  return static_cast<double>(times[times.size() / 2]) / 1e6;
}

TransportEvent next(Transport& transport) {
  for (;;) {
    if (auto event = transport.receive()) return std::move(*event);
    ::sched_yield();
  }
}

double raw(int rank, std::byte* memory, int bytes, int rounds) {
  char answer = 0;
  return median_ms(rounds, [&] {
    if (rank == 0) {
      MPI_Send(memory, bytes, MPI_BYTE, 1, 0, MPI_COMM_WORLD);
      MPI_Recv(&answer, 1, MPI_BYTE, 1, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    } else {
      MPI_Recv(memory, bytes, MPI_BYTE, 0, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
      MPI_Send(&answer, 1, MPI_BYTE, 0, 0, MPI_COMM_WORLD);
    }
  });
}

double carrier(Transport& transport, ConnectionId other, const std::shared_ptr<std::byte>& memory, int bytes,
               int rounds) {
  const Message page{BoxReply{1}, {Frame(memory, memory.get(), static_cast<std::size_t>(bytes))}};
  const Message answer{BoxReply{1}, {Frame(std::string("x"))}};
  return median_ms(rounds, [&] {
    if (other.value != 0) {
      transport.send(other, page);
      next(transport);
    } else {
      const ConnectionId from = next(transport).connection;
      transport.send(from, answer);
    }
  });
}

void run(MpiNode& node, int rounds) {
  const auto memory = warm_memory();
  const auto transport = node.make_transport();
  if (node.rank() == 1) transport->listen("mpi://1/pages");
  MPI_Barrier(MPI_COMM_WORLD);
  const ConnectionId other = node.rank() == 0 ? transport->connect("mpi://1/pages") : ConnectionId{};
  for (const int megabytes : {1, 4, 16, 64}) {
    const int bytes = megabytes << 20;
    const double plain = raw(node.rank(), memory.get(), bytes, rounds);
    const double carried = carrier(*transport, other, memory, bytes, rounds);
    if (node.rank() == 0)
      std::printf("%3d MB  MPI_Send and MPI_Recv %7.3f ms  carrier %7.3f ms  %5.2f\n", megabytes, plain,
                  carried, carried / plain);
  }
}

}  // namespace
}  // namespace betterbox

int main(int argc, char** argv) {
  using namespace betterbox;
  const auto node = MpiNode::start(load_mpi_shim(BETTERBOX_SHIM));
  run(*node, argc > 1 ? std::atoi(argv[1]) : 20);
  return node->finish(seconds(10)) ? 0 : 1;
}
