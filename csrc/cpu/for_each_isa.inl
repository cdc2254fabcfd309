// Compiles one operator's kernels once per instruction set, so that one binary serves every CPU. An operator's
// kernels.cpp defines IGAN_FAST_KERNELS as the path of its kernels.inl and includes this file. Each copy of kernels.inl
// is in a namespace named after its instruction set, beside the vector types of vector.inl:
//
//   igan_fast::cpu::baseline, igan_fast::cpu::avx2, igan_fast::cpu::avx512
//
// IGAN_FAST_SELECT(isa, name) is then the object `name` of the namespace of isa.
//
// Include headers only here, before the first target is set. Their functions are then compiled for the baseline. If a
// function were compiled for AVX-512, the linker could choose that copy for all callers, on every CPU.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
#include <type_traits>
#include <utility>

#include "cpu/dtypes.h"
#include "cpu/isa.h"
#include "cpu/memory.h"
#include "cpu/scratch.h"
#include "cpu/target.h"

#if IGAN_FAST_X86
#include <immintrin.h>
#endif

#define IGAN_FAST_INLINE inline __attribute__((always_inline))
#define IGAN_FAST_INLINE_LAMBDA __attribute__((always_inline))

#define IGAN_FAST_ISA_LEVEL 0
#define IGAN_FAST_VECTOR_BYTES 16
namespace igan_fast::cpu::baseline {
#include "cpu/vector.inl"
#include IGAN_FAST_KERNELS
}  // namespace igan_fast::cpu::baseline
#undef IGAN_FAST_ISA_LEVEL
#undef IGAN_FAST_VECTOR_BYTES

#if !IGAN_FAST_X86

#define IGAN_FAST_SELECT(isa, name) (static_cast<void>(isa), baseline::name)

#else

#define IGAN_FAST_SELECT(isa, name) \
  ((isa) == Isa::Avx512 ? avx512::name : (isa) == Isa::Avx2 ? avx2::name : baseline::name)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
#define IGAN_FAST_ISA_LEVEL 1
#define IGAN_FAST_VECTOR_BYTES 32
namespace igan_fast::cpu::avx2 {
#include "cpu/vector.inl"
#include IGAN_FAST_KERNELS
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
#include "cpu/vector.inl"
#include IGAN_FAST_KERNELS
}  // namespace igan_fast::cpu::avx512
#undef IGAN_FAST_ISA_LEVEL
#undef IGAN_FAST_VECTOR_BYTES
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // IGAN_FAST_X86
