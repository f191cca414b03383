#include "cluster/mpi_doors.h"

#include <fcntl.h>
#include <unistd.h>

#include <string>

namespace betterbox {

std::unique_ptr<MpiDoors> MpiDoors::open(const BetterboxMpi& mpi, BetterboxMpiComm comm) {
  const int rank = mpi.rank(comm);
  const int size = mpi.size(comm);
  auto doors = std::make_unique<MpiDoors>();
  int ends[2] = {-1, -1};
  if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0) {
    doors->read_ = Descriptor(ends[0]);
    doors->write_ = Descriptor(ends[1]);
  }
  const int mine[2] = {static_cast<int>(::getpid()), ends[1]};
  std::vector<int> all(2 * static_cast<std::size_t>(size));
  mpi.gather_ints(mine, 2, all.data(), comm);
  int ok = ends[1] >= 0 ? 1 : 0;
  for (std::size_t i = 0; i < static_cast<std::size_t>(size); ++i) {
    const std::string path = "/proc/" + std::to_string(all[2 * i]) + "/fd/" + std::to_string(all[2 * i + 1]);
    const int fd = static_cast<int>(i) == rank ? -1 : ::open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NONBLOCK);
    doors->others_.emplace_back(fd);
    if (fd < 0 && static_cast<int>(i) != rank) ok = 0;
  }
  return mpi.least(ok, comm) != 0 ? std::move(doors) : nullptr;
}

/// A pipe that is full has been rung before.
void MpiDoors::ring(int rank) const {
  const char byte = 1;
  static_cast<void>(!::write(others_[static_cast<std::size_t>(rank)].get(), &byte, 1));
}

std::uint64_t MpiDoors::clear() const {
  char bytes[64];
  const ssize_t count = ::read(read_.get(), bytes, sizeof bytes);
  return count > 0 ? static_cast<std::uint64_t>(count) : 0;
}

}  // namespace betterbox
