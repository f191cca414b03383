// The bus file: where a bus is, as JSON, mode 0600 (docs/operations.md).
// Also the folder for its sockets: HASH in the runtime folder (runtime/own_files.h), from the bus file's absolute path:
// short enough for a socket path.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace betterbox {

/// A CURVE key pair (runtime/zmq_keys.h), each 40 characters of Z85.
struct BusKeys {
  std::string public_key;
  std::string secret_key;
  bool operator==(const BusKeys&) const = default;
};

struct BusInfo {
  std::string endpoint;          ///< "ipc:///..." of the scheduler, for peers on its host
  std::string network_endpoint;  ///< "tcp://..." of the scheduler; empty: the bus stays on its host
  BusKeys keys;                  ///< of the bus
  std::string socket_folder;     ///< where peers of this bus put their sockets
  std::string host;
  std::string boot_id;
  std::uint64_t incarnation = 0;  ///< the scheduler's PeerId: incarnation_of(keys)
  std::uint32_t pid = 0;
  std::string python;         ///< "3.11"
  bool self_started = false;  ///< ends by itself; peers may start it again
  std::string version = {};   ///< of the product; empty: the file does not say
};

/// The scheduler that made these keys. So a file whose keys are another bus's is found out on hosts, too, where nobody
/// needs a key to reach the scheduler.
std::uint64_t incarnation_of(const BusKeys& keys);

/// Result: nothing if the text is not what a bus file holds. Fields that are not known here are passed over.
std::optional<BusInfo> parse_bus_file(const std::string& text);
/// Result: the info; nothing if there is no such file. Throws std::runtime_error (says what and where)
/// if it is there but unreadable, of another owner, open to other users, or no bus file.
std::optional<BusInfo> read_bus_file(const std::string& path);
/// Atomic (temporary file, fsync, rename). Throws std::system_error.
void write_bus_file(const std::string& path, const BusInfo& info);
/// Removes the file if it still names this incarnation.
void remove_bus_file(const std::string& path, std::uint64_t incarnation);
/// The folder for the sockets of the bus of this file, on this host; it need not be there.
std::string socket_folder_of(const std::string& bus_file_path);
/// Makes the folder (and parents) if needed. Throws std::runtime_error if it belongs to somebody else or is open to others.
std::string make_socket_folder(const std::string& bus_file_path);
/// Removes sockets in `folder` that nobody listens on, then the folder if it is empty.
void sweep_socket_folder(const std::string& folder);

std::string host_name();
std::string boot_id();

}  // namespace betterbox
