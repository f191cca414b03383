// What a simulation prints and writes: a line per seed, the last line as one JSON object, the trace.
#pragma once

#include <cstdio>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "simulator/faults.h"
#include "simulator/options.h"
#include "simulator/performance.h"

namespace betterbox::sim {

/// An object in one line, in the order of the calls.
class JsonObject {
 public:
  JsonObject& add(std::string_view key, double value);
  JsonObject& add(std::string_view key, std::uint64_t value);
  JsonObject& add(std::string_view key, std::string_view value);
  JsonObject& add_object(std::string_view key, const JsonObject& object);
  JsonObject& add_list(std::string_view key, std::span<const double> values);
  std::string text() const { return "{" + text_ + "}"; }

 private:
  JsonObject& put(std::string_view key, const std::string& value);
  std::string text_;
};

/// For people.
std::string line_of(const Measured& run);
/// Over all runs: makespans, ideals, greedys, messages, splits are sums; ratios are ratios of sums; imbalance is a mean;
/// loads and bytes are the largest.
std::string json_of(const Options& options, std::span<const Measured> runs);
/// Sums over fault runs.
struct FaultTotals {
  std::uint64_t seeds = 0;
  FaultResult sum;
  double wall_s = 0;
  void add(const FaultResult& result);
};
std::string json_of(const FaultTotals& totals);
/// One line an item. `with_seed`: each says whose run it is of. Result: false if the file could not be written.
bool write_trace(std::FILE* file, std::span<const Execution> executions, std::uint64_t seed, bool with_seed);

}  // namespace betterbox::sim
