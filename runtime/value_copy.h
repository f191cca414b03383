// A value on its way from store to store (docs/protocol.md, section "Values"): parts of a file are read at one end, and a
// file of the same name grows at the other. It gets that name when it is whole, so nobody ever sees a part of a value.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "runtime/messages.h"
#include "runtime/segment_pool.h"

namespace betterbox {

/// All of a value, mapped and held. Null if it is not in the folder.
std::shared_ptr<MappedSegment> open_value(const std::string& folder, const ValueId& value);

/// The answer to a Fetch out of this host's shared memory, addressed to whom the Fetch names.
Message read_chunk(const Fetch& fetch, const std::string& folder = kSegmentFolder);

class ValueCopy {
 public:
  /// Null if it cannot be made; `error` says why, and is empty if another process is making it.
  static std::unique_ptr<ValueCopy> make(const std::string& folder, const ValueId& value, std::string& error);
  /// Removes what was not finished.
  ~ValueCopy();
  ValueCopy(const ValueCopy&) = delete;
  ValueCopy& operator=(const ValueCopy&) = delete;

  struct Part {
    std::uint64_t offset = 0, count = 0;
  };
  /// What to ask for next, if the window has room.
  std::optional<Part> next();
  /// Bytes that came. Result: an error: they were not asked for, or there is no room.
  std::string take(std::uint64_t offset, std::span<const std::byte> bytes);
  /// What is under way will not come: it is asked for again.
  void source_lost();
  /// Gives the whole file its name. Result: the hold on it; null if it is not whole or is no value.
  std::shared_ptr<MappedSegment> finish();
  bool complete() const { return written_ == value_.bytes; }

  /// The whole file, shared and writable; all of it has its memory. Null if there is no room: `error` says so.
  std::shared_ptr<std::byte> memory(std::string& error);
  /// All of it was written into memory().
  void came_whole() { written_ = value_.bytes; }
  /// A finished copy that nobody else uses becomes the beginning of another: its memory is warm. Result: false if it is
  /// used, or does not suit.
  bool begin_again(const ValueId& value);
  std::uint64_t bytes() const { return value_.bytes; }

 private:
  ValueCopy(std::string folder, const ValueId& value, int fd);

  const std::string folder_;
  ValueId value_;
  std::string path_;  ///< NAME.part while it is not whole
  const int fd_;
  const int pid_;
  std::map<std::uint64_t, std::uint64_t> asked_;  ///< offset, count: under way
  std::map<std::uint64_t, std::uint64_t> again_;  ///< to be asked for again
  std::uint64_t next_ = 0;
  std::uint64_t written_ = 0;
  bool finished_ = false;
  std::shared_ptr<std::byte> memory_;
  std::uint64_t memory_bytes_ = 0;
};

}  // namespace betterbox
