// The instruction sets that the CPU kernels are compiled for, and how a kernel runs on several threads. No torch, so
// that the kernels can be tested and sanitised on their own.

#pragma once

#include <cstdint>

namespace igan_fast::cpu {

enum class Isa { Baseline, Avx2, Avx512 };

constexpr Isa kIsas[] = {Isa::Avx512, Isa::Avx2, Isa::Baseline};  // best first

const char* name_of(Isa isa);

// Whether this build has kernels for the instruction set, and this CPU can run them.
bool is_supported(Isa isa);

// The best supported instruction set. The environment variable IGAN_FAST_CPU_ISA (baseline, avx2 or avx512) limits it.
Isa isa_in_use();

// The names of all instruction sets in this build, separated by commas.
const char* isas_compiled();

// A parallel loop over [begin, end): calls body for chunks of at least `grain` indices. It is torch's loop, or one that
// a test defines.
using Body = void (*)(int64_t begin, int64_t end, void* context);
using ParallelFor = void (*)(int64_t begin, int64_t end, int64_t grain, Body body, void* context);

}  // namespace igan_fast::cpu
