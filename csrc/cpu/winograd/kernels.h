// The CPU kernels of the Winograd convolution as plain functions on pointers. They do not need torch, so tests can call
// them directly. igan_fast/ops/convolution/winograd.py decides when they are used; kernels.inl explains them.

#pragma once

#include <array>

#include "cpu/isa.h"
#include "ops/dtype.h"

namespace igan_fast::cpu {

// A convolution from a large feature map to a small one, both (N, H, W, C). In each direction, value i of the small one
// is Σ w[k] · large[stride·i − padding + k] over k < kernel, where the large one is 0 outside. The transposed
// convolution goes from the small one to the large one.
struct ConvShape {
  int64_t batch, large_height, large_width, large_channels, small_height, small_width, small_channels, padding;
};

// Strides, in elements, of weights (small channels, large channels, kernel, kernel).
struct FilterStrides {
  int64_t small, large, row, column;
};

// A feature map or weights, of float, bfloat16 or half. All else is float, and so are all sums.
template <typename Pointer>
struct ValuesAt {
  Pointer data;
  Dtype dtype;
};
using Values = ValuesAt<const void*>;
using MutableValues = ValuesAt<void*>;

// The kernels of one filter size and stride, on tiles of tile × tile values of the small feature map.
struct WinogradKernels {
  int kernel, stride, tile;
  // The number of floats of a transformed filter, for the convolution or for the transposed one.
  int64_t (*filter_size)(int64_t small_channels, int64_t large_channels, bool transposed);
  // The filter transform. convolve and convolve_transposed take its result.
  void (*transform_filter)(int64_t small_channels, int64_t large_channels, const FilterStrides&, Values weight,
                           bool transposed, float* filter, ParallelFor);
  // small = LeakyReLU(large ∗ filter + bias). bias is (channels,) or null; slope 1 means no activation.
  void (*convolve)(const ConvShape&, Values large, const float* filter, const float* bias, float slope,
                   MutableValues small, ParallelFor);
  // The transposed convolution. bias and slope are as in convolve.
  void (*convolve_transposed)(const ConvShape&, Values small, const float* filter, const float* bias, float slope,
                              MutableValues large, ParallelFor);
  void (*weight_gradient)(const ConvShape&, const FilterStrides&, Values large, Values small, MutableValues gradient,
                          ParallelFor);
};

constexpr int kWinogradVariants = 8;
using WinogradTable = std::array<WinogradKernels, kWinogradVariants>;

// One entry for each filter size, stride and tile.
const WinogradTable& winograd_kernels(Isa isa);

}  // namespace igan_fast::cpu
