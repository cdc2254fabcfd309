// The CPU kernels of the one-dimensional Winograd convolution as plain functions on pointers. They do not need torch,
// so tests can call them directly. igan_fast/ops/convolution/winograd_1d.py decides when they are used; kernels.inl
// explains them.

#pragma once

#include "cpu/isa.h"

namespace igan_fast::cpu {

// A convolution from large arrays (batch, large channels, large length) to small ones, both contiguous float32. Each
// array consists of `interleaved` sequences, the values of which lie in turn. Value i of sequence q of a small one is
// Σ w[k] · large[q + interleaved · (stride · i + k) − padding] over k < kernel, where the large one is 0 outside. The
// transposed convolution goes from the small ones to the large ones. Padding is a multiple of `interleaved` unless the
// stride is 1. The channels of both are divided into groups.
//
// A convolution of dilation d and stride 1 has d interleaved sequences; so has one along the height of images of width
// d.
struct Conv1d {
  int64_t batch, large_channels, large_length, small_channels, small_length;
  int64_t kernel, stride, padding, interleaved, groups;
};

// Weights (small channels, large channels of a group, kernel): their strides, in elements.
struct Weight1d {
  const float* data;
  int64_t small, large, tap;
};

// The filters that F(4, taps) computes together, and how many such filters the taps of a filter are divided into.
struct Parts {
  int taps;
  int64_t count;
};

// Those with the fewest multiplications: 4 outputs of each part take 3 + taps.
Parts parts_of(int64_t kernel);

struct Winograd1dKernels {
  // The number of floats of a transformed filter, for the convolution or for the transposed one. The batch and the
  // lengths do not count, here and in transform_filter.
  int64_t (*filter_size)(const Conv1d&, bool transposed);
  // The filter transform. convolve takes its result.
  void (*transform_filter)(const Conv1d&, const Weight1d&, bool transposed, float* filter, ParallelFor);
  // out = LeakyReLU(in ∗ filter + bias). bias is (channels of out,) or null; slope 1 means no activation.
  void (*convolve)(const Conv1d&, bool transposed, const float* in, const float* filter, const float* bias, float slope,
                   float* out, ParallelFor);
  // The gradient of the weights (small channels, large channels of a group, kernel), contiguous.
  void (*weight_gradient)(const Conv1d&, const float* large, const float* small, float* gradient, ParallelFor);
};

const Winograd1dKernels& winograd_1d_kernels(Isa isa);

}  // namespace igan_fast::cpu
