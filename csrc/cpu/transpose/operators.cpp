// transpose on the CPU. igan_fast/ops/layout.py says what it is used for.

#include "cpu/transpose/kernels.h"

#include "cpu/operators.h"

namespace igan_fast::cpu {
namespace {

Tensor transpose_images(Tensor x) {
  STD_TORCH_CHECK(x.dim() == 3 && x.is_contiguous(), "x: expected (N, rows, columns), contiguous");
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float, "x: expected float32");
  Tensor y = torch::stable::new_empty(x, {x.size(0), x.size(2), x.size(1)});
  if (x.numel() == 0) return y;
  auto* out = static_cast<float*>(y.mutable_data_ptr());
  advise_huge_pages(out, y.numel() * 4);
  transpose(x.size(0), x.size(1), x.size(2), static_cast<const float*>(x.const_data_ptr()), out, &torch_parallel);
  return y;
}

}  // namespace
}  // namespace igan_fast::cpu

STABLE_TORCH_LIBRARY_IMPL(igan_fast, CPU, m) { m.impl("transpose", TORCH_BOX(&igan_fast::cpu::transpose_images)); }
