// linear_few_rows's schema: x (rows, in) · weightᵀ (in, out) + bias (out,) → (rows, out), all contiguous and of one
// dtype. It is for so few rows that the weights' way from memory takes longer than the products.
// igan_fast/ops/few_rows.py says when it is used.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(igan_fast, m) {
  m.def("linear_few_rows(Tensor x, Tensor weight, Tensor? bias) -> Tensor");
}
