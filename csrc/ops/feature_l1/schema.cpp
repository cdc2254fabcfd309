// feature_l1's schemas. igan_fast/ops/feature_l1.py says what the operators compute and what each argument means.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(igan_fast, m) {
  m.def("feature_l1(Tensor[] fake, Tensor[] real, float[] weights, bool save_signs) -> (Tensor loss, Tensor signs)");
  m.def(
      "feature_l1_backward(Tensor grad, Tensor signs, SymInt[] numels, SymInt[] offsets, float[] scales, "
      "ScalarType dtype) -> Tensor[]");
}
