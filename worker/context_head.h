// What a context frame begins with (docs/protocol.md, section "Contexts"): all that a worker knows of it.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>

#include "runtime/frame.h"

namespace betterbox {

/// What the slots of a call must be given before they import anything: one that was started with other things of this
/// kind cannot become such a one, and is made anew.
struct ContextHead {
  std::uint64_t birth = 0;        ///< equal if all of it is
  std::uint64_t interpreter = 0;  ///< stands for the interpreter of the client; 0: not told
  Frame surroundings;             ///< head included, for a slot at its start; empty: it needs none

  static ContextHead of(const Frame& context) {
    const Sizes sizes = Sizes::of(context);
    if (sizes.all == 0) return {};
    return {sizes.birth, sizes.interpreter, context.slice(0, sizes.all)};
  }

  /// How that interpreter is started (worker/interpreter.h); empty: not told.
  static std::string_view interpreter_text(const Frame& context) {
    const Sizes sizes = Sizes::of(context);
    return sizes.all == 0 ? std::string_view() : context.view().substr(kFixed, sizes.text);
  }

 private:
  static constexpr std::size_t kFixed = 2 * sizeof(std::uint64_t) + 2 * sizeof(std::uint32_t);

  struct Sizes {
    std::uint64_t birth = 0, interpreter = 0;
    std::size_t text = 0, all = 0;  // 0: this is no head

    static Sizes of(const Frame& context) {
      if (context.size() < kFixed) return {};
      Sizes sizes;
      std::uint32_t parts[2] = {};
      std::memcpy(&sizes.birth, context.data(), sizeof sizes.birth);
      std::memcpy(&sizes.interpreter, context.data() + 8, sizeof sizes.interpreter);
      std::memcpy(parts, context.data() + 16, sizeof parts);
      const std::size_t rest = context.size() - kFixed;
      if (parts[0] > rest || parts[1] > rest - parts[0]) return {};
      sizes.text = parts[0];
      sizes.all = kFixed + parts[0] + parts[1];
      return sizes;
    }
  };
};

}  // namespace betterbox
