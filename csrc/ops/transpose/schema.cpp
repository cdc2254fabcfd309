// transpose's schema: (N, A, B) → (N, B, A), both contiguous. igan_fast/ops/layout.py says what it is used for.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(igan_fast, m) { m.def("transpose(Tensor x) -> Tensor"); }
