// The Winograd convolution on the CPU. igan_fast/ops/convolution/winograd.py says what it computes.

#include "cpu/winograd/kernels.h"

#include <cstdio>
#include <cstring>
#include <sstream>

#include "cpu/operators.h"
#include "cpu/scratch.h"

namespace igan_fast::cpu {
namespace {

bool is_known(const Tensor& x) {
  const ScalarType type = x.scalar_type();
  return type == ScalarType::Float || type == ScalarType::BFloat16 || type == ScalarType::Half;
}

Values in(const Tensor& x) { return {x.const_data_ptr(), dtype_of(x, "in")}; }
MutableValues out(Tensor& x) { return {x.mutable_data_ptr(), dtype_of(x, "out")}; }

void check_feature_map(const Tensor& x, const char* what) {
  STD_TORCH_CHECK(x.dim() == 4 && x.is_contiguous(), what, ": expected (N, H, W, C), contiguous");
  STD_TORCH_CHECK(is_known(x), what, ": expected float32, bfloat16 or float16");
  STD_TORCH_CHECK(x.numel() > 0, what, " is empty");
}

const float* data_of(const Tensor& tensor) { return static_cast<const float*>(tensor.const_data_ptr()); }

const WinogradKernels& kernels_of(int64_t kernel, int64_t stride, int64_t tile) {
  for (const WinogradKernels& entry : winograd_kernels(isa_in_use()))
    if (entry.kernel == kernel && entry.stride == stride && entry.tile == tile) return entry;
  std::ostringstream all;
  for (const WinogradKernels& entry : winograd_kernels(isa_in_use()))
    all << " " << entry.kernel << "/" << entry.stride << "/" << entry.tile;
  STD_TORCH_CHECK(false, "kernel/stride/tile is ", kernel, "/", stride, "/", tile, "; expected one of", all.str());
}

// A header that is stored before a transformed filter. It is used to check that the filter fits a convolution.
struct FilterHeader {
  char made_by[16];  // names the instruction set: the layout depends on the size of its vectors
  int64_t kernel, stride, tile, small_channels, large_channels, transposed;

  FilterHeader(const WinogradKernels& k, int64_t small_channels_, int64_t large_channels_, bool transposed_)
      : made_by{},
        kernel(k.kernel),
        stride(k.stride),
        tile(k.tile),
        small_channels(small_channels_),
        large_channels(large_channels_),
        transposed(transposed_) {
    std::snprintf(made_by, sizeof(made_by), "winograd %s", name_of(isa_in_use()));
  }
};
constexpr int64_t kHeader = sizeof(FilterHeader) / sizeof(float);
static_assert(sizeof(FilterHeader) == 64, "a cache line");

// Checks that the convolution of the large feature map has exactly the size of the small one.
void check_sizes(const WinogradKernels& kernel, const ConvShape& s) {
  STD_TORCH_CHECK(s.padding >= 0 && s.padding < kernel.kernel, "padding is ", s.padding, "; expected 0 to ",
                  kernel.kernel - 1);
  const auto fits = [&](int64_t large, int64_t small) {
    const int64_t free = large + 2 * s.padding - kernel.kernel;
    return free >= 0 && free / kernel.stride + 1 == small;
  };
  STD_TORCH_CHECK(fits(s.large_height, s.small_height) && fits(s.large_width, s.small_width), kernel.kernel, "×",
                  kernel.kernel, " with stride ", kernel.stride, " and padding ", s.padding, " does not take ",
                  s.large_height, " by ", s.large_width, " to ", s.small_height, " by ", s.small_width);
}

void transform_filter(const WinogradKernels& kernel, const Tensor& weight, bool transposed, float* to) {
  const FilterStrides strides{weight.stride(0), weight.stride(1), weight.stride(2), weight.stride(3)};
  kernel.transform_filter(weight.size(0), weight.size(1), strides, in(weight), transposed, to, &torch_parallel);
}

Tensor winograd_filter(Tensor weight, int64_t stride, bool transposed, int64_t tile) {
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(2) == weight.size(3) && weight.numel() > 0,
                  "weight: expected (small channels, large channels, kernel, kernel)");
  STD_TORCH_CHECK(is_known(weight), "weight: expected float32, bfloat16 or float16");
  const WinogradKernels& kernel = kernels_of(weight.size(2), stride, tile);
  const FilterHeader header(kernel, weight.size(0), weight.size(1), transposed);
  Tensor filter = torch::stable::new_empty(
      weight, {kHeader + kernel.filter_size(header.small_channels, header.large_channels, transposed)},
      ScalarType::Float);
  auto* to = static_cast<float*>(filter.mutable_data_ptr());
  advise_huge_pages(to, filter.numel() * 4);
  std::memcpy(to, &header, sizeof(header));
  transform_filter(kernel, weight, transposed, to + kHeader);
  return filter;
}

// Whether `filter` is what winograd_filter makes of weights, and not the weights themselves. Raises an error if it is
// neither.
bool is_transformed(const Tensor& filter, const WinogradKernels& kernel, const ConvShape& s, bool transposed) {
  if (is_known(filter) && filter.dim() == 4 && filter.size(0) == s.small_channels &&
      filter.size(1) == s.large_channels && filter.size(2) == kernel.kernel && filter.size(3) == kernel.kernel)
    return false;
  const FilterHeader header(kernel, s.small_channels, s.large_channels, transposed);
  STD_TORCH_CHECK(filter.scalar_type() == ScalarType::Float && filter.dim() == 1 && filter.is_contiguous() &&
                      filter.numel() > kHeader && std::memcmp(filter.const_data_ptr(), &header, sizeof(header)) == 0 &&
                      filter.numel() == kHeader + kernel.filter_size(s.small_channels, s.large_channels, transposed),
                  "filter: expected weights (", s.small_channels, ", ", s.large_channels, ", ", kernel.kernel, ", ",
                  kernel.kernel, "), or what winograd_filter makes of them for this stride, direction and tile");
  return true;
}

Tensor winograd_conv(Tensor x, Tensor filter, std::vector<int64_t> size, int64_t channels, int64_t kernel_size,
                     int64_t stride, int64_t padding, std::optional<Tensor> bias, double negative_slope,
                     bool transposed, int64_t tile) {
  const WinogradKernels& kernel = kernels_of(kernel_size, stride, tile);
  check_feature_map(x, "x");
  STD_TORCH_CHECK(channels > 0, "channels is ", channels, "; expected at least 1");
  STD_TORCH_CHECK(size.size() == 2 && size[0] > 0 && size[1] > 0, "size: expected height and width, at least 1");
  const ConvShape shape =
      transposed ? ConvShape{x.size(0), size[0], size[1], channels, x.size(1), x.size(2), x.size(3), padding}
                 : ConvShape{x.size(0), x.size(1), x.size(2), x.size(3), size[0], size[1], channels, padding};
  check_sizes(kernel, shape);
  const bool transformed = is_transformed(filter, kernel, shape, transposed);
  STD_TORCH_CHECK(
      !bias || (bias->scalar_type() == ScalarType::Float && bias->is_contiguous() && bias->numel() == channels),
      "bias: expected (", channels, ",), float32 and contiguous");
  Tensor y = torch::stable::new_empty(x, {x.size(0), size[0], size[1], channels});
  advise_huge_pages(y.mutable_data_ptr(), y.numel() * size_of(dtype_of(y, "x")));
  // New memory for a large filter at each call would cost more time than its transform.
  const Scratch scratch(transformed ? 0 : kernel.filter_size(shape.small_channels, shape.large_channels, transposed));
  if (!transformed) transform_filter(kernel, filter, transposed, scratch.data());
  const auto run = transposed ? kernel.convolve_transposed : kernel.convolve;
  run(shape, in(x), transformed ? data_of(filter) + kHeader : scratch.data(), bias ? data_of(*bias) : nullptr,
      static_cast<float>(negative_slope), out(y), &torch_parallel);
  return y;
}

Tensor winograd_conv_weight_gradient(Tensor large, Tensor small, int64_t kernel_size, int64_t stride, int64_t padding,
                                     int64_t tile) {
  const WinogradKernels& kernel = kernels_of(kernel_size, stride, tile);
  check_feature_map(large, "large");
  check_feature_map(small, "small");
  STD_TORCH_CHECK(large.scalar_type() == small.scalar_type(), "large and small: expected one dtype");
  STD_TORCH_CHECK(large.size(0) == small.size(0), "large and small: expected one batch, found ", large.size(0), " and ",
                  small.size(0));
  const ConvShape shape{large.size(0), large.size(1), large.size(2), large.size(3),
                        small.size(1), small.size(2), small.size(3), padding};
  check_sizes(kernel, shape);
  Tensor gradient = torch::stable::new_empty(large, {small.size(3), large.size(3), kernel_size, kernel_size});
  const FilterStrides strides{gradient.stride(0), gradient.stride(1), kernel_size, 1};
  kernel.weight_gradient(shape, strides, in(large), in(small), out(gradient), &torch_parallel);
  return gradient;
}

}  // namespace
}  // namespace igan_fast::cpu

STABLE_TORCH_LIBRARY_IMPL(igan_fast, CPU, m) {
  m.impl("winograd_filter", TORCH_BOX(&igan_fast::cpu::winograd_filter));
  m.impl("winograd_conv", TORCH_BOX(&igan_fast::cpu::winograd_conv));
  m.impl("winograd_conv_weight_gradient", TORCH_BOX(&igan_fast::cpu::winograd_conv_weight_gradient));
}
