#include "simulator/command_line.h"

#include <CLI/CLI.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "runtime/policy.h"

namespace betterbox::sim {
namespace {

constexpr const char* kAbout =
    "Simulates a bus: the real scheduler and worker cores on a simulated clock, network and slots. The same "
    "options and\n"
    "seed give the same run. The last line of the output is one JSON object (docs/testing.md explains its "
    "keys).\n"
    "Times of slowdowns, joins and leaves count from the submission: SECONDS (also 20ms, 100us), or 0.5x for "
    "half of\n"
    "the ideal makespan.";

std::string policy_names() {
  std::string names;
  for (const Policy& policy : policies()) names += (names.empty() ? "" : ", ") + std::string(policy.name);
  return names;
}

struct Texts {
  std::vector<std::string> slowdowns, joins, leaves;
  std::string seeds;
  std::uint64_t seed = 1;
};

void declare(CLI::App& app, Options& options, Texts& texts) {
  app.add_option("--workers", options.workers, "workers that are there at the submission")
      ->capture_default_str();
  app.add_option("--slots", options.slots, "slots of each worker")->capture_default_str();
  app.add_option("--items", options.items, "items of the call (default 4000, or the lines of a trace)");
  app.add_option(
         "--dist", options.distribution,
         "item times: constant, uniform (0 to 2 means), gaussian (sd 30 %), exponential, gamma (shape 2), "
         "bimodal (90 % of 1, 10 % of 10), pareto (1.5, cut at ten means), ramp-up and ramp-down (1 to 19), "
         "mandelbrot, or trace:FILE (one time in us a line, in item order)")
      ->capture_default_str();
  app.add_option("--mean-us", options.mean_us, "mean item time in us, on a worker of speed 1")
      ->capture_default_str();
  app.add_option(
         "--speed-spread", options.speed_spread,
         "fastest over slowest worker: speeds are drawn log-uniformly from 1 to this, and two or more "
         "workers have both ends among them")
      ->capture_default_str();
  app.add_option(
      "--speeds", options.speeds_file,
      "one factor a line, one per worker (those that join later come last): an item of t us takes t / "
      "factor there");
  app.add_option(
         "--slowdown", texts.slowdowns,
         "WORKER@TIME:TIMES: from TIME on items take TIMES as long there (1 ends a slowdown); repeatable")
      ->take_all();
  app.add_option("--join", texts.joins, "TIME:COUNT: so many further workers come; repeatable")->take_all();
  app.add_option("--leave", texts.leaves,
                 "WORKER@TIME: the worker ends, and what runs there is lost; repeatable")
      ->take_all();
  app.add_option("--latency-us", options.latency_us, "of each message, one way")->capture_default_str();
  app.add_option("--wake-us", options.wake_us, "from giving work to an idle slot until it begins")
      ->capture_default_str();
  app.add_option("--policy", options.policy, policy_names())->capture_default_str();
  app.add_option("--copies", options.copies_permille,
                 "the call is idempotent: work that copies of its last items may add, in thousandths")
      ->capture_default_str();
  app.add_flag("--hints", options.hints, "the client says what each item costs (options(cost=...))");
  auto* seed =
      app.add_option("--seed", texts.seed, "decides item times, speeds and faults")->capture_default_str();
  app.add_option("--seeds", texts.seeds, "A-B: one run for each, and sums over all of them")->excludes(seed);
  app.add_option(
      "--trace-out", options.trace_out,
      "write one JSON line per executed item: item, slot (worker times slots plus its slot), start_us, "
      "end_us, and with --seeds the seed");
  app.add_flag(
      "--faults", options.faults,
      "loss, delay, reorder, duplication, partition, crash and restart of any peer, in small buses that the "
      "seed draws (--workers, --slots, --items: unless given); checks that every item has exactly one "
      "delivered outcome, and more; exit 1 at the first violation");
  app.add_flag("--plant-bug", options.plant_bug,
               "with --faults: the scheduler's driver sends before it commits, which the checkers must find");
  app.add_flag("--verbose", options.verbose, "with --faults: name each seed");
}

void interpret(Options& options, const Texts& texts) {
  for (const std::string& text : texts.slowdowns) options.slowdowns.push_back(parse_slowdown(text));
  for (const std::string& text : texts.joins) options.joins.push_back(parse_join(text));
  for (const std::string& text : texts.leaves) options.leaves.push_back(parse_leave(text));
  options.first_seed = options.last_seed = texts.seed;
  if (!texts.seeds.empty()) parse_seeds(texts.seeds, options);
  check(options);
}

}  // namespace

std::optional<Options> parse_command_line(int argc, char** argv, int& exit_code) {
  Options options;
  Texts texts;
  CLI::App app(kAbout, "betterbox-sim");
  declare(app, options, texts);
  try {
    app.parse(argc, argv);
    options.items_given = app.count("--items") > 0;
    options.workers_given = app.count("--workers") > 0;
    options.slots_given = app.count("--slots") > 0;
    interpret(options, texts);
    return options;
  } catch (const CLI::Success& wish) {  // --help
    exit_code = app.exit(wish);
  } catch (const CLI::Error& error) {
    std::cerr << "betterbox-sim: " << error.what() << "\nbetterbox-sim: --help says more\n";
    exit_code = 2;
  } catch (const std::invalid_argument& error) {
    std::cerr << "betterbox-sim: " << error.what() << "\nbetterbox-sim: --help says more\n";
    exit_code = 2;
  }
  return std::nullopt;
}

}  // namespace betterbox::sim
