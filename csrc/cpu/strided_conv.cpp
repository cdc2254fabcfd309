// strided_conv on the CPU: see igan_fast/ops/strided_conv.py for what it computes.

#include "glue.h"

namespace igan_fast::cpu {
namespace {

void check_image(const Tensor& image, const char* what) {
  STD_TORCH_CHECK(image.dim() == 4 && image.is_contiguous(), what, ": expected (N, H, W, C), contiguous");
  STD_TORCH_CHECK(image.scalar_type() == ScalarType::Float, what, ": expected float32");
  STD_TORCH_CHECK(image.numel() > 0, what, " is empty");
}

const float* data_of(const Tensor& tensor) { return static_cast<const float*>(tensor.const_data_ptr()); }

const StridedConvKernels& kernel_of(int64_t tile) {
  STD_TORCH_CHECK(tile == 2 || tile == 4, "tile is ", tile, "; expected 2 or 4");
  return tile == 2 ? kernels().strided_conv_2 : kernels().strided_conv_4;
}

Tensor strided_conv_filter(Tensor weight, bool transposed, int64_t tile) {
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(2) == 5 && weight.size(3) == 5,
                  "weight: expected (small channels, large channels, 5, 5)");
  STD_TORCH_CHECK(weight.scalar_type() == ScalarType::Float, "weight: expected float32");
  const StridedConvShape shape{0, 0, 0, weight.size(0), weight.size(1)};
  const FilterStrides strides{weight.stride(0), weight.stride(1), weight.stride(2), weight.stride(3)};
  const StridedConvKernels& kernel = kernel_of(tile);
  Tensor filter = torch::stable::new_empty(weight, {kernel.filter_size(shape, transposed)});
  auto* out = static_cast<float*>(filter.mutable_data_ptr());
  expect_large_write(out, filter.numel() * 4);
  kernel.make_filter(shape, strides, data_of(weight), transposed, out, &torch_parallel);
  return filter;
}

Tensor strided_conv(Tensor x, Tensor filter, int64_t channels, std::optional<Tensor> bias, double negative_slope,
                    bool transposed, int64_t tile) {
  check_image(x, "x");
  const int64_t height = x.size(1), width = x.size(2);
  STD_TORCH_CHECK(transposed || (height % 2 == 0 && width % 2 == 0), "x is ", height, " by ", width,
                  "; expected even numbers");
  STD_TORCH_CHECK(channels > 0, "channels is ", channels, "; expected at least 1");
  const StridedConvShape shape = transposed ? StridedConvShape{x.size(0), height, width, x.size(3), channels}
                                            : StridedConvShape{x.size(0), height / 2, width / 2, channels, x.size(3)};
  const StridedConvKernels& kernel = kernel_of(tile);
  STD_TORCH_CHECK(filter.scalar_type() == ScalarType::Float && filter.is_contiguous() &&
                      filter.numel() == kernel.filter_size(shape, transposed),
                  "filter does not fit x and channels");
  STD_TORCH_CHECK(
      !bias || (bias->scalar_type() == ScalarType::Float && bias->is_contiguous() && bias->numel() == channels),
      "bias: expected (", channels, ",), float32 and contiguous");
  Tensor out = transposed ? torch::stable::new_empty(x, {x.size(0), 2 * height, 2 * width, channels})
                          : torch::stable::new_empty(x, {x.size(0), height / 2, width / 2, channels});
  expect_large_write(out.mutable_data_ptr(), out.numel() * 4);
  const auto run = transposed ? kernel.convolve_transposed : kernel.convolve;
  run(shape, data_of(x), data_of(filter), bias ? data_of(*bias) : nullptr, static_cast<float>(negative_slope),
      static_cast<float*>(out.mutable_data_ptr()), &torch_parallel);
  return out;
}

Tensor strided_conv_weight_gradient(Tensor large, Tensor small, int64_t tile) {
  check_image(large, "large");
  check_image(small, "small");
  STD_TORCH_CHECK(
      large.size(0) == small.size(0) && large.size(1) == 2 * small.size(1) && large.size(2) == 2 * small.size(2),
      "large and small: expected one batch, and twice the height and width");
  const StridedConvShape shape{small.size(0), small.size(1), small.size(2), small.size(3), large.size(3)};
  Tensor gradient = torch::stable::new_empty(large, {small.size(3), large.size(3), 5, 5});
  const FilterStrides strides{gradient.stride(0), gradient.stride(1), 5, 1};
  kernel_of(tile).weight_gradient(shape, strides, data_of(large), data_of(small),
                                  static_cast<float*>(gradient.mutable_data_ptr()), &torch_parallel);
  return gradient;
}

}  // namespace
}  // namespace igan_fast::cpu

STABLE_TORCH_LIBRARY_IMPL(igan_fast, CPU, m) {
  m.impl("strided_conv_filter", TORCH_BOX(&igan_fast::cpu::strided_conv_filter));
  m.impl("strided_conv", TORCH_BOX(&igan_fast::cpu::strided_conv));
  m.impl("strided_conv_weight_gradient", TORCH_BOX(&igan_fast::cpu::strided_conv_weight_gradient));
}
