// Names that others chose, for terminals and logs. A name may hold anything: sequences that write over a terminal's lines,
// new lines that forge rows, marks that turn the order of characters around. What people read goes through here (in Python
// through betterbox._printable); what programs read stays as it is.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace betterbox {

/// Characters of a name that are shown.
inline constexpr std::size_t kLongestName = 120;

/// One line of visible characters: control characters, marks of direction, characters without width and what is no UTF-8 are
/// shown as escapes (\x1b, \u202e). Longer texts are cut after `most` bytes, with "..." behind.
std::string printable(std::string_view text, std::size_t most = kLongestName);

}  // namespace betterbox
