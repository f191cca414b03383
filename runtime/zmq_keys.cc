#include "runtime/zmq_keys.h"

#include <zmq.h>

#include <array>
#include <vector>

#include "runtime/limits.h"
#include "runtime/zmq_frames.h"

namespace betterbox {
namespace {

constexpr std::size_t kKeyText = 40;
constexpr std::size_t kKeyBytes = 32;
constexpr const char* kDomain = "betterbox";
constexpr std::size_t kMaxRequestParts = 16;

void set_text(void* socket, int option, const std::string& text) {
  if (zmq_setsockopt(socket, option, text.c_str(), text.size() + 1) != 0) {
    fail_zmq("ZeroMQ refuses the bus's keys");
  }
}

std::string decode_key(const std::string& text) {
  std::string key(kKeyBytes, '\0');
  const bool ok = text.size() == kKeyText &&
                  zmq_z85_decode(reinterpret_cast<std::uint8_t*>(key.data()), text.c_str()) != nullptr;
  return ok ? key : std::string();
}

/// Why these are no keys; empty if they are a pair.
std::string key_trouble(const BusKeys& keys) {
  if (decode_key(keys.public_key).empty() || decode_key(keys.secret_key).empty()) {
    return "its keys are not 40 characters of Z85";
  }
  std::array<char, kKeyText + 1> derived{};
  if (zmq_curve_public(derived.data(), keys.secret_key.c_str()) != 0)
    return "this ZeroMQ library has no CURVE";
  return keys.public_key == derived.data() ? "" : "its two keys do not belong together";
}

}  // namespace

BusKeys make_bus_keys() {
  std::array<char, kKeyText + 1> public_key{}, secret_key{};
  if (zmq_curve_keypair(public_key.data(), secret_key.data()) != 0) {
    fail_zmq("this ZeroMQ library makes no keys (built without CURVE)");
  }
  return {public_key.data(), secret_key.data()};
}

void check_bus_keys(const BusInfo& bus, const std::string& path) {
  std::string wrong = key_trouble(bus.keys);
  if (wrong.empty() && bus.incarnation != incarnation_of(bus.keys))
    wrong = "its keys are those of another bus";
  if (wrong.empty()) return;
  throw std::runtime_error("the bus file " + path + " opens no bus: " + wrong +
                           "; copy it again from the scheduler's host");
}

KeySource keys_in(const std::string& path) {
  if (path.empty()) return {};
  return [path]() -> std::optional<BusKeys> {
    const auto bus = read_bus_file(path);
    if (!bus) return std::nullopt;
    check_bus_keys(*bus, path);
    return bus->keys;
  };
}

void guard_server(void* socket, const BusKeys& keys) {
  set_option(socket, ZMQ_CURVE_SERVER, 1);
  set_text(socket, ZMQ_CURVE_SECRETKEY, keys.secret_key);
  if (zmq_setsockopt(socket, ZMQ_ZAP_DOMAIN, kDomain, std::string_view(kDomain).size()) != 0) {
    fail_zmq("ZeroMQ refuses an option");
  }
}

void guard_client(void* socket, const BusKeys& keys) {
  set_option(socket, ZMQ_CONNECT_TIMEOUT, static_cast<int>(kLivenessBound.ns / 1'000'000));
  set_text(socket, ZMQ_CURVE_SERVERKEY, keys.public_key);
  set_text(socket, ZMQ_CURVE_PUBLICKEY, keys.public_key);
  set_text(socket, ZMQ_CURVE_SECRETKEY, keys.secret_key);
}

void allow_ipv6(void* socket, const std::string& endpoint) {
  if (endpoint.find('[') != std::string::npos) set_option(socket, ZMQ_IPV6, 1);
}

void listen_at(void* socket, const std::string& endpoint) {
  if (zmq_bind(socket, endpoint.c_str()) == 0) return;
  const int error = zmq_errno();
  const bool network = endpoint.starts_with("tcp://");
  std::string text = "cannot listen at " + endpoint + ": " + zmq_strerror(error);
  if (error == EADDRINUSE && network)
    text += "; another program has this port: name another one with --port, or none for any that is free";
  if (error == EACCES && network) text += "; ports below 1024 are the system's: name another one with --port";
  throw std::runtime_error(text);
}

std::string bound_endpoint(void* socket) {
  std::array<char, 1024> text{};
  std::size_t size = text.size();
  if (zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, text.data(), &size) != 0)
    fail_zmq("ZeroMQ does not say where it listens");
  return text.data();
}

ZmqGate::ZmqGate(void* context, const BusKeys& keys)
    : socket_(zmq_socket(context, ZMQ_REP)), key_(decode_key(keys.public_key)) {
  if (socket_ == nullptr) fail_zmq("ZeroMQ has no more sockets");
  if (key_.empty() || zmq_bind(socket_, "inproc://zeromq.zap.01") != 0) {
    zmq_close(socket_);
    fail_zmq("nobody can be let in over the network");
  }
  thread_ = std::thread([this] { answer(); });
}

void ZmqGate::admit(const BusKeys& keys) {
  const std::lock_guard lock(mutex_);
  key_ = decode_key(keys.public_key);
}

ZmqGate::~ZmqGate() { thread_.join(); }

/// Request: version, request id, domain, address, routing id, mechanism, key. Reply: version, request id, status code,
/// text, user id, metadata.
void ZmqGate::answer() {
  set_option(socket_, ZMQ_LINGER, 0);
  for (;;) {
    std::vector<std::string> parts;
    for (bool more = true; more;) {
      ZmqMessage part;
      if (zmq_msg_recv(&part.raw, socket_, 0) < 0) {
        if (errno == EINTR) continue;
        zmq_close(socket_);  // the context ends
        return;
      }
      more = zmq_msg_more(&part.raw) != 0;
      const auto bytes = part.bytes();
      if (parts.size() < kMaxRequestParts)
        parts.emplace_back(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    }
    if (parts.size() < 2) parts.resize(2);
    const bool well_formed = parts.size() == 7 && parts[0] == "1.0" && parts[5] == "CURVE";
    bool ours = false;
    if (well_formed) {
      const std::lock_guard lock(mutex_);
      ours = parts[6] == key_;
    }
    const std::array<std::string, 6> reply{
        "1.0", parts[1], ours ? "200" : "400", ours ? "" : "not this bus's key", "", ""};
    for (std::size_t i = 0; i < reply.size(); ++i) {
      zmq_send(socket_, reply[i].data(), reply[i].size(), i + 1 < reply.size() ? ZMQ_SNDMORE : 0);
    }
  }
}

}  // namespace betterbox
