// One fixed message of every kind, every field other than its default: what the golden vectors hold.
#pragma once

#include <string>
#include <vector>

#include "runtime/messages.h"

namespace betterbox {

/// In the order of Body. Append only: a golden vector, once published, never changes.
std::vector<Message> golden_messages();

/// The name of the file of a message: "01_Hello.hex".
std::string golden_file_name(const Message& message);

/// The text of that file: the first frame, then each payload frame, as one line of hex digits each.
std::string golden_text(const Message& message);

}  // namespace betterbox
