// The schemas of the Winograd convolution. Its feature maps are contiguous (N, H, W, C). A convolution goes from the
// large feature map to the small one, its transpose from the small one to the large one; the weights are
// (small channels, large channels, kernel, kernel) for both. `filter` is the weights, or what winograd_filter makes of
// them, which saves time if several calls take it. `size` is the height and width of the result.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(igan_fast, m) {
  m.def("winograd_filter(Tensor weight, int stride, bool transposed, int tile) -> Tensor");
  m.def(
      "winograd_conv(Tensor x, Tensor filter, SymInt[] size, SymInt channels, int kernel, int stride, int padding, "
      "Tensor? bias, float negative_slope, bool transposed, int tile) -> Tensor");
  m.def(
      "winograd_conv_weight_gradient(Tensor large, Tensor small, int kernel, int stride, int padding, int tile) -> "
      "Tensor");
}
