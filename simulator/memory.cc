// operator new and delete of the simulator's program (simulator/memory.h): 16 bytes in front of each allocation say
// how large it is and whose. The simulator has one thread. Left out where a sanitizer has its own.
#include "simulator/memory.h"

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

#include <cstdint>
#include <cstdlib>
#include <new>

namespace {

using betterbox::sim::SchedulerMemory;

struct Header {
  std::size_t size;
  std::uint64_t of_scheduler;
};
static_assert(sizeof(Header) == 16);

/// What malloc keeps for itself, about.
constexpr std::size_t kOverhead = 8;

void* take(std::size_t size) {
  auto* header = static_cast<Header*>(std::malloc(size + sizeof(Header)));
  if (header == nullptr) throw std::bad_alloc();
  header->size = size;
  header->of_scheduler = SchedulerMemory::counting;
  if (SchedulerMemory::counting) {
    SchedulerMemory::bytes += size + kOverhead;
    if (SchedulerMemory::bytes > SchedulerMemory::peak) SchedulerMemory::peak = SchedulerMemory::bytes;
  }
  return header + 1;
}

void give_back(void* memory) {
  if (memory == nullptr) return;
  auto* header = static_cast<Header*>(memory) - 1;
  if (header->of_scheduler != 0) SchedulerMemory::bytes -= header->size + kOverhead;
  std::free(header);
}

}  // namespace

void* operator new(std::size_t size) { return take(size); }
void* operator new[](std::size_t size) { return take(size); }
void operator delete(void* memory) noexcept { give_back(memory); }
void operator delete[](void* memory) noexcept { give_back(memory); }
void operator delete(void* memory, std::size_t) noexcept { give_back(memory); }
void operator delete[](void* memory, std::size_t) noexcept { give_back(memory); }

#endif
