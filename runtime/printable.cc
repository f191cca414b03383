#include "runtime/printable.h"

#include <cstdint>

namespace betterbox {
namespace {

/// The character at the start of `text`. Result: its length in bytes; 0: it is no UTF-8.
std::size_t decode(std::string_view text, std::uint32_t& character) {
  const auto first = static_cast<unsigned char>(text[0]);
  const std::size_t size = first < 0x80   ? 1
                           : first < 0xC2 ? 0
                           : first < 0xE0 ? 2
                           : first < 0xF0 ? 3
                           : first < 0xF5 ? 4
                                          : 0;
  if (size == 0 || size > text.size()) return 0;
  character = size == 1 ? first : first & (0x7FU >> size);
  for (std::size_t i = 1; i < size; ++i) {
    const auto next = static_cast<unsigned char>(text[i]);
    if ((next & 0xC0U) != 0x80) return 0;
    character = character << 6 | (next & 0x3FU);
  }
  const bool overlong = (size == 3 && character < 0x800) || (size == 4 && character < 0x10000);
  const bool surrogate = character >= 0xD800 && character < 0xE000;
  return overlong || surrogate || character > 0x10FFFF ? 0 : size;
}

bool is_visible(std::uint32_t c) {
  struct Span {
    std::uint32_t first, last;
  };
  // Controls; the soft hyphen; marks of direction; no width; separators of lines; private use, tags, no characters.
  constexpr Span kHidden[] = {{0, 0x1F},        {0x7F, 0xA0},       {0xAD, 0xAD},       {0x61C, 0x61C},
                              {0x180E, 0x180E}, {0x2000, 0x200F},   {0x2028, 0x202F},   {0x205F, 0x206F},
                              {0x3000, 0x3000}, {0xE000, 0xF8FF},   {0xFEFF, 0xFEFF},   {0xFFF0, 0xFFFB},
                              {0xFFFE, 0xFFFF}, {0x1D173, 0x1D17A}, {0xE0000, 0x10FFFF}};
  for (const Span& span : kHidden)
    if (c >= span.first && c <= span.last) return false;
  return true;
}

void append_hex(std::string& to, char letter, std::uint32_t value, int digits) {
  to += '\\';
  to += letter;
  for (int shift = 4 * (digits - 1); shift >= 0; shift -= 4) to += "0123456789abcdef"[value >> shift & 0xFU];
}

void append_escaped(std::string& to, std::uint32_t c) {
  if (c == '\n')
    to += "\\n";
  else if (c == '\r')
    to += "\\r";
  else if (c == '\t')
    to += "\\t";
  else if (c < 0x100)
    append_hex(to, 'x', c, 2);
  else if (c < 0x10000)
    append_hex(to, 'u', c, 4);
  else
    append_hex(to, 'U', c, 8);
}

}  // namespace

std::string printable(std::string_view text, std::size_t most) {
  std::string shown;
  shown.reserve(text.size());
  while (!text.empty()) {
    if (shown.size() >= most) return shown + "...";
    std::uint32_t character = 0;
    const std::size_t size = decode(text, character);
    if (size == 0) {
      append_hex(shown, 'x', static_cast<unsigned char>(text[0]), 2);
    } else if (is_visible(character)) {
      shown += text.substr(0, size);
    } else {
      append_escaped(shown, character);
    }
    text.remove_prefix(size == 0 ? 1 : size);
  }
  return shown;
}

}  // namespace betterbox
