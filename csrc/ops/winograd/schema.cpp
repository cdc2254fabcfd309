// Every operator's schema. The kernels stand in cpu/NAME.cpp and cuda/NAME.cu; shapes, checks, gradients and the
// meaning of each argument in igan_fast/ops/NAME.py.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(igan_fast, m) {
  m.def("feature_l1(Tensor[] fake, Tensor[] real, float[] weights, bool save_signs) -> (Tensor loss, Tensor signs)");
  m.def(
      "feature_l1_backward(Tensor grad, Tensor signs, SymInt[] numels, SymInt[] offsets, float[] scales, "
      "ScalarType dtype) -> Tensor[]");

  m.def(
      "norm_act(Tensor x, Tensor? weight, Tensor? bias, float eps, float negative_slope, SymInt groups) -> "
      "(Tensor y, Tensor mean, Tensor var)");
  m.def(
      "norm_act_inference(Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor var, float eps, "
      "float negative_slope) -> Tensor");
  m.def(
      "norm_act_backward(Tensor grad, Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor var, float eps, "
      "float negative_slope, bool batch_statistics) -> (Tensor dx, Tensor dweight, Tensor dbias)");
  m.def(
      "norm_act_update(Tensor(a!) running_mean, Tensor(b!) running_var, Tensor mean, Tensor var, SymInt count, "
      "float momentum) -> ()");

  // (N, A, B) → (N, B, A), contiguous.
  m.def("transpose(Tensor x) -> Tensor");

  // Images as (N, H, W, C), contiguous; weights (small channels, large channels, kernel, kernel) on either side of a
  // filter. `size` is the result's height and width.
  m.def("winograd_filter(Tensor weight, int stride, bool transposed, int tile) -> Tensor");
  m.def(
      "winograd_conv(Tensor x, Tensor filter, SymInt[] size, SymInt channels, int kernel, int stride, int padding, "
      "Tensor? bias, float negative_slope, bool transposed, int tile) -> Tensor");
  m.def(
      "winograd_conv_weight_gradient(Tensor large, Tensor small, int kernel, int stride, int padding, int tile) -> "
      "Tensor");
}
