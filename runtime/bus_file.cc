// The bus file and the folder of the bus's sockets (docs/operations.md). The one owner of RapidJSON.
#include "runtime/bus_file.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <system_error>
#include <vector>

#include <rapidjson/document.h>
#include <rapidjson/prettywriter.h>
#include <rapidjson/stringbuffer.h>

#include "runtime/descriptor.h"
#include "runtime/own_files.h"

namespace betterbox {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxBusFileBytes = 64U << 10;

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

namespace json = rapidjson;

std::string to_json(const BusInfo& info) {
  json::StringBuffer text;
  json::PrettyWriter<json::StringBuffer> writer(text);
  const auto add = [&writer](const char* name, const std::string& value) {
    writer.Key(name);
    writer.String(value.data(), static_cast<json::SizeType>(value.size()));
  };
  writer.StartObject();
  add("endpoint", info.endpoint);
  add("network_endpoint", info.network_endpoint);
  add("public_key", info.keys.public_key);
  add("secret_key", info.keys.secret_key);
  add("socket_folder", info.socket_folder);
  add("host", info.host);
  add("boot_id", info.boot_id);
  writer.Key("incarnation");
  writer.Uint64(info.incarnation);
  writer.Key("pid");
  writer.Uint(info.pid);
  add("python", info.python);
  writer.Key("self_started");
  writer.Bool(info.self_started);
  add("version", info.version);
  writer.EndObject();
  return std::string(text.GetString(), text.GetSize()) + '\n';
}

/// Reads fields of an object; each says whether it was there, and what it should be.
class Fields {
 public:
  explicit Fields(const json::Value& object) : object_(object) {}

  bool read(const char* name, std::string& value) const {
    const json::Value* found = find(name);
    if (found == nullptr || !found->IsString()) return false;
    value.assign(found->GetString(), found->GetStringLength());
    return value.find('\0') == std::string::npos;  // paths, addresses and names have none
  }
  bool read(const char* name, std::uint64_t& value) const {
    const json::Value* found = find(name);
    if (found == nullptr || !found->IsUint64()) return false;
    value = found->GetUint64();
    return true;
  }
  bool read(const char* name, std::uint32_t& value) const {
    const json::Value* found = find(name);
    if (found == nullptr || !found->IsUint()) return false;
    value = found->GetUint();
    return true;
  }
  bool read(const char* name, bool& value) const {
    const json::Value* found = find(name);
    if (found == nullptr || !found->IsBool()) return false;
    value = found->GetBool();
    return true;
  }

 private:
  const json::Value* find(const char* name) const {
    const auto at = object_.FindMember(name);
    return at == object_.MemberEnd() ? nullptr : &at->value;
  }
  const json::Value& object_;
};

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

std::optional<BusInfo> parse_bus_file(const std::string& text) {
  // Iterative: what is nested deeply takes no stack. The document's memory goes at once, not value by value.
  json::Document document;
  document.Parse<json::kParseIterativeFlag | json::kParseValidateEncodingFlag>(text.data(), text.size());
  if (document.HasParseError() || !document.IsObject()) return std::nullopt;
  const Fields fields(document);
  BusInfo info;
  const bool whole =
      fields.read("endpoint", info.endpoint) && fields.read("network_endpoint", info.network_endpoint) &&
      fields.read("public_key", info.keys.public_key) && fields.read("secret_key", info.keys.secret_key) &&
      fields.read("socket_folder", info.socket_folder) && fields.read("host", info.host) &&
      fields.read("boot_id", info.boot_id) && fields.read("incarnation", info.incarnation) &&
      fields.read("pid", info.pid) && fields.read("python", info.python) &&
      fields.read("self_started", info.self_started);
  if (!whole) return std::nullopt;
  if (!fields.read("version", info.version)) info.version.clear();  // older files have none
  return info;
}

std::optional<BusInfo> read_bus_file(const std::string& path) {
  Descriptor file;
  try {
    file = open_own_linked_file(path);
  } catch (const std::system_error& error) {
    if (error.code() == std::errc::no_such_file_or_directory || error.code() == std::errc::not_a_directory)
      return std::nullopt;
    throw;
  }
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) fail("cannot look at " + path, errno);
  if ((status.st_mode & 077) != 0)
    throw std::runtime_error("the bus file " + path +
                             " is open to other users, and it holds the keys of the bus: chmod 600 "
                             "it, and start the bus anew if others may have read it");
  if (auto info = parse_bus_file(read_small_file(file.get(), path))) return info;
  throw std::runtime_error(
      path + " is no bus file (not the JSON that a scheduler writes); remove it if no scheduler runs there");
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
  return runtime_folder(false) + "/" + name;
}

std::string make_socket_folder(const std::string& bus_file_path) {
  runtime_folder(true);
  const std::string folder = socket_folder_of(bus_file_path);
  make_own_folder(folder, Others::kMayNothing);
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
  char buffer[256] = {};
  ::gethostname(buffer, sizeof buffer - 1);
  std::string name = buffer;
  for (char& each : name)
    each = each > ' ' && each <= '~' ? each : '?';  // it goes to terminals and into texts
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
