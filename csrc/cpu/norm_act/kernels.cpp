#include "cpu/norm_act/kernels.h"

#define IGAN_FAST_KERNELS "cpu/norm_act/kernels.inl"
#include "cpu/for_each_isa.inl"

namespace igan_fast::cpu {

template <>
const NormKernels<float>& norm_act_kernels(Isa isa) {
  return IGAN_FAST_SELECT(isa, norm_act_table<float>);
}

template <>
const NormKernels<double>& norm_act_kernels(Isa isa) {
  return IGAN_FAST_SELECT(isa, norm_act_table<double>);
}

}  // namespace igan_fast::cpu
