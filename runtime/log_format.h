// How lines of logs look: what they quote was chosen by others, so each is one line of visible characters (runtime/
// printable.h). For the programs that have a log.
#pragma once

#include <spdlog/pattern_formatter.h>

#include <memory>
#include <string>
#include <string_view>

#include "runtime/printable.h"

namespace betterbox {

/// Characters of one line.
inline constexpr std::size_t kLongestLogLine = 16U << 10;

class PrintableText : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& line, const std::tm& /*time*/,
              spdlog::memory_buf_t& to) override {
    const std::string text =
        printable(std::string_view(line.payload.data(), line.payload.size()), kLongestLogLine);
    to.append(text.data(), text.data() + text.size());
  }
  std::unique_ptr<custom_flag_formatter> clone() const override { return std::make_unique<PrintableText>(); }
};

/// Of `pattern`, in which %* stands for the text.
inline std::unique_ptr<spdlog::pattern_formatter> log_format(const std::string& pattern) {
  auto formatter = std::make_unique<spdlog::pattern_formatter>();
  formatter->add_flag<PrintableText>('*').set_pattern(pattern);
  return formatter;
}

}  // namespace betterbox
