// Resources: what items need and what agents have (docs/protocol.md, part Resources). Pure arithmetic.
#pragma once

#include <cstdint>
#include <string>

#include "runtime/messages.h"

namespace betterbox {

/// How many items with these needs may run at a time on what `capacity` gives, at most `slots`. A named
/// resource that it does not have is 0.
std::uint64_t items_that_fit(const Resources& capacity, const Resources& needs, std::uint64_t slots);

/// Takes the needs of one item out of `left`. REQUIRES: items_that_fit(left, needs, 1) == 1.
void take_needs(Resources& left, const Resources& needs);
/// The opposite.
void give_back_needs(Resources& left, const Resources& needs);

/// For people: "4 cpus, 2 GiB of memory, 1 gpu, 2 licence"; "nothing" if so.
std::string describe(const Resources& resources);

}  // namespace betterbox
