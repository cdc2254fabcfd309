// The one-dimensional Winograd convolution on the CPU. igan_fast/ops/convolution/winograd_1d.py says what it computes.

#include "cpu/winograd_1d/kernels.h"

#include <cstdio>
#include <cstring>

#include "cpu/operators.h"
#include "cpu/scratch.h"

namespace igan_fast::cpu {
namespace {

void check_sequences(const Tensor& x, const char* what) {
  STD_TORCH_CHECK(x.dim() == 3 && x.is_contiguous(), what, ": expected (N, C, T), contiguous");
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float, what, ": expected float32");
  STD_TORCH_CHECK(x.numel() > 0, what, " is empty");
}

const float* data_of(const Tensor& tensor) { return static_cast<const float*>(tensor.const_data_ptr()); }

void check_weight(const Tensor& weight) {
  STD_TORCH_CHECK(weight.dim() == 3 && weight.numel() > 0, "weight: expected (out, in, kernel)");
  STD_TORCH_CHECK(weight.scalar_type() == ScalarType::Float, "weight: expected float32");
}

Weight1d weight_of(const Tensor& weight, bool transposed) {
  const int64_t out = weight.stride(0), in = weight.stride(1), tap = weight.stride(2);
  return transposed ? Weight1d{data_of(weight), in, out, tap, true} : Weight1d{data_of(weight), out, in, tap, false};
}

// A header that is stored before a transformed filter. It is used to check that the filter fits a convolution.
struct FilterHeader {
  char made_by[32];  // names the instruction set: the layout depends on the size of its vectors
  int64_t kernel, in_channels, out_channels, transposed;

  FilterHeader(int64_t kernel_, int64_t in_channels_, int64_t out_channels_, bool transposed_)
      : made_by{}, kernel(kernel_), in_channels(in_channels_), out_channels(out_channels_), transposed(transposed_) {
    std::snprintf(made_by, sizeof(made_by), "winograd 1-D %s", name_of(isa_in_use()));
  }
};
constexpr int64_t kHeader = sizeof(FilterHeader) / sizeof(float);
static_assert(sizeof(FilterHeader) == 64, "a cache line");

Tensor winograd_1d_filter(Tensor weight, bool transposed) {
  check_weight(weight);
  const auto& kernels = winograd_1d_kernels(isa_in_use());
  const int64_t in = weight.size(transposed ? 0 : 1), out = weight.size(transposed ? 1 : 0), kernel = weight.size(2);
  const FilterHeader header(kernel, in, out, transposed);
  Tensor filter = torch::stable::new_empty(weight, {kHeader + kernels.filter_size(kernel, in, out)});
  auto* to = static_cast<float*>(filter.mutable_data_ptr());
  advise_huge_pages(to, filter.numel() * 4);
  std::memcpy(to, &header, sizeof(header));
  kernels.transform_filter(kernel, in, out, weight_of(weight, transposed), to + kHeader, &torch_parallel);
  return filter;
}

// Whether `filter` is what winograd_1d_filter makes of weights, and not the weights themselves. Raises an error if it
// is neither.
bool is_transformed(const Tensor& filter, const Conv1d& s, bool transposed) {
  const int64_t first = transposed ? s.in_channels : s.out_channels;
  const int64_t second = transposed ? s.out_channels : s.in_channels;
  if (filter.dim() == 3 && filter.scalar_type() == ScalarType::Float && filter.size(0) == first &&
      filter.size(1) == second && filter.size(2) == s.kernel)
    return false;
  const int64_t size = winograd_1d_kernels(isa_in_use()).filter_size(s.kernel, s.in_channels, s.out_channels);
  const FilterHeader header(s.kernel, s.in_channels, s.out_channels, transposed);
  STD_TORCH_CHECK(filter.scalar_type() == ScalarType::Float && filter.dim() == 1 && filter.is_contiguous() &&
                      filter.numel() == kHeader + size &&
                      std::memcmp(filter.const_data_ptr(), &header, sizeof(header)) == 0,
                  "filter: expected weights (", first, ", ", second, ", ", s.kernel,
                  "), float32, or what winograd_1d_filter makes of them for this direction");
  return true;
}

// The limits of a shape: what the kernels add and multiply has to fit into 64 bits.
void check_settings(int64_t kernel, int64_t padding, int64_t dilation) {
  constexpr int64_t kMost = int64_t{1} << 31;
  STD_TORCH_CHECK(kernel >= 1 && kernel < kMost, "kernel is ", kernel, "; expected at least 1");
  STD_TORCH_CHECK(padding >= 0 && padding < kMost, "padding is ", padding, "; expected at least 0");
  STD_TORCH_CHECK(dilation >= 1 && dilation < kMost, "dilation is ", dilation, "; expected at least 1");
}

Tensor winograd_1d_conv(Tensor x, Tensor filter, int64_t length, int64_t channels, int64_t kernel, int64_t padding,
                        int64_t dilation, std::optional<Tensor> bias, double negative_slope, bool transposed) {
  check_sequences(x, "x");
  check_settings(kernel, padding, dilation);
  STD_TORCH_CHECK(channels > 0, "channels is ", channels, "; expected at least 1");
  const int64_t behind = dilation * (kernel - 1);  // from what the first tap reads to what the last one does
  const int64_t large = transposed ? length : x.size(2), small = transposed ? x.size(2) : length;
  // The last values of the small sequences may be missing: the transposed convolution may have an output padding.
  STD_TORCH_CHECK(small > 0 && large + 2 * padding - behind >= small, "length is ", length,
                  ", which this convolution cannot make of ", x.size(2));
  const Conv1d shape{x.size(0), x.size(1), x.size(2), channels, length, kernel, transposed ? behind - padding : padding,
                     dilation};
  const bool transformed = is_transformed(filter, shape, transposed);
  STD_TORCH_CHECK(
      !bias || (bias->scalar_type() == ScalarType::Float && bias->is_contiguous() && bias->numel() == channels),
      "bias: expected (", channels, ",), float32 and contiguous");
  const auto& kernels = winograd_1d_kernels(isa_in_use());
  Tensor y = torch::stable::new_empty(x, {x.size(0), channels, length});
  advise_huge_pages(y.mutable_data_ptr(), y.numel() * 4);
  // New memory for a large filter at each call would cost more time than its transform.
  const Scratch scratch(transformed ? 0 : kernels.filter_size(kernel, shape.in_channels, channels));
  if (!transformed)
    kernels.transform_filter(kernel, shape.in_channels, channels, weight_of(filter, transposed), scratch.data(),
                             &torch_parallel);
  kernels.convolve(shape, data_of(x), transformed ? data_of(filter) + kHeader : scratch.data(),
                   bias ? data_of(*bias) : nullptr, static_cast<float>(negative_slope),
                   static_cast<float*>(y.mutable_data_ptr()), &torch_parallel);
  return y;
}

Tensor winograd_1d_weight_gradient(Tensor x, Tensor grad, int64_t kernel, int64_t padding, int64_t dilation) {
  check_sequences(x, "x");
  check_sequences(grad, "grad");
  check_settings(kernel, padding, dilation);
  STD_TORCH_CHECK(x.size(0) == grad.size(0), "x and grad: expected one batch, found ", x.size(0), " and ",
                  grad.size(0));
  STD_TORCH_CHECK(x.size(2) + 2 * padding - dilation * (kernel - 1) >= grad.size(2), "grad has length ", grad.size(2),
                  ", which this convolution cannot make of ", x.size(2));
  Tensor gradient = torch::stable::new_empty(x, {grad.size(1), x.size(1), kernel});
  winograd_1d_kernels(isa_in_use())
      .weight_gradient({x.size(0), x.size(1), x.size(2), grad.size(1), grad.size(2), kernel, padding, dilation},
                       data_of(x), data_of(grad), static_cast<float*>(gradient.mutable_data_ptr()), &torch_parallel);
  return gradient;
}

}  // namespace
}  // namespace igan_fast::cpu

STABLE_TORCH_LIBRARY_IMPL(igan_fast, CPU, m) {
  m.impl("winograd_1d_filter", TORCH_BOX(&igan_fast::cpu::winograd_1d_filter));
  m.impl("winograd_1d_conv", TORCH_BOX(&igan_fast::cpu::winograd_1d_conv));
  m.impl("winograd_1d_weight_gradient", TORCH_BOX(&igan_fast::cpu::winograd_1d_weight_gradient));
}
