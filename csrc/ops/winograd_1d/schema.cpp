// The schemas of the one-dimensional Winograd convolution of stride 1. Sequences are (N, C, T), contiguous float32, and
// weights (out, in, kernel). The transposed convolution takes the same weights from `out` to `in` channels. `filter` is
// the weights, or what winograd_1d_filter makes of them, which saves time if several calls take it. `length` is that of
// the result.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(igan_fast, m) {
  m.def("winograd_1d_filter(Tensor weight, bool transposed) -> Tensor");
  m.def(
      "winograd_1d_conv(Tensor x, Tensor filter, SymInt length, SymInt channels, int kernel, int padding, int "
      "dilation, "
      "Tensor? bias, float negative_slope, bool transposed) -> Tensor");
  m.def("winograd_1d_weight_gradient(Tensor x, Tensor grad, int kernel, int padding, int dilation) -> Tensor");
}
