// betterbox-sim: simulations of a bus (docs/testing.md).
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
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
    runs.push_back(run_performance(
        all, {options.policy, options.latency_us, options.wake_us, options.copies_permille, options.hints},
        trace.wanted() ? &executions : nullptr));
    if (trace.wanted()) trace.write(executions, seed, options.many_seeds);
    std::printf("%s\n", line_of(runs.back()).c_str());
    std::fflush(stdout);
  }
  std::printf("%s\n", json_of(options, runs).c_str());
  return 0;
}

/// For whoever looks at a broken invariant (BB_CHECK ends the process): which seed it was.
std::uint64_t seed_now = 0;

void name_seed(int) {
  std::fprintf(
      stderr, "seed %llu: checker sanity: an invariant of a core is broken (above); --seed %llu repeats it\n",
      static_cast<unsigned long long>(seed_now), static_cast<unsigned long long>(seed_now));
  std::_Exit(1);
}

void print_violation(const FaultResult& result, std::uint64_t seed, FaultOptions options) {
  std::deque<std::string> log;
  options.log = &log;
  run_faults(seed, options);  // once more, with notes
  for (const std::string& line : log) std::printf("  %s\n", line.c_str());
  std::printf("seed %llu: checker %s: %s\n", static_cast<unsigned long long>(seed), result.checker.c_str(),
              result.what.c_str());
}

int simulate_faults(const Options& options) {
  std::signal(SIGABRT, name_seed);
  FaultOptions faults;
  faults.workers = options.workers_given ? options.workers : 0;
  faults.slots = options.slots_given ? options.slots : 0;
  faults.items = options.items_given ? options.items : 0;
  faults.plant_bug = options.plant_bug;
  FaultTotals totals;
  const auto begin = std::chrono::steady_clock::now();
  for (std::uint64_t seed = options.first_seed; seed <= options.last_seed; ++seed) {
    seed_now = seed;
    const FaultResult result = run_faults(seed, faults);
    totals.add(result);
    if (options.verbose) std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
    if (result.checker.empty()) continue;
    totals.sum.checker = result.checker;
    print_violation(result, seed, faults);
    break;
  }
  totals.wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  std::printf("%s\n", json_of(totals).c_str());
  return totals.sum.checker.empty() ? 0 : 1;
}

int run(int argc, char** argv) {
  int exit_code = 0;
  const std::optional<Options> options = parse_command_line(argc, argv, exit_code);
  if (!options) return exit_code;
  try {
    return options->faults ? simulate_faults(*options) : simulate_performance(*options);
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
