// The bus file and the folder of the bus's sockets (docs/operations.md). Here cereal reads and writes JSON:
// with
// codec.cc the only owners of it.
#include "runtime/bus_file.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cereal/archives/json.hpp>
#include <cereal/types/string.hpp>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <sstream>
#include <stdexcept>
#include <system_error>
#include <vector>

#include "runtime/descriptor.h"

namespace betterbox {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxBusFileBytes = 64U << 10;
constexpr std::size_t kMaxSocketPath = 107;
/// What must be left of a socket path for the name of the socket.
constexpr std::size_t kSocketNameBytes = 40;

[[noreturn]] void fail(const std::string& what, int error) {
  throw std::system_error(error, std::generic_category(), what);
}

std::string read_small_file(int fd, const std::string& path) {
  std::string text;
  char buffer[4096];
  for (;;) {
    const ssize_t count = ::read(fd, buffer, sizeof buffer);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail("cannot read " + path, errno);
    if (count == 0) return text;
    text.append(buffer, static_cast<std::size_t>(count));
    if (text.size() > kMaxBusFileBytes) throw std::runtime_error(path + " is no bus file: it is too large");
  }
}

void write_all(int fd, const std::string& text, const std::string& path) {
  std::size_t done = 0;
  while (done < text.size()) {
    const ssize_t count = ::write(fd, text.data() + done, text.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail("cannot write " + path, errno);
    done += static_cast<std::size_t>(count);
  }
}

template <class Archive> void json_fields(Archive& archive, BusInfo& info) {
  archive(cereal::make_nvp("endpoint", info.endpoint),
          cereal::make_nvp("network_endpoint", info.network_endpoint),
          cereal::make_nvp("public_key", info.keys.public_key),
          cereal::make_nvp("secret_key", info.keys.secret_key),
          cereal::make_nvp("socket_folder", info.socket_folder), cereal::make_nvp("host", info.host),
          cereal::make_nvp("boot_id", info.boot_id), cereal::make_nvp("incarnation", info.incarnation),
          cereal::make_nvp("pid", info.pid), cereal::make_nvp("python", info.python),
          cereal::make_nvp("self_started", info.self_started));
}

std::string to_json(BusInfo info) {
  std::ostringstream text;
  {
    cereal::JSONOutputArchive archive(text);
    json_fields(archive, info);
    archive(cereal::make_nvp("version", info.version));
  }
  text << '\n';
  return text.str();
}

/// A file may be older than this field.
void read_version(cereal::JSONInputArchive& archive, BusInfo& info) {
  try {
    archive(cereal::make_nvp("version", info.version));
  } catch (const cereal::Exception&) {
    info.version.clear();
  }
}

BusInfo from_json(const std::string& text, const std::string& path) {
  try {
    std::istringstream stream(text);
    cereal::JSONInputArchive archive(stream);
    BusInfo info;
    json_fields(archive, info);
    read_version(archive, info);
    return info;
  } catch (const std::exception&) {
    throw std::runtime_error(
        path +
        " is no bus file (not the JSON that a scheduler writes); remove it if no scheduler runs there");
  }
}

void check_private_folder(const std::string& folder) {
  struct stat status {};
  if (::lstat(folder.c_str(), &status) != 0) fail("cannot look at " + folder, errno);
  if (!S_ISDIR(status.st_mode))
    throw std::runtime_error(folder + " is not a folder (a link is not accepted); remove it");
  if (status.st_uid != ::geteuid())
    throw std::runtime_error(folder + " belongs to user " + std::to_string(status.st_uid) +
                             ", not to you; set XDG_RUNTIME_DIR to a folder of yours");
  if ((status.st_mode & 077) != 0) throw std::runtime_error(folder + " is open to other users; chmod 700 it");
}

void make_private_folder(const std::string& folder) {
  if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) fail("cannot make the folder " + folder, errno);
  check_private_folder(folder);
}

/// FNV-1a: names things, protects nothing.
std::uint64_t hash_of(const std::string& text) {
  std::uint64_t hash = 0xCBF29CE484222325ULL;
  for (const unsigned char c : text) hash = (hash ^ c) * 0x100000001B3ULL;
  return hash;
}

std::string hash_name(const std::string& text) {
  char name[17];
  std::snprintf(name, sizeof name, "%016llx", static_cast<unsigned long long>(hash_of(text)));
  return name;
}

/// True if the socket is there and nobody listens on it.
bool is_dead_socket(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() > kMaxSocketPath) return false;
  std::memcpy(address.sun_path, path.data(), path.size());
  const Descriptor probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!probe) return false;
  return ::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 &&
         errno == ECONNREFUSED;
}

}  // namespace

std::uint64_t incarnation_of(const BusKeys& keys) {
  return std::max(hash_of(keys.public_key), std::uint64_t{1});
}

std::optional<BusInfo> read_bus_file(const std::string& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!file) {
    if (errno == ENOENT || errno == ENOTDIR) return std::nullopt;
    fail("cannot open the bus file " + path, errno);
  }
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) fail("cannot look at " + path, errno);
  if (!S_ISREG(status.st_mode)) throw std::runtime_error(path + " is no bus file: it is not a regular file");
  if (status.st_uid != ::geteuid())
    throw std::runtime_error("the bus file " + path + " belongs to user " + std::to_string(status.st_uid) +
                             ", not to you; a bus is used by its owner only");
  if ((status.st_mode & 077) != 0)
    throw std::runtime_error("the bus file " + path +
                             " is open to other users, and it holds the keys of the bus: chmod 600 "
                             "it, and start the bus anew if others may have read it");
  return from_json(read_small_file(file.get(), path), path);
}

void write_bus_file(const std::string& path, const BusInfo& info) {
  const std::string temporary = path + "." + std::to_string(::getpid()) + ".tmp";
  try {
    ::unlink(temporary.c_str());
    const Descriptor file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!file) fail("cannot write the bus file " + path, errno);
    write_all(file.get(), to_json(info), path);
    if (::fsync(file.get()) != 0) fail("cannot write " + path, errno);
    if (::rename(temporary.c_str(), path.c_str()) != 0) fail("cannot write " + path, errno);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  const fs::path parent = fs::absolute(path).parent_path();
  const Descriptor folder(::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder) ::fsync(folder.get());
}

void remove_bus_file(const std::string& path, std::uint64_t incarnation) {
  try {
    const auto info = read_bus_file(path);
    if (info && info->incarnation == incarnation) ::unlink(path.c_str());
  } catch (const std::exception&) {
    // Not ours any more.
  }
}

std::string socket_folder_of(const std::string& bus_file_path) {
  const std::string name = hash_name(fs::absolute(bus_file_path).lexically_normal().string());
  const char* runtime_folder = std::getenv("XDG_RUNTIME_DIR");
  std::string base = "/tmp/betterbox-" + std::to_string(::geteuid());
  if (runtime_folder != nullptr && runtime_folder[0] == '/') {
    const std::string candidate = std::string(runtime_folder) + "/betterbox";
    struct stat status {};
    const bool usable = ::stat(runtime_folder, &status) == 0 && S_ISDIR(status.st_mode) &&
                        ::access(runtime_folder, W_OK | X_OK) == 0;
    if (usable && candidate.size() + 1 + name.size() + 1 + kSocketNameBytes <= kMaxSocketPath)
      base = candidate;
  }
  return base + "/" + name;
}

std::string make_socket_folder(const std::string& bus_file_path) {
  const std::string folder = socket_folder_of(bus_file_path);
  make_private_folder(fs::path(folder).parent_path().string());
  make_private_folder(folder);
  return folder;
}

void sweep_socket_folder(const std::string& folder) {
  // A socket refuses for a moment between bind and listen, so only what refuses twice is dead.
  std::vector<std::string> refusing;
  std::error_code ignored;
  for (fs::directory_iterator at(folder, ignored), end; at != end; at.increment(ignored)) {
    if (!at->is_socket(ignored)) continue;
    if (is_dead_socket(at->path().string())) refusing.push_back(at->path().string());
  }
  if (!refusing.empty()) ::poll(nullptr, 0, 20);
  for (const std::string& path : refusing)
    if (is_dead_socket(path)) ::unlink(path.c_str());
  ::rmdir(folder.c_str());
}

std::string host_name() {
  char name[256] = {};
  ::gethostname(name, sizeof name - 1);
  return name;
}

std::string boot_id() {
  const Descriptor file(::open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC));
  if (!file) return {};
  char buffer[64];
  const ssize_t count = ::read(file.get(), buffer, sizeof buffer);
  std::string id(buffer, count > 0 ? static_cast<std::size_t>(count) : 0);
  while (!id.empty() && id.back() == '\n') id.pop_back();
  return id;
}

}  // namespace betterbox
