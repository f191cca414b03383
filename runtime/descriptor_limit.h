// How many descriptors (files, sockets) this process may have open: raised as far as it goes, and asked for before they
// run out, because libzmq aborts where it lacks one (docs/operations.md, section "Limits").
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace betterbox {

/// RLIMIT_NOFILE.
struct DescriptorLimit {
  std::uint64_t soft = 0;
  std::uint64_t hard = 0;
};

DescriptorLimit descriptor_limit();

/// Raises the soft limit to the hard one, at most to kMaxDescriptors. Children that are forked later inherit it.
void raise_descriptor_limit();

/// True if this process can open `count` more.
bool can_open(std::size_t count);

/// Throws std::runtime_error, which says that `what` needs more, and what to do, unless can_open(count).
void require_descriptors(std::size_t count, const std::string& what);

/// "it may have 1024 open (hard limit 1024); raise ...", where this process was spoken of.
std::string descriptor_advice();

}  // namespace betterbox
