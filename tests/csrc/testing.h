// A small test framework: checks that count failures, parallel loops on real
// threads, and reproducible data.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

#include "cpu/dtypes.h"
#include "cpu/isa.h"

inline int failures = 0;

#define CHECK(condition, ...)                                                  \
  do {                                                                         \
    if (!(condition)) {                                                        \
      std::printf("%s:%d: %s: ", __FILE__, __LINE__, #condition);              \
      std::printf(__VA_ARGS__);                                                \
      std::printf("\n");                                                       \
      ++failures;                                                              \
    }                                                                          \
  } while (false)

// Runs chunks on three threads, in no order. That is more threads than the
// machine may have, so that races are likely to show.
inline void on_threads(int64_t begin, int64_t end, int64_t grain,
                       igan_fast::cpu::Body body, void *context) {
  const int64_t count = end - begin,
                parts = std::max<int64_t>(
                    1,
                    std::min<int64_t>(3, count / std::max<int64_t>(grain, 1)));
  std::vector<std::thread> threads;
  for (int64_t p = 0; p < parts; ++p)
    threads.emplace_back([=] {
      body(begin + count * p / parts, begin + count * (p + 1) / parts, context);
    });
  for (std::thread &thread : threads)
    thread.join();
}

// Runs all on the calling thread, as one chunk.
inline void in_one_piece(int64_t begin, int64_t end, int64_t,
                         igan_fast::cpu::Body body, void *context) {
  if (begin < end)
    body(begin, end, context);
}

// Reproducible values, roughly normal, some of them equal to others.
struct Random {
  uint64_t state;
  double operator()() {
    double sum = -6;
    for (int i = 0; i < 12; ++i) {
      state = state * 6364136223846793005ull + 1442695040888963407ull;
      sum += static_cast<double>(state >> 40) / (1 << 24);
    }
    return std::round(sum * 64) / 64;
  }
};

// Values that no kernel has written yet: NaN in every float type.
template <typename T> std::vector<T> unwritten(size_t count) {
  std::vector<T> values(count);
  if (count)
    std::memset(static_cast<void *>(values.data()), 0xFF, count * sizeof(T));
  return values;
}

// The larger of two; NaN counts as the largest. std::max would ignore it.
inline double worse(double a, double b) {
  return std::isnan(b) || b > a ? b : a;
}

template <typename T> T from_double(double value) {
  if constexpr (sizeof(T) == sizeof(double))
    return value;
  else
    return igan_fast::cpu::from_float<T>(static_cast<float>(value));
}

template <typename T> constexpr igan_fast::Dtype dtype_of() {
  using igan_fast::Dtype;
  using namespace igan_fast::cpu;
  if (std::is_same_v<T, Half>)
    return Dtype::Half;
  if (std::is_same_v<T, BFloat16>)
    return Dtype::BFloat16;
  return std::is_same_v<T, float> ? Dtype::Float : Dtype::Double;
}

// The relative error that a result of type T may have.
template <typename T> constexpr double tolerance() {
  using namespace igan_fast::cpu;
  return std::is_same_v<T, BFloat16> ? 1e-2
         : std::is_same_v<T, Half>   ? 2e-3
         : std::is_same_v<T, float>  ? 1e-5
                                     : 1e-12;
}

// Calls function(isa) for each instruction set that this CPU has; the exit
// status of the test.
template <typename Function> int for_every_isa(const Function &function) {
  for (const igan_fast::cpu::Isa isa : igan_fast::cpu::kIsas) {
    const bool supported = igan_fast::cpu::is_supported(isa);
    std::printf("%s: %s\n", igan_fast::cpu::name_of(isa),
                supported ? "runs" : "not on this CPU");
    if (supported)
      function(isa);
  }
  std::printf("%d failures\n", failures);
  return failures != 0;
}
