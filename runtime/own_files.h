// Files and folders of our own: the one check of owner, mode and links for the home, logs, states of boxes, locks, the
// bus file and the folders of sockets (docs/operations.md, "Files and folders"; docs/decisions/0021).
//
// What another user may have made, or may write, is refused with a text that says what to do. Paths are walked folder by
// folder, each opened by its name in the one before, so that nothing changes between the look and the use.
#pragma once

#include <stdexcept>
#include <string>

#include "runtime/descriptor.h"

namespace betterbox {

/// What others may do with a folder of ours.
enum class Others { kMayRead, kMayNothing };

/// A file or folder that is not safely ours; the text says why, and what to do.
struct NotOurs : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// The folder is ours, nobody else may write in it, and on the way to it nobody could put another one in its place: no
/// link of somebody else, no folder that everybody may write unless its sticky bit is set. Throws NotOurs, or
/// std::system_error for what the system says (not there, no permission).
void check_own_folder(const std::string& path, Others others = Others::kMayRead);
/// Makes the folder, and parents that are not there, with mode 0700, then check_own_folder.
void make_own_folder(const std::string& path, Others others = Others::kMayRead);

/// Opens a regular file of ours that has one name and that nobody else may write. Links on the way to its folder must be
/// ours or root's; the file itself must be no link. A file that is made has mode 0600; O_TRUNC comes after the check.
/// Throws NotOurs, or std::system_error. Result: never empty.
Descriptor open_own_file(const std::string& path, int flags);
/// The same for a file that is only read and that its user may have put behind links of their own: the bus file.
Descriptor open_own_linked_file(const std::string& path);

/// Where this user's sockets and private buses lie on this host: $XDG_RUNTIME_DIR/betterbox, else /tmp/betterbox-UID. Where
/// that name is taken by somebody else, or open to others, the first that is ours of the same name with "-" and six more
/// characters.
/// `make`: the folder is there afterwards; else it need not be. Throws std::runtime_error.
std::string runtime_folder(bool make);

/// Bytes that the system takes for the path of a socket.
inline constexpr std::size_t kMaxSocketPath = 107;
/// What must be left of it for the name of the socket.
inline constexpr std::size_t kSocketNameBytes = 40;

}  // namespace betterbox
