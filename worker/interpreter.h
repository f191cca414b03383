// Interpreter: how the Python of a client is started, as its calls tell it (python/betterbox/_interpreter.py).
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace betterbox {

struct Interpreter {
  std::string program;  ///< sys.executable, or as given to --python
  std::string package;  ///< the folder of its betterbox, put in front of sys.path unless it is there
  std::string host;     ///< where these paths hold
  std::vector<std::string> flags;  ///< -O, -X dev, ...
  std::vector<std::string>
      variables;  ///< NAME=VALUE: those it was started with that it reads before anything else

  /// `text`: these in this order, a NUL behind each; the lists end with an empty one. Result: empty if it is no such text.
  static std::optional<Interpreter> parse(std::string_view text);
};

}  // namespace betterbox
