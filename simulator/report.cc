#include "simulator/report.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>

namespace betterbox::sim {
namespace {

std::string number(double value) {
  if (!std::isfinite(value)) return "0";
  char text[40];
  const double whole = std::round(value);
  if (std::abs(value - whole) < 1e-9 * std::abs(value) && std::abs(value) < 1e15) {
    std::snprintf(text, sizeof text, "%.0f", whole);
  } else {
    std::snprintf(text, sizeof text, std::abs(value) >= 1e6 ? "%.3f" : "%.9g", value);
  }
  return text;
}

template <class Whole> void append(std::string& to, Whole value) {
  char text[24];
  to.append(text, std::to_chars(text, text + sizeof text, value).ptr);
}

/// ns as us with three digits. REQUIRES: ns >= 0.
void append_us(std::string& to, std::int64_t ns) {
  append(to, ns / 1000);
  const auto rest = static_cast<int>(ns % 1000);
  to += '.';
  to += static_cast<char>('0' + rest / 100);
  to += static_cast<char>('0' + rest / 10 % 10);
  to += static_cast<char>('0' + rest % 10);
}

template <class Get> double sum_of(std::span<const Measured> runs, Get get) {
  double sum = 0;
  for (const Measured& run : runs) sum += static_cast<double>(get(run));
  return sum;
}

template <class Get> double most_of(std::span<const Measured> runs, Get get) {
  double most = 0;
  for (const Measured& run : runs) most = std::max(most, static_cast<double>(get(run)));
  return most;
}

template <class Get> std::vector<double> each_of(std::span<const Measured> runs, Get get) {
  std::vector<double> values;
  for (const Measured& run : runs) values.push_back(get(run));
  return values;
}

double over(double a, double b) { return b > 0 ? a / b : 0; }

}  // namespace

JsonObject& JsonObject::put(std::string_view key, const std::string& value) {
  if (!text_.empty()) text_ += ", ";
  text_ += '"';
  text_ += key;
  text_ += "\": ";
  text_ += value;
  return *this;
}
JsonObject& JsonObject::add(std::string_view key, double value) { return put(key, number(value)); }
JsonObject& JsonObject::add(std::string_view key, std::uint64_t value) {
  return put(key, std::to_string(value));
}
JsonObject& JsonObject::add(std::string_view key, std::string_view value) {
  std::string quoted(1, '"');
  for (const char c : value) {
    if (c == '"' || c == '\\') quoted.push_back('\\');
    quoted.push_back(static_cast<unsigned char>(c) < 32 ? ' ' : c);
  }
  quoted.push_back('"');
  return put(key, quoted);
}
JsonObject& JsonObject::add_object(std::string_view key, const JsonObject& object) {
  return put(key, object.text());
}
JsonObject& JsonObject::add_list(std::string_view key, std::span<const double> values) {
  std::string list;
  for (const double value : values) list += (list.empty() ? "" : ", ") + number(value);
  return put(key, "[" + list + "]");
}

std::string line_of(const Measured& run) {
  char text[300];
  std::snprintf(
      text, sizeof text,
      "seed %-4llu makespan %.6f s  over ideal %.4f  over greedy %.4f  imbalance %.2f %%  messages %llu  "
      "splits %llu  steals %llu  scheduler %.0f ns/item  (%.2f s)",
      static_cast<unsigned long long>(run.seed), run.makespan_ns * 1e-9, over(run.makespan_ns, run.ideal_ns),
      over(run.makespan_ns, run.greedy_ns), run.percent_imbalance,
      static_cast<unsigned long long>(run.messages), static_cast<unsigned long long>(run.splits),
      static_cast<unsigned long long>(run.steals), run.scheduler_ns / static_cast<double>(run.items),
      run.wall_s);
  return text;
}

std::string json_of(const Options& options, std::span<const Measured> runs) {
  const double makespan = sum_of(runs, [](auto& r) { return r.makespan_ns; });
  const double ideal = sum_of(runs, [](auto& r) { return r.ideal_ns; });
  const double greedy = sum_of(runs, [](auto& r) { return r.greedy_ns; });
  const double items = sum_of(runs, [](auto& r) { return r.items; });
  const double messages = sum_of(runs, [](auto& r) { return r.messages; });
  const double worker_ns =
      sum_of(runs, [](auto& r) { return static_cast<double>(r.workers) * r.makespan_ns; });
  const double slot_ns = worker_ns * options.slots;
  const auto count = static_cast<double>(runs.size());
  std::vector<double> load(runs.front().scheduler_load.size(), 0.0);
  for (const Measured& run : runs) {
    for (std::size_t i = 0; i < load.size(); ++i) load[i] = std::max(load[i], run.scheduler_load[i]);
  }
  std::map<std::string, std::uint64_t> kinds;
  for (const Measured& run : runs) {
    for (const auto& [kind, number] : run.messages_by_kind) kinds[kind] += number;
  }
  JsonObject by_kind;
  for (const auto& [kind, number] : kinds) by_kind.add(kind, number);
  const double bytes = most_of(runs, [](auto& r) { return r.bytes_peak; });
  JsonObject json;
  json.add("makespan_us", makespan / 1000)
      .add("makespan_over_ideal", over(makespan, ideal))
      .add("makespan_over_greedy", over(makespan, greedy))
      .add("percent_imbalance", sum_of(runs, [](auto& r) { return r.percent_imbalance; }) / count)
      .add("messages", messages)
      .add("messages_per_worker_second", over(messages, worker_ns * 1e-9))
      .add("splits", sum_of(runs, [](auto& r) { return r.splits; }))
      .add("scheduler_ns_per_item", over(sum_of(runs, [](auto& r) { return r.scheduler_ns; }), items))
      .add("scheduler_bytes_per_item", over(bytes, static_cast<double>(runs.front().items)))
      .add("bytes_peak", bytes)
      .add("ideal_us", ideal / 1000)
      .add("greedy_us", greedy / 1000)
      .add("runs", static_cast<std::uint64_t>(runs.size()))
      .add("policy", options.policy)
      .add("dist", options.distribution)
      .add("workers", std::uint64_t{runs.front().workers})
      .add("slots", std::uint64_t{options.slots})
      .add("items", std::uint64_t{runs.front().items})
      .add_object("messages_by_kind", by_kind)
      .add("leases", sum_of(runs, [](auto& r) { return r.leases; }))
      .add("steals", sum_of(runs, [](auto& r) { return r.steals; }))
      .add("items_run_twice", sum_of(runs, [](auto& r) { return r.run_twice; }))
      .add("stale_outcomes", sum_of(runs, [](auto& r) { return r.stale_outcomes; }))
      .add("utilisation", sum_of(runs, [](auto& r) { return r.utilisation; }) / count)
      .add("idle_at_start", over(sum_of(runs, [](auto& r) { return r.start_idle_ns; }), slot_ns))
      .add("idle_between", over(sum_of(runs, [](auto& r) { return r.middle_idle_ns; }), slot_ns))
      .add("idle_at_end", over(sum_of(runs, [](auto& r) { return r.end_idle_ns; }), slot_ns))
      .add("wasted", over(sum_of(runs, [](auto& r) { return r.wasted_ns; }), slot_ns))
      .add("scheduler_load_peak", most_of(runs, [](auto& r) { return r.scheduler_load_peak; }))
      .add_list("scheduler_load_by_tenth", load)
      .add("simulation_s", sum_of(runs, [](auto& r) { return r.wall_s; }));
  if (runs.size() > 1) {
    json.add_list("makespans_us", each_of(runs, [](auto& r) { return r.makespan_ns / 1000; }))
        .add_list("greedys_us", each_of(runs, [](auto& r) { return r.greedy_ns / 1000; }));
  }
  return json.text();
}

void FaultTotals::add(const FaultResult& result) {
  ++seeds;
  sum.faults.add(result.faults);
  sum.items_delivered += result.items_delivered;
  sum.items_lost += result.items_lost;
  sum.items_run_twice += result.items_run_twice;
  sum.items_copied += result.items_copied;
  sum.executions += result.executions;
  sum.stale_results_dropped += result.stale_results_dropped;
  sum.messages += result.messages;
  sum.records += result.records;
  sum.simulated_s += result.simulated_s;
}

std::string json_of(const FaultTotals& totals) {
  const FaultResult& sum = totals.sum;
  const FaultCounts& f = sum.faults;
  JsonObject faults;
  faults.add("loss", f.loss)
      .add("delay", f.delay)
      .add("reorder", f.reorder)
      .add("duplication", f.duplication)
      .add("partition", f.partition)
      .add("crash", f.crash_slot + f.crash_worker + f.crash_client + f.crash_scheduler)
      .add("restart", f.restart_worker + f.restart_client + f.restart_scheduler)
      .add("late", f.late)
      .add("leave", f.leave)
      .add("crash_slot", f.crash_slot)
      .add("crash_worker", f.crash_worker)
      .add("crash_client", f.crash_client)
      .add("crash_scheduler", f.crash_scheduler)
      .add("crash_scheduler_before_commit", f.crash_before_commit)
      .add("crash_scheduler_after_commit", f.crash_after_commit)
      .add("restart_worker", f.restart_worker)
      .add("restart_client", f.restart_client)
      .add("restart_scheduler", f.restart_scheduler)
      .add("messages_lost", f.messages_lost);
  JsonObject json;
  json.add("seeds", totals.seeds)
      .add("violations", std::uint64_t{sum.checker.empty() ? 0U : 1U})
      .add("checker", sum.checker)
      .add_object("faults", faults)
      .add("stale_results_dropped", sum.stale_results_dropped)
      .add("items_run_twice", sum.items_run_twice)
      .add("items_copied", sum.items_copied)
      .add("items_delivered", sum.items_delivered)
      .add("items_lost", sum.items_lost)
      .add("executions", sum.executions)
      .add("messages", sum.messages)
      .add("records", sum.records)
      .add("simulated_s", sum.simulated_s)
      .add("simulation_s", totals.wall_s);
  return json.text();
}

bool write_trace(std::FILE* file, std::span<const Execution> executions, std::uint64_t seed, bool with_seed) {
  std::string buffer;
  buffer.reserve((1U << 20) + 256);
  const std::string ending = with_seed ? ", \"seed\": " + std::to_string(seed) + "}\n" : "}\n";
  for (std::size_t item = 0; item < executions.size(); ++item) {
    const Execution& run = executions[item];
    buffer += "{\"item\": ";
    append(buffer, item);
    buffer += ", \"slot\": ";
    append(buffer, run.slot);
    buffer += ", \"start_us\": ";
    append_us(buffer, run.start);
    buffer += ", \"end_us\": ";
    append_us(buffer, run.end);
    buffer += ending;
    if (buffer.size() < (1U << 20)) continue;
    if (std::fwrite(buffer.data(), 1, buffer.size(), file) != buffer.size()) return false;
    buffer.clear();
  }
  return std::fwrite(buffer.data(), 1, buffer.size(), file) == buffer.size();
}

}  // namespace betterbox::sim
