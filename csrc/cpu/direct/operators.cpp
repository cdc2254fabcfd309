// The direct convolutions from and to few channels on the CPU. igan_fast/ops/convolution/direct.py says where they are
// used.

#include "cpu/direct/kernels.h"

#include <tuple>

#include "cpu/operators.h"

namespace igan_fast::cpu {
namespace {

using Numbers = std::vector<int64_t>;

const float* data_of(const Tensor& tensor) { return static_cast<const float*>(tensor.const_data_ptr()); }

void check_map(const Tensor& x, const char* what) {
  STD_TORCH_CHECK(x.dim() == 4 && x.numel() > 0, what, ": expected 4 dimensions, none of them empty");
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float, what, ": expected float32");
}

void check_features(const Tensor& x, const std::optional<Tensor>& signs) {
  check_map(x, "features");
  STD_TORCH_CHECK(x.is_contiguous(), "features: expected (N, H, W, C), contiguous");
  if (!signs) return;
  check_map(*signs, "signs");
  bool same = signs->is_contiguous();
  for (int64_t d = 0; d < 4; ++d) same = same && signs->size(d) == x.size(d);
  STD_TORCH_CHECK(same, "signs: expected the shape of features, contiguous");
}

void check_two(const Numbers& numbers, int64_t least, const char* what) {
  STD_TORCH_CHECK(numbers.size() == 2 && numbers[0] >= least && numbers[1] >= least, what,
                  ": expected two numbers, for height and width, of at least ", least);
}

// The shape, after a check that the convolution takes the image's size to that of the features. `image` and `features`
// are (N, H, W, C) each, and `kernel` is height and width.
DirectShape shape_of(const Numbers& image, const Numbers& features, const Numbers& kernel, const Numbers& stride,
                     const Numbers& padding) {
  check_two(kernel, 1, "kernel");
  check_two(stride, 1, "stride");
  check_two(padding, 0, "padding");
  STD_TORCH_CHECK(kernel[0] <= kMaxKernelHeight, "the kernel's height is ", kernel[0], "; expected at most ",
                  kMaxKernelHeight);
  STD_TORCH_CHECK(image[0] == features[0], "image and features: expected one batch, found ", image[0], " and ",
                  features[0]);
  for (size_t d = 0; d < 2; ++d) {
    const int64_t free = image[d + 1] + 2 * padding[d] - kernel[d];
    STD_TORCH_CHECK(free >= 0 && free / stride[d] + 1 == features[d + 1], "a kernel of ", kernel[d], " with stride ",
                    stride[d], " and padding ", padding[d], " does not take ", image[d + 1], " to ", features[d + 1]);
  }
  return {image[0],  image[1],  image[2],  image[3],  features[1], features[2], features[3],
          kernel[0], kernel[1], stride[0], stride[1], padding[0],  padding[1]};
}

Numbers sizes_of(const Tensor& x) { return {x.size(0), x.size(1), x.size(2), x.size(3)}; }

void check_weight(const Tensor& weight, int64_t given, size_t side) {
  STD_TORCH_CHECK(weight.dim() == 4 && weight.numel() > 0 && weight.scalar_type() == ScalarType::Float,
                  "weight: expected (features' channels, image's channels, height, width), float32");
  STD_TORCH_CHECK(weight.size(static_cast<int64_t>(side)) == given, "weight has ",
                  weight.size(static_cast<int64_t>(side)), " channels on the input's side; expected ", given);
}

const float* bias_of(const std::optional<Tensor>& bias, int64_t channels) {
  if (!bias) return nullptr;
  STD_TORCH_CHECK(bias->scalar_type() == ScalarType::Float && bias->is_contiguous() && bias->numel() == channels,
                  "bias: expected (", channels, ",), float32 and contiguous");
  return data_of(*bias);
}

WeightStrides strides_of(const Tensor& weight) {
  return {weight.stride(0), weight.stride(1), weight.stride(2), weight.stride(3)};
}

Features features_of(const Tensor& features, const std::optional<Tensor>& signs, double slope) {
  return {data_of(features), signs ? data_of(*signs) : nullptr, static_cast<float>(slope)};
}

Tensor direct_conv(Tensor image, Tensor weight, Numbers size, Numbers stride, Numbers padding,
                   std::optional<Tensor> bias, double negative_slope) {
  check_map(image, "image");
  check_weight(weight, image.size(3), 1);
  check_two(size, 1, "size");
  const Numbers out_size{image.size(0), size[0], size[1], weight.size(0)};
  const DirectShape shape = shape_of(sizes_of(image), out_size, {weight.size(2), weight.size(3)}, stride, padding);
  const float* const shift = bias_of(bias, shape.channels);
  Tensor out = torch::stable::new_empty(image, out_size);
  auto* to = static_cast<float*>(out.mutable_data_ptr());
  advise_huge_pages(to, out.numel() * 4);
  const ImageStrides strides{image.stride(0), image.stride(1), image.stride(2), image.stride(3)};
  direct_kernels(isa_in_use())
      .convolve(shape, strides, data_of(image), strides_of(weight), data_of(weight), shift,
                static_cast<float>(negative_slope), to, &torch_parallel);
  return out;
}

Tensor direct_conv_transposed(Tensor features, std::optional<Tensor> signs, double signs_slope, Tensor weight,
                              Numbers size, Numbers stride, Numbers padding, std::optional<Tensor> bias,
                              double negative_slope) {
  check_features(features, signs);
  check_weight(weight, features.size(3), 0);
  check_two(size, 1, "size");
  const Numbers out_size{features.size(0), size[0], size[1], weight.size(1)};
  const DirectShape shape = shape_of(out_size, sizes_of(features), {weight.size(2), weight.size(3)}, stride, padding);
  const float* const shift = bias_of(bias, shape.image_channels);
  Tensor out = torch::stable::new_empty(features, out_size);
  auto* to = static_cast<float*>(out.mutable_data_ptr());
  advise_huge_pages(to, out.numel() * 4);
  direct_kernels(isa_in_use())
      .convolve_transposed(shape, features_of(features, signs, signs_slope), strides_of(weight), data_of(weight), shift,
                           static_cast<float>(negative_slope), to, &torch_parallel);
  return out;
}

std::tuple<Tensor, Tensor> direct_conv_gradients(Tensor image, Tensor features, std::optional<Tensor> signs,
                                                 double signs_slope, Numbers kernel, Numbers stride, Numbers padding) {
  check_map(image, "image");
  check_features(features, signs);
  const DirectShape shape = shape_of(sizes_of(image), sizes_of(features), kernel, stride, padding);
  Tensor weight = torch::stable::new_empty(features, {shape.channels, shape.image_channels, kernel[0], kernel[1]});
  Tensor bias = torch::stable::new_empty(features, {shape.channels});
  const ImageStrides strides{image.stride(0), image.stride(1), image.stride(2), image.stride(3)};
  direct_kernels(isa_in_use())
      .weight_gradient(shape, strides, data_of(image), features_of(features, signs, signs_slope),
                       static_cast<float*>(weight.mutable_data_ptr()), static_cast<float*>(bias.mutable_data_ptr()),
                       &torch_parallel);
  return {weight, bias};
}

}  // namespace
}  // namespace igan_fast::cpu

STABLE_TORCH_LIBRARY_IMPL(igan_fast, CPU, m) {
  m.impl("direct_conv", TORCH_BOX(&igan_fast::cpu::direct_conv));
  m.impl("direct_conv_transposed", TORCH_BOX(&igan_fast::cpu::direct_conv_transposed));
  m.impl("direct_conv_gradients", TORCH_BOX(&igan_fast::cpu::direct_conv_gradients));
}
