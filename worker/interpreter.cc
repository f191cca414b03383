#include "worker/interpreter.h"

#include <utility>

namespace betterbox {
namespace {

std::optional<std::string> next_field(std::string_view& text) {
  const std::size_t end = text.find('\0');
  if (end == std::string_view::npos) return std::nullopt;
  std::string field(text.substr(0, end));
  text.remove_prefix(end + 1);
  return field;
}

bool read_list(std::string_view& text, std::vector<std::string>& list) {
  for (;;) {
    auto field = next_field(text);
    if (!field) return false;
    if (field->empty()) return true;
    list.push_back(std::move(*field));
  }
}

}  // namespace

std::optional<Interpreter> Interpreter::parse(std::string_view text) {
  Interpreter made;
  for (std::string* field : {&made.program, &made.package, &made.host}) {
    auto found = next_field(text);
    if (!found) return std::nullopt;
    *field = std::move(*found);
  }
  if (!read_list(text, made.flags) || !read_list(text, made.variables)) return std::nullopt;
  if (made.program.empty() || !text.empty()) return std::nullopt;
  return made;
}

}  // namespace betterbox
