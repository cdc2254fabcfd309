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

Weight1d weight_of(const Tensor& weight) {
  return {data_of(weight), weight.stride(0), weight.stride(1), weight.stride(2)};
}

// A convolution, without its batch and lengths.
Conv1d conv_of(int64_t small_channels, int64_t large_channels, int64_t kernel, int64_t stride, int64_t padding,
               int64_t interleaved, int64_t groups) {
  constexpr int64_t kMost = (int64_t{1} << 31) - 1;
  const auto check = [&](int64_t value, const char* name, int64_t least) {
    STD_TORCH_CHECK(value >= least && value <= kMost, name, " is ", value, "; expected ", least, " to ", kMost);
  };
  check(kernel, "kernel", 1), check(stride, "stride", 1), check(padding, "padding", 0);
  check(interleaved, "interleaved", 1);
  STD_TORCH_CHECK(groups >= 1 && large_channels % groups == 0 && small_channels % groups == 0, "groups is ", groups,
                  "; expected a divisor of ", large_channels, " and ", small_channels, " channels");
  // The sizes of planes and filters have to fit into 64 bits.
  const double taps = static_cast<double>(kernel) + static_cast<double>(stride);
  STD_TORCH_CHECK(taps * static_cast<double>(large_channels) * static_cast<double>(small_channels) < 1e15,
                  "a filter of ", kernel, " taps and stride ", stride, " from ", large_channels, " to ", small_channels,
                  " channels is too large");
  return {0, large_channels, 0, small_channels, 0, kernel, stride, padding, interleaved, groups};
}

// The convolution of these lengths. The last values of the small sequences may be missing: the transposed convolution
// may have an output padding.
Conv1d with_lengths(Conv1d s, int64_t batch, int64_t large, int64_t small) {
  // With a stride all sequences are of one length; else they need not be.
  const int64_t unit = s.stride > 1 ? s.interleaved : 1, behind = s.interleaved / unit * (s.kernel - 1);
  const int64_t free = large / unit + 2 * (s.padding / unit) - behind - 1;
  const bool divisible = large % unit == 0 && small % unit == 0 && s.padding % unit == 0;
  STD_TORCH_CHECK(divisible && small >= 1 && free >= 0 && free / s.stride + 1 >= small / unit,
                  "a convolution of kernel ", s.kernel, ", stride ", s.stride, ", padding ", s.padding, " and ",
                  s.interleaved, " interleaved sequences does not take length ", large, " to ", small);
  s.batch = batch, s.large_length = large, s.small_length = small;
  return s;
}

// A header that is stored before a transformed filter. It is used to check that the filter fits a convolution.
struct FilterHeader {
  char made_by[16];  // names the instruction set: the layout depends on the size of its vectors
  int64_t kernel, stride, groups, large_channels, small_channels, transposed;

  FilterHeader(const Conv1d& s, bool transposed_)
      : made_by{},
        kernel(s.kernel),
        stride(s.stride),
        groups(s.groups),
        large_channels(s.large_channels),
        small_channels(s.small_channels),
        transposed(transposed_) {
    std::snprintf(made_by, sizeof(made_by), "1-D %s", name_of(isa_in_use()));
  }
};
constexpr int64_t kHeader = sizeof(FilterHeader) / sizeof(float);
static_assert(sizeof(FilterHeader) == 64, "a cache line");

Tensor winograd_1d_filter(Tensor weight, int64_t stride, int64_t groups, bool transposed) {
  STD_TORCH_CHECK(weight.dim() == 3 && weight.numel() > 0, "weight: expected (out, in, kernel)");
  STD_TORCH_CHECK(weight.scalar_type() == ScalarType::Float, "weight: expected float32");
  const Conv1d shape = conv_of(weight.size(0), weight.size(1) * groups, weight.size(2), stride, 0, 1, groups);
  const auto& kernels = winograd_1d_kernels(isa_in_use());
  const FilterHeader header(shape, transposed);
  Tensor filter = torch::stable::new_empty(weight, {kHeader + kernels.filter_size(shape, transposed)});
  auto* to = static_cast<float*>(filter.mutable_data_ptr());
  advise_huge_pages(to, filter.numel() * 4);
  std::memcpy(to, &header, sizeof(header));
  kernels.transform_filter(shape, weight_of(weight), transposed, to + kHeader, &torch_parallel);
  return filter;
}

// Whether `filter` is what winograd_1d_filter makes of weights, and not the weights themselves. Raises an error if it
// is neither.
bool is_transformed(const Tensor& filter, const Conv1d& s, bool transposed) {
  const int64_t second = s.large_channels / s.groups;
  if (filter.dim() == 3 && filter.scalar_type() == ScalarType::Float && filter.size(0) == s.small_channels &&
      filter.size(1) == second && filter.size(2) == s.kernel)
    return false;
  const FilterHeader header(s, transposed);
  STD_TORCH_CHECK(filter.scalar_type() == ScalarType::Float && filter.dim() == 1 && filter.is_contiguous() &&
                      filter.numel() == kHeader + winograd_1d_kernels(isa_in_use()).filter_size(s, transposed) &&
                      std::memcmp(filter.const_data_ptr(), &header, sizeof(header)) == 0,
                  "filter: expected weights (", s.small_channels, ", ", second, ", ", s.kernel,
                  "), float32, or what winograd_1d_filter makes of them for this stride, groups and direction");
  return true;
}

Tensor winograd_1d_conv(Tensor x, Tensor filter, int64_t length, int64_t channels, int64_t kernel_size, int64_t stride,
                        int64_t padding, int64_t interleaved, int64_t groups, std::optional<Tensor> bias,
                        double negative_slope, bool transposed) {
  check_sequences(x, "x");
  STD_TORCH_CHECK(channels > 0, "channels is ", channels, "; expected at least 1");
  const int64_t large_channels = transposed ? channels : x.size(1), small_channels = transposed ? x.size(1) : channels;
  const Conv1d shape =
      with_lengths(conv_of(small_channels, large_channels, kernel_size, stride, padding, interleaved, groups),
                   x.size(0), transposed ? length : x.size(2), transposed ? x.size(2) : length);
  const bool transformed = is_transformed(filter, shape, transposed);
  STD_TORCH_CHECK(
      !bias || (bias->scalar_type() == ScalarType::Float && bias->is_contiguous() && bias->numel() == channels),
      "bias: expected (", channels, ",), float32 and contiguous");
  const auto& kernels = winograd_1d_kernels(isa_in_use());
  Tensor y = torch::stable::new_empty(x, {x.size(0), channels, length});
  advise_huge_pages(y.mutable_data_ptr(), y.numel() * 4);
  // New memory for a large filter at each call would cost more time than its transform.
  const Scratch scratch(transformed ? 0 : kernels.filter_size(shape, transposed));
  if (!transformed) kernels.transform_filter(shape, weight_of(filter), transposed, scratch.data(), &torch_parallel);
  kernels.convolve(shape, transposed, data_of(x), transformed ? data_of(filter) + kHeader : scratch.data(),
                   bias ? data_of(*bias) : nullptr, static_cast<float>(negative_slope),
                   static_cast<float*>(y.mutable_data_ptr()), &torch_parallel);
  return y;
}

Tensor winograd_1d_weight_gradient(Tensor large, Tensor small, int64_t kernel_size, int64_t stride, int64_t padding,
                                   int64_t interleaved, int64_t groups) {
  check_sequences(large, "large");
  check_sequences(small, "small");
  STD_TORCH_CHECK(large.size(0) == small.size(0), "large and small: expected one batch, found ", large.size(0), " and ",
                  small.size(0));
  const Conv1d shape =
      with_lengths(conv_of(small.size(1), large.size(1), kernel_size, stride, padding, interleaved, groups),
                   large.size(0), large.size(2), small.size(2));
  Tensor gradient = torch::stable::new_empty(large, {small.size(1), large.size(1) / groups, kernel_size});
  winograd_1d_kernels(isa_in_use())
      .weight_gradient(shape, data_of(large), data_of(small), static_cast<float*>(gradient.mutable_data_ptr()),
                       &torch_parallel);
  return gradient;
}

}  // namespace
}  // namespace igan_fast::cpu

STABLE_TORCH_LIBRARY_IMPL(igan_fast, CPU, m) {
  m.impl("winograd_1d_filter", TORCH_BOX(&igan_fast::cpu::winograd_1d_filter));
  m.impl("winograd_1d_conv", TORCH_BOX(&igan_fast::cpu::winograd_1d_conv));
  m.impl("winograd_1d_weight_gradient", TORCH_BOX(&igan_fast::cpu::winograd_1d_weight_gradient));
}
