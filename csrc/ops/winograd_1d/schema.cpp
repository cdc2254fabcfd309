// The schemas of the one-dimensional Winograd convolution. Sequences are (N, C, T), contiguous float32. A convolution
// goes from the large sequences to the small ones, its transpose from the small ones to the large ones; the weights are
// (small channels, large channels / groups, kernel) for both. `filter` is the weights, or what winograd_1d_filter makes
// of them, which saves time if several calls take it. `length` is that of the result. csrc/cpu/winograd_1d/kernels.h
// explains the settings.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(igan_fast, m) {
  m.def("winograd_1d_filter(Tensor weight, int stride, int groups, bool transposed) -> Tensor");
  m.def(
      "winograd_1d_conv(Tensor x, Tensor filter, SymInt length, SymInt channels, int kernel, int stride, int padding, "
      "int interleaved, int groups, Tensor? bias, float negative_slope, bool transposed) -> Tensor");
  m.def(
      "winograd_1d_weight_gradient(Tensor large, Tensor small, int kernel, int stride, int padding, int interleaved, "
      "int groups) -> Tensor");
}
