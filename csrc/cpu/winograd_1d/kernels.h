// The CPU kernels of the one-dimensional Winograd convolution as plain functions on pointers. They do not need torch,
// so tests can call them directly. igan_fast/ops/convolution/winograd_1d.py decides when they are used; kernels.inl
// explains them.

#pragma once

#include "cpu/isa.h"

namespace igan_fast::cpu {

// A convolution of stride 1 from `in` (batch, in channels, in length) to `out` (batch, out channels, out length), both
// contiguous float32. Value i of the output is Σ w[k] · in[i − padding + dilation·k] over k < kernel, where the input
// is 0 outside. The padding may be negative.
struct Conv1d {
  int64_t batch, in_channels, in_length, out_channels, out_length, kernel, padding, dilation;
};

// Weights of a Conv1d: their strides, in elements. The taps are in reverse order if `reversed`.
struct Weight1d {
  const float* data;
  int64_t out, in, tap;
  bool reversed;
};

// The filters that F(4, taps) computes together, and how many such filters the taps of a filter are divided into.
struct Parts {
  int taps;
  int64_t count;
};

// The fewest multiplications: 4 outputs of each part take 3 + taps.
Parts parts_of(int64_t kernel);

struct Winograd1dKernels {
  // The number of floats of a transformed filter.
  int64_t (*filter_size)(int64_t kernel, int64_t in_channels, int64_t out_channels);
  // The filter transform. convolve takes its result.
  void (*transform_filter)(int64_t kernel, int64_t in_channels, int64_t out_channels, const Weight1d&, float* filter,
                           ParallelFor);
  // out = LeakyReLU(in ∗ filter + bias). bias is (out channels,) or null; slope 1 means no activation.
  void (*convolve)(const Conv1d&, const float* in, const float* filter, const float* bias, float slope, float* out,
                   ParallelFor);
  // The gradient of the weights, (out channels, in channels, kernel), contiguous, from that of the output.
  void (*weight_gradient)(const Conv1d&, const float* in, const float* out, float* gradient, ParallelFor);
};

const Winograd1dKernels& winograd_1d_kernels(Isa isa);

}  // namespace igan_fast::cpu
