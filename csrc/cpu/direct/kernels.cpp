#include "cpu/direct/kernels.h"

#define IGAN_FAST_KERNELS "cpu/direct/kernels.inl"
#include "cpu/for_each_isa.inl"

namespace igan_fast::cpu {

const DirectKernels& direct_kernels(Isa isa) { return IGAN_FAST_SELECT(isa, direct::kernels); }

}  // namespace igan_fast::cpu
