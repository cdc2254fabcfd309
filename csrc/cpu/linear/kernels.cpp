#include "cpu/linear/kernels.h"

#define IGAN_FAST_KERNELS "cpu/linear/kernels.inl"
#include "cpu/for_each_isa.inl"

namespace igan_fast::cpu {

MultiplyFewRows few_rows_kernel(Isa isa) { return IGAN_FAST_SELECT(isa, linear::multiply_few_rows); }

}  // namespace igan_fast::cpu
