// LoadIndex: the members of a pool by how loaded they are, roughly: a bucket for each eighth of their slots that is
// taken, then one for each doubling. Changing a place and finding the least loaded take the same few steps for ten
// members as for a hundred thousand. Within a bucket whoever joined last is first: its slots and its tables are warm.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

#include "scheduler/list.h"

namespace betterbox::scheduler {

template <class T, Link<T> T::*kLink> class LoadIndex {
 public:
  static constexpr int kBuckets = 64;
  static constexpr int kFullBucket = 8;  ///< members below it have a free slot

  static int bucket_of(std::uint64_t outstanding, std::uint64_t slots) {
    if (outstanding < slots) return static_cast<int>(outstanding * kFullBucket / slots);
    return std::min(kBuckets - 1, kFullBucket + static_cast<int>(std::bit_width(outstanding / slots)) - 1);
  }

  void add(T& member, int bucket) {
    buckets_[static_cast<std::size_t>(bucket)].push_front(member);
    used_ |= std::uint64_t{1} << bucket;
  }
  void remove(T& member, int bucket) {
    auto& list = buckets_[static_cast<std::size_t>(bucket)];
    list.remove(member);
    if (list.empty()) used_ &= ~(std::uint64_t{1} << bucket);
  }

  T* least_loaded() const { return used_ == 0 ? nullptr : front(std::countr_zero(used_)); }
  /// Who follows a member in `bucket`, in this bucket or the next used one.
  T* next(const T& member, int bucket) const {
    if (T* same = Bucket::next(member)) return same;
    if (bucket + 1 == kBuckets) return nullptr;
    const std::uint64_t above = used_ >> (bucket + 1);
    return above == 0 ? nullptr : front(bucket + 1 + std::countr_zero(above));
  }

 private:
  using Bucket = List<T, kLink>;
  T* front(int bucket) const { return buckets_[static_cast<std::size_t>(bucket)].front(); }

  std::array<Bucket, kBuckets> buckets_;
  std::uint64_t used_ = 0;  // bit i: bucket i is not empty
};

}  // namespace betterbox::scheduler
