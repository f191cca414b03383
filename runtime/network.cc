#include "runtime/network.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "runtime/descriptor.h"

namespace betterbox {
namespace {

constexpr std::string_view kTcpScheme = "tcp://";
/// Documentation addresses: a route to them is the default route, and nothing is ever sent.
constexpr const char* kWorld = "tcp://192.0.2.1:9";
constexpr const char* kWorldV6 = "tcp://[2001:db8::1]:9";

using Addresses = std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)>;

/// What "tcp://host:port" stands for; null if it stands for nothing.
Addresses resolve(std::string_view endpoint, int type) {
  Addresses none(nullptr, &::freeaddrinfo);
  const std::size_t colon = endpoint.rfind(':');
  if (!endpoint.starts_with(kTcpScheme) || colon == std::string_view::npos || colon < kTcpScheme.size())
    return none;
  std::string host(endpoint.substr(kTcpScheme.size(), colon - kTcpScheme.size()));
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_socktype = type;
  addrinfo* found = nullptr;
  if (::getaddrinfo(host.c_str(), std::string(endpoint.substr(colon + 1)).c_str(), &hints, &found) != 0)
    return none;
  return Addresses(found, &::freeaddrinfo);
}

std::string text_of(const sockaddr* address) {
  char text[INET6_ADDRSTRLEN] = {};
  if (address->sa_family == AF_INET) {
    ::inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(address)->sin_addr, text, sizeof text);
    return text;
  }
  if (address->sa_family != AF_INET6) return {};
  const auto& address_v6 = reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr;
  if (IN6_IS_ADDR_LINKLOCAL(&address_v6)) return {};  // useless to others without their name of the link
  ::inet_ntop(AF_INET6, &address_v6, text, sizeof text);
  return std::string("[") + text + "]";
}

/// The address that a packet to `peer` would come from; empty if there is no route.
std::string source_towards(const std::string& peer) {
  const Addresses to = resolve(peer, SOCK_DGRAM);
  for (const addrinfo* each = to.get(); each != nullptr; each = each->ai_next) {
    const Descriptor socket(::socket(each->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_storage mine{};
    socklen_t size = sizeof mine;
    if (socket.get() < 0 || ::connect(socket.get(), each->ai_addr, each->ai_addrlen) != 0 ||
        ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&mine), &size) != 0) {
      continue;
    }
    if (std::string text = text_of(reinterpret_cast<const sockaddr*>(&mine)); !text.empty()) return text;
  }
  return {};
}

std::string list_of(const std::vector<Interface>& all) {
  std::string text;
  for (const Interface& each : all)
    text += (text.empty() ? "" : ", ") + each.name + " (" + each.address + ")";
  return text.empty() ? "none that is up" : text;
}

/// The first of this host's addresses that `name` stands for, in any spelling; what else it stands for goes to `others`.
std::string own_address_of(const std::vector<Interface>& all, const std::string& name, std::string& others) {
  const Addresses found = resolve("tcp://" + name + ":9", SOCK_STREAM);
  for (const addrinfo* each = found.get(); each != nullptr; each = each->ai_next) {
    const std::string text = text_of(each->ai_addr);
    if (std::ranges::any_of(all, [&](const Interface& own) { return own.address == text; })) return text;
    if (!text.empty()) others += (others.empty() ? "" : ", ") + text;
  }
  return {};
}

std::string address_of(const std::string& interface) {
  const std::vector<Interface> all = interfaces();
  for (const Interface& each : all)
    if (interface == each.name) return each.address;
  if (::if_nametoindex(interface.c_str()) != 0) {
    throw std::runtime_error(
        "the interface " + interface +
        " is down, or has no address that other hosts can use (a link-local one is none); this "
        "host has " +
        list_of(all));
  }
  std::string others;
  if (std::string own = own_address_of(all, interface, others); !own.empty()) return own;
  if (others.empty()) {
    throw std::runtime_error("this host has no interface or address " + interface +
                             ", and no name like that resolves; it has " + list_of(all));
  }
  const bool is_name = interface != others && "[" + interface + "]" != others;
  throw std::runtime_error(interface + (is_name ? " is " + others + ", which is" : " is") +
                           " no address of this host; it has " + list_of(all));
}

}  // namespace

std::vector<Interface> interfaces() {
  std::vector<Interface> result;
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) return result;
  for (const ifaddrs* each = list; each != nullptr; each = each->ifa_next) {
    if (each->ifa_addr == nullptr || (each->ifa_flags & IFF_UP) == 0) continue;
    if (std::string text = text_of(each->ifa_addr); !text.empty()) result.push_back({each->ifa_name, text});
  }
  ::freeifaddrs(list);
  std::stable_partition(result.begin(), result.end(),
                        [](const Interface& each) { return each.address.front() != '['; });
  return result;
}

std::string advertised_address(const std::string& interface, const std::string& peer) {
  if (!interface.empty()) return address_of(interface);
  if (!peer.empty()) {
    if (std::string found = source_towards(peer); !found.empty()) return found;
    throw std::runtime_error(name_resolves(peer)
                                 ? "there is no route to " + peer + "; name an interface with --interface"
                                 : "the name in " + peer + " does not resolve here; put its address there");
  }
  for (const char* world : {kWorld, kWorldV6}) {
    if (std::string found = source_towards(world); !found.empty()) return found;
  }
  // A cluster's inner network needs no route to the world.
  for (const Interface& each : interfaces()) {
    if (!each.address.starts_with("127.") && each.address != "[::1]") return each.address;
  }
  return "127.0.0.1";
}

bool name_resolves(const std::string& endpoint) { return resolve(endpoint, SOCK_STREAM) != nullptr; }

bool network_answers(const std::string& endpoint, TimePoint deadline) {
  const Addresses to = resolve(endpoint, SOCK_STREAM);
  for (const addrinfo* each = to.get(); each != nullptr; each = each->ai_next) {
    const Descriptor socket(::socket(each->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (socket.get() < 0) continue;
    if (::connect(socket.get(), each->ai_addr, each->ai_addrlen) == 0) return true;
    if (errno != EINPROGRESS) continue;
    pollfd waited{socket.get(), POLLOUT, 0};
    int ready = -1;
    do {
      const std::int64_t left_ms =
          std::clamp<std::int64_t>((deadline - monotonic_now()).ns / 1'000'000, 0, 60'000);
      ready = ::poll(&waited, 1, static_cast<int>(left_ms));
    } while (ready < 0 && errno == EINTR);
    int error = 0;
    socklen_t size = sizeof error;
    if (ready == 1 && ::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0)
      return true;
  }
  return false;
}

}  // namespace betterbox
