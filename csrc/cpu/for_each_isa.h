// The kernels, compiled once per instruction set, each time in a namespace of that name, so that one binary serves
// every CPU; and the choice among them. Nothing that is included up here is compiled for more than the baseline.

#include "kernels.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <memory>
#include <numeric>
#include <type_traits>
#include <utility>

#include "dtypes.h"
#include "memory.h"
#include "scratch.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define IGAN_FAST_X86 1
#include <immintrin.h>
#else
#define IGAN_FAST_X86 0
#endif

#define IGAN_FAST_INLINE inline __attribute__((always_inline))
#define IGAN_FAST_INLINE_LAMBDA __attribute__((always_inline))

#define IGAN_FAST_ISA_LEVEL 0
#define IGAN_FAST_VECTOR_BYTES 16
namespace igan_fast::cpu::baseline {
#include "vector.inl"
#include "feature_l1.inl"
#include "norm_act.inl"
#include "winograd_conv.inl"
}  // namespace igan_fast::cpu::baseline
#undef IGAN_FAST_ISA_LEVEL
#undef IGAN_FAST_VECTOR_BYTES

#if IGAN_FAST_X86

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
#define IGAN_FAST_ISA_LEVEL 1
#define IGAN_FAST_VECTOR_BYTES 32
namespace igan_fast::cpu::avx2 {
#include "vector.inl"
#include "feature_l1.inl"
#include "norm_act.inl"
#include "winograd_conv.inl"
}  // namespace igan_fast::cpu::avx2
#undef IGAN_FAST_ISA_LEVEL
#undef IGAN_FAST_VECTOR_BYTES
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif
#define IGAN_FAST_ISA_LEVEL 2
#define IGAN_FAST_VECTOR_BYTES 64
namespace igan_fast::cpu::avx512 {
#include "vector.inl"
#include "feature_l1.inl"
#include "norm_act.inl"
#include "winograd_conv.inl"
}  // namespace igan_fast::cpu::avx512
#undef IGAN_FAST_ISA_LEVEL
#undef IGAN_FAST_VECTOR_BYTES
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // IGAN_FAST_X86

namespace igan_fast::cpu {

namespace {

#define IGAN_FAST_TABLE(isa)                                                                                  \
  {                                                                                                           \
    #isa, &isa::feature_l1, &isa::feature_l1_backward, isa::norm_kernels<float>, isa::norm_kernels<double>, { \
      isa::winograd::kernels<5, 2, 2>, isa::winograd::kernels<5, 2, 4>, isa::winograd::kernels<4, 2, 2>,      \
          isa::winograd::kernels<4, 2, 4>, isa::winograd::kernels<3, 1, 2>, isa::winograd::kernels<3, 1, 4>,  \
          isa::winograd::kernels<3, 2, 2>, isa::winograd::kernels<3, 2, 4>                                    \
    }                                                                                                         \
  }

// Best first.
const Kernels kTables[] = {
#if IGAN_FAST_X86
    IGAN_FAST_TABLE(avx512),
    IGAN_FAST_TABLE(avx2),
#endif
    IGAN_FAST_TABLE(baseline),
};

bool runs_here(const char* isa) {
#if IGAN_FAST_X86
  if (!std::strcmp(isa, "avx512"))
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx2") &&
           __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (!std::strcmp(isa, "avx2"))
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#endif
  return !std::strcmp(isa, "baseline");
}

const Kernels& choose() {
  const char* cap = std::getenv("IGAN_FAST_CPU_ISA");
  bool below_cap = true;
  if (cap)
    for (const Kernels& table : kTables)
      below_cap = below_cap && std::strcmp(table.isa, cap);  // an unknown cap caps nothing
  for (const Kernels& table : kTables) {
    below_cap = below_cap || !std::strcmp(table.isa, cap);
    if (below_cap && runs_here(table.isa)) return table;
  }
  return kTables[std::size(kTables) - 1];
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

const Kernels* kernels(const char* isa) {
  for (const Kernels& table : kTables)
    if (!std::strcmp(table.isa, isa)) return runs_here(isa) ? &table : nullptr;
  return nullptr;
}

const char* isa_in_use() { return kernels().isa; }

const char* isas_compiled() {
#if IGAN_FAST_X86
  return "baseline, avx2, avx512";
#else
  return "baseline";
#endif
}

}  // namespace igan_fast::cpu
