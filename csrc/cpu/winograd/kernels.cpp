#include "cpu/winograd/kernels.h"

#define IGAN_FAST_KERNELS "cpu/winograd/kernels.inl"
#include "cpu/for_each_isa.inl"

namespace igan_fast::cpu {

const WinogradTable& winograd_kernels(Isa isa) { return IGAN_FAST_SELECT(isa, winograd::table); }

}  // namespace igan_fast::cpu
