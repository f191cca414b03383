// Which carrier this process's transports use: ZeroMQ, unless the program that holds the interpreter has brought
// another one (cluster/mpi_main.cc). Nothing here knows MPI.
#pragma once

#include <charconv>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "runtime/transport.h"

namespace betterbox {

/// The rank in an endpoint "mpi://RANK/NAME".
inline std::optional<std::uint32_t> rank_in(std::string_view endpoint) {
  constexpr std::string_view kRanks = "mpi://";
  if (!endpoint.starts_with(kRanks)) return std::nullopt;
  std::uint32_t rank = 0;
  const char* end = endpoint.data() + endpoint.size();
  const auto [at, error] = std::from_chars(endpoint.data() + kRanks.size(), end, rank);
  if (error != std::errc() || at == end || *at != '/') return std::nullopt;
  return rank;
}

/// A carrier other than ZeroMQ, for endpoints that begin with `scheme`.
struct Carrier {
  std::string scheme;  ///< "mpi://"
  std::function<std::unique_ptr<Transport>()> make;
  std::function<std::string(const std::string& name)>
      endpoint;  ///< of a listener of that name in this process
};

}  // namespace betterbox
