#include "cpu/isa.h"

#include <cstdlib>
#include <cstring>

#include "cpu/target.h"

namespace igan_fast::cpu {
namespace {

Isa best_supported() {
  const char* limit = std::getenv("IGAN_FAST_CPU_ISA");
  bool allowed = true;
  if (limit)
    for (const Isa isa : kIsas)
      allowed = allowed && std::strcmp(name_of(isa), limit);  // an unknown name limits nothing
  for (const Isa isa : kIsas) {
    allowed = allowed || !std::strcmp(name_of(isa), limit);
    if (allowed && is_supported(isa)) return isa;
  }
  return Isa::Baseline;
}

}  // namespace

const char* name_of(Isa isa) {
  switch (isa) {
    case Isa::Avx512: return "avx512";
    case Isa::Avx2: return "avx2";
    default: return "baseline";
  }
}

bool is_supported(Isa isa) {
#if IGAN_FAST_X86
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (isa == Isa::Avx2) return avx2;
  if (isa == Isa::Avx512)
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
  return isa == Isa::Baseline;
}

Isa isa_in_use() {
  static const Isa best = best_supported();
  return best;
}

const char* isas_compiled() {
#if IGAN_FAST_X86
  return "baseline, avx2, avx512";
#else
  return "baseline";
#endif
}

}  // namespace igan_fast::cpu
