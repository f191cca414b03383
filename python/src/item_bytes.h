// Numbers and texts within an item: what the codecs of objects and failures write and read.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "runtime/page.h"

namespace betterbox {

template <class T> void append(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

inline void append_text(std::string& out, std::string_view text) {
  append(out, static_cast<std::uint32_t>(text.size()));
  out.append(text);
}

/// Reads at `at` and moves it behind what was read. Result: false if the item ends before. REQUIRES: at <= item.size().
template <class T> bool read(ItemBytes item, std::size_t& at, T& value) {
  if (item.size() - at < sizeof value) return false;
  std::memcpy(&value, item.data() + at, sizeof value);
  at += sizeof value;
  return true;
}

inline bool read_text(ItemBytes item, std::size_t& at, std::string_view& text) {
  std::uint32_t size = 0;
  if (!read(item, at, size) || item.size() - at < size) return false;
  text = {reinterpret_cast<const char*>(item.data()) + at, size};
  at += size;
  return true;
}

}  // namespace betterbox
