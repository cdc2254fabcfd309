// The schemas of the direct convolutions from and to few channels. The image, with few channels, is (N, H, W, C); the
// features are contiguous (N, H', W', C'). A convolution goes from the image to the features, its transpose from the
// features to the image; the weight is (C', C, kernel height, kernel width) for both. `size` is the height and width of
// the result. With `signs`, `features` is the gradient of the output of a LeakyReLU whose slope is `signs_slope`, and
// stands for the gradient of its input.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(igan_fast, m) {
  m.def(
      "direct_conv(Tensor image, Tensor weight, SymInt[] size, int[] stride, int[] padding, Tensor? bias, "
      "float negative_slope) -> Tensor");
  m.def(
      "direct_conv_transposed(Tensor features, Tensor? signs, float signs_slope, Tensor weight, SymInt[] size, "
      "int[] stride, int[] padding, Tensor? bias, float negative_slope) -> Tensor");
  m.def(
      "direct_conv_gradients(Tensor image, Tensor features, Tensor? signs, float signs_slope, SymInt[] kernel, "
      "int[] stride, int[] padding) -> (Tensor, Tensor)");
}
