// Copies of values that lie apart. They are compiled for the baseline: with AVX2 and AVX-512 the compiler takes gathers
// and scatters, which are slower than single loads and stores on several processors.

#pragma once

#include <cstdint>

namespace igan_fast::cpu {

inline void copy_from_strided(const float* from, int64_t step, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = from[i * step];
}

inline void copy_to_strided(const float* from, int64_t count, float* to, int64_t step) {
  for (int64_t i = 0; i < count; ++i) to[i * step] = from[i];
}

}  // namespace igan_fast::cpu
