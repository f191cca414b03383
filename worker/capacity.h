// What a worker has to give: reading its options and its machine. No state.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "runtime/messages.h"

namespace betterbox {

/// "0.5" -> 500. Throws std::invalid_argument, as all below, with a text that names the option.
std::uint64_t parse_thousandths(const std::string& option, const std::string& text);
/// "1073741824", "8G", "512M", "1.5T", also "8GiB" -> bytes, by powers of 1024.
std::uint64_t parse_memory(const std::string& text);
/// "2": the first two of `visible` (CUDA_VISIBLE_DEVICES of this process; empty: "0", "1", ...).
/// "0,2" or "2,": these.
std::vector<std::string> parse_devices(const std::string& text, const std::string& visible);
/// "licence=2" -> {"licence", 2000}. Named several times, the last one counts; ascending names.
std::vector<Amount> parse_amounts(const std::vector<std::string>& texts);

/// Bytes of memory that processes of this one's control group may use: what the machine has, or less.
std::uint64_t usable_memory();

}  // namespace betterbox
