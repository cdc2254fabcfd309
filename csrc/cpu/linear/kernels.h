// The CPU kernel of linear layers with few rows as a plain function on pointers. It does not need torch, so tests can
// call it directly. igan_fast/ops/few_rows.py decides when it is used; kernels.inl explains it.

#pragma once

#include "cpu/isa.h"
#include "ops/dtype.h"

namespace igan_fast::cpu {

constexpr int64_t kMaxRows = 4;

// y (rows, outputs) = x (rows, inputs) · weightᵀ (inputs, outputs) + bias (outputs,), which may be null. All are
// contiguous and of one dtype: float, bfloat16 or half. Sums are float. There are 1 to kMaxRows rows.
struct FewRows {
  int64_t rows, inputs, outputs;
  Dtype dtype;
  const void *x, *weight, *bias;
  void* y;
};

using MultiplyFewRows = void (*)(const FewRows&, ParallelFor);

MultiplyFewRows few_rows_kernel(Isa isa);

}  // namespace igan_fast::cpu
