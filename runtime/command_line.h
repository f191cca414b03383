// What the programs' command lines check.
#pragma once

#include <cmath>
#include <cstdlib>
#include <string>

namespace betterbox {

/// For CLI11: bounds let "nan" pass, which is neither below the one nor above the other. Result: what is wrong.
inline std::string is_number(const std::string& text) {
  return std::isnan(std::strtod(text.c_str(), nullptr)) ? text + " is no number" : std::string();
}

}  // namespace betterbox
