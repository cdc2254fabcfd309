// linear_few_rows on the CPU. igan_fast/ops/few_rows.py says when it is used.

#include "cpu/linear/kernels.h"

#include "cpu/operators.h"

namespace igan_fast::cpu {
namespace {

Tensor linear_few_rows(Tensor x, Tensor weight, std::optional<Tensor> bias) {
  const ScalarType type = x.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::BFloat16 || type == ScalarType::Half,
                  "x: expected float32, bfloat16 or float16");
  STD_TORCH_CHECK(x.dim() == 2 && x.is_contiguous() && x.size(0) >= 1 && x.size(0) <= kMaxRows,
                  "x: expected (rows, in), contiguous, with 1 to ", kMaxRows, " rows");
  STD_TORCH_CHECK(weight.dim() == 2 && weight.is_contiguous() && weight.size(1) == x.size(1), "weight: expected (out, ",
                  x.size(1), "), contiguous");
  const int64_t outputs = weight.size(0);
  STD_TORCH_CHECK(!bias || (bias->dim() == 1 && bias->is_contiguous() && bias->size(0) == outputs), "bias: expected (",
                  outputs, ",), contiguous");
  STD_TORCH_CHECK(weight.scalar_type() == type && (!bias || bias->scalar_type() == type),
                  "x, weight and bias: expected one dtype");
  Tensor y = torch::stable::new_empty(x, {x.size(0), outputs});
  few_rows_kernel(isa_in_use())(
      {x.size(0), x.size(1), outputs, dtype_of(x, "x"), x.const_data_ptr(), weight.const_data_ptr(),
       bias ? bias->const_data_ptr() : nullptr, y.mutable_data_ptr()},
      &torch_parallel);
  return y;
}

}  // namespace
}  // namespace igan_fast::cpu

STABLE_TORCH_LIBRARY_IMPL(igan_fast, CPU, m) { m.impl("linear_few_rows", TORCH_BOX(&igan_fast::cpu::linear_few_rows)); }
