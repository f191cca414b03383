// betterbox-sim: simulations of a bus (docs/testing.md).
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <vector>

#include "simulator/command_line.h"
#include "simulator/report.h"

namespace betterbox::sim {
namespace {

/// A file that ends with the program; none if no name is given.
class TraceFile {
 public:
  explicit TraceFile(const std::string& name) : name_(name) {
    if (name.empty()) return;
    file_ = std::fopen(name.c_str(), "w");
    if (file_ == nullptr) throw std::invalid_argument("cannot write " + name + ": " + std::strerror(errno));
  }
  ~TraceFile() {
    if (file_ != nullptr) std::fclose(file_);
  }
  TraceFile(const TraceFile&) = delete;
  TraceFile& operator=(const TraceFile&) = delete;
  bool wanted() const { return file_ != nullptr; }
  void write(const std::vector<Execution>& executions, std::uint64_t seed, bool with_seed) {
    if (!write_trace(file_, executions, seed, with_seed) || std::fflush(file_) != 0)
      throw std::runtime_error("cannot write " + name_ + ": " + std::strerror(errno));
  }

 private:
  std::string name_;
  std::FILE* file_ = nullptr;
};

int simulate_performance(const Options& options) {
  TraceFile trace(options.trace_out);
  std::vector<Measured> runs;
  for (std::uint64_t seed = options.first_seed; seed <= options.last_seed; ++seed) {
    const Case all = make_case(options, seed);
    std::vector<Execution> executions;
    runs.push_back(run_performance(all, {options.policy, options.latency_us, options.wake_us},
                                   trace.wanted() ? &executions : nullptr));
    if (trace.wanted()) trace.write(executions, seed, options.many_seeds);
    std::printf("%s\n", line_of(runs.back()).c_str());
    std::fflush(stdout);
  }
  std::printf("%s\n", json_of(options, runs).c_str());
  return 0;
}

int run(int argc, char** argv) {
  int exit_code = 0;
  const std::optional<Options> options = parse_command_line(argc, argv, exit_code);
  if (!options) return exit_code;
  try {
    return simulate_performance(*options);
  } catch (const std::invalid_argument& error) {
    std::fprintf(stderr, "betterbox-sim: %s\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "betterbox-sim: %s\n", error.what());
    return 1;
  }
}

}  // namespace
}  // namespace betterbox::sim

int main(int argc, char** argv) { return betterbox::sim::run(argc, argv); }
