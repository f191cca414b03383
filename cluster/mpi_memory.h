// Memory for large frames that arrive over MPI: blocks are used again, as fresh memory costs several times what it takes
// to fill it, and lie in huge pages where the system gives them. Thread-safe.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

namespace betterbox {

/// Smaller frames have plain memory.
inline constexpr std::size_t kMpiBlockMinBytes = 1U << 20;
/// Blocks that nobody uses, together.
inline constexpr std::size_t kMpiIdleBytes = 128U << 20;

class MpiMemory : public std::enable_shared_from_this<MpiMemory> {
 public:
  /// At least `bytes`, not initialised. The block comes back when its last user lets go, and may outlive this.
  std::shared_ptr<std::byte> take(std::size_t bytes);
  ~MpiMemory();
  std::size_t idle_bytes() const;

 private:
  struct Block {
    std::byte* data = nullptr;
    std::size_t bytes = 0;
  };
  void give_back(Block block);

  mutable std::mutex mutex_;
  std::vector<Block> idle_;  ///< the one used last at the end
  std::size_t idle_bytes_ = 0;
};

}  // namespace betterbox
