#include "cpu/feature_l1/kernels.h"

#define IGAN_FAST_KERNELS "cpu/feature_l1/kernels.inl"
#include "cpu/for_each_isa.inl"

namespace igan_fast::cpu {

const FeatureL1Kernels& feature_l1_kernels(Isa isa) { return IGAN_FAST_SELECT(isa, feature_l1_table); }

}  // namespace igan_fast::cpu
