// Read before a suite, so that each of its benchmarks runs a number of times that COUNTED_ITERATIONS gives instead of
// as long as it takes to measure: what is executed is then the same in every run, and its instructions can be counted
// (benchmarks/instructions.py).
#pragma once

#include <benchmark/benchmark.h>

#include <cstdlib>

inline benchmark::IterationCount counted_iterations() {
  const char* text = std::getenv("COUNTED_ITERATIONS");
  const long long count = text != nullptr ? std::atoll(text) : 0;
  return count > 0 ? count : 1;
}

#undef BENCHMARK
#define BENCHMARK(function)                                                   \
  BENCHMARK_PRIVATE_DECLARE(function) =                                       \
      (::benchmark::internal::RegisterBenchmarkInternal(                      \
           new ::benchmark::internal::FunctionBenchmark(#function, function)) \
           ->Iterations(counted_iterations()))

#undef BENCHMARK_CAPTURE
#define BENCHMARK_CAPTURE(function, name, ...)                                                        \
  BENCHMARK_PRIVATE_DECLARE(function) =                                                               \
      (::benchmark::internal::RegisterBenchmarkInternal(                                              \
           new ::benchmark::internal::FunctionBenchmark(                                              \
               #function "/" #name, [](::benchmark::State& state) { function(state, __VA_ARGS__); })) \
           ->Iterations(counted_iterations()))
