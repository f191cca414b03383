#include "cluster/mpi_memory.h"

#include <sys/mman.h>

#include <cstdlib>
#include <new>

namespace betterbox {
namespace {

constexpr std::size_t kHugePage = 2U << 20;

}  // namespace

std::shared_ptr<std::byte> MpiMemory::take(std::size_t bytes) {
  if (bytes < kMpiBlockMinBytes) {
    auto plain = std::make_shared_for_overwrite<std::byte[]>(bytes);
    std::byte* data = plain.get();
    return {std::move(plain), data};
  }
  Block block;
  {
    const std::lock_guard lock(mutex_);
    for (auto at = idle_.rbegin(); at != idle_.rend(); ++at) {
      if (at->bytes < bytes || at->bytes / 4 > bytes) continue;
      block = *at;
      idle_bytes_ -= block.bytes;
      idle_.erase(std::next(at).base());
      break;
    }
  }
  if (block.data == nullptr) {
    block.bytes = (bytes + kHugePage - 1) / kHugePage * kHugePage;
    block.data = static_cast<std::byte*>(std::aligned_alloc(kHugePage, block.bytes));
    if (block.data == nullptr) throw std::bad_alloc();
    ::madvise(block.data, block.bytes, MADV_HUGEPAGE);
  }
  return {block.data, [block, pool = weak_from_this()](std::byte*) {
            if (const auto alive = pool.lock()) {
              alive->give_back(block);
            } else {
              std::free(block.data);
            }
          }};
}

/// Those used longest ago go first.
void MpiMemory::give_back(Block block) {
  const std::lock_guard lock(mutex_);
  idle_.push_back(block);
  idle_bytes_ += block.bytes;
  while (idle_bytes_ > kMpiIdleBytes) {
    idle_bytes_ -= idle_.front().bytes;
    std::free(idle_.front().data);
    idle_.erase(idle_.begin());
  }
}

MpiMemory::~MpiMemory() {
  for (const Block& block : idle_) std::free(block.data);
}

std::size_t MpiMemory::idle_bytes() const {
  const std::lock_guard lock(mutex_);
  return idle_bytes_;
}

}  // namespace betterbox
