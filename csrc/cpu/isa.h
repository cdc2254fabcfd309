// The CPU kernels as plain functions on pointers: no torch, so that they are tested and sanitised on their own.
// Each is compiled for several instruction sets; kernels() gives the best that this CPU runs.

#pragma once

#include <cstdint>

#include "../shared/pair.h"

namespace igan_fast::cpu {

// A loop over [begin, end) in parallel, in chunks of at least `grain`; torch's, or a test's own.
using Body = void (*)(int64_t begin, int64_t end, void* context);
using ParallelFor = void (*)(int64_t begin, int64_t end, int64_t grain, Body body, void* context);

// Per-channel parameters in the compute type; weight and bias hold 1 and 0 where the caller gave none.
template <typename Acc>
struct NormParams {
  const Acc* weight;
  const Acc* bias;
  Acc eps, slope;
};

template <typename Acc>
struct NormKernels {
  // mean, var: (groups, channels), written.
  void (*forward)(const NormShape&, Dtype, const void* x, const NormParams<Acc>&, void* y, Acc* mean, Acc* var,
                  ParallelFor);
  // mean, var: (channels,), given.
  void (*inference)(const NormShape&, Dtype, const void* x, const NormParams<Acc>&, const Acc* mean, const Acc* var,
                    void* y, ParallelFor);
  // mean, var: (groups, channels). dweight, dbias: (channels,), written. batch_statistics: else mean and var are
  // constants.
  void (*backward)(const NormShape&, Dtype, const void* grad, const void* x, const NormParams<Acc>&, const Acc* mean,
                   const Acc* var, bool batch_statistics, void* dx, Acc* dweight, Acc* dbias, ParallelFor);
};

// A convolution from a large image to a small one, channels last in memory: value i of the small one, in each
// direction, is a sum over the large one's values stride·i − padding + k, k < kernel, as far as there are any. And its
// transpose, from the small image to the large one.
struct ConvShape {
  int64_t batch, large_height, large_width, large_channels, small_height, small_width, small_channels, padding;
};

// Of the weights (small channels, large channels, kernel, kernel), in elements.
struct FilterStrides {
  int64_t small, large, row, column;
};

// By minimal filtering, on tiles of tile × tile values of the small image; Float.
struct WinogradKernels {
  int kernel, stride, tile;
  // Floats of a prepared filter, for the convolution or for its transpose.
  int64_t (*filter_size)(int64_t small_channels, int64_t large_channels, bool transposed);
  void (*make_filter)(int64_t small_channels, int64_t large_channels, const FilterStrides&, const float* weight,
                      bool transposed, float* filter, ParallelFor);
  // LeakyReLU(large ∗ filter + bias); bias (channels,) or null, slope 1 for no activation.
  void (*convolve)(const ConvShape&, const float* large, const float* filter, const float* bias, float slope,
                   float* small, ParallelFor);
  void (*convolve_transposed)(const ConvShape&, const float* small, const float* filter, const float* bias, float slope,
                              float* large, ParallelFor);
  void (*weight_gradient)(const ConvShape&, const FilterStrides&, const float* large, const float* small,
                          float* gradient, ParallelFor);
};

struct Kernels {
  const char* isa;
  // sums[i] = Σ|fakeᵢ − realᵢ|; writes the codes of pairs that have room for them.
  void (*feature_l1)(const Pair* pairs, int64_t count, double* sums, ParallelFor);
  // outᵢ[k] = scaleᵢ · codeᵢ[k]
  void (*feature_l1_backward)(const SignedFill* fills, int64_t count, ParallelFor);
  NormKernels<float> norm;          // Half, BFloat16, Float
  NormKernels<double> norm_double;  // Double
  WinogradKernels winograd[8];      // every filter and tile that there is
};

// The best for this CPU, at most what IGAN_FAST_CPU_ISA (baseline, avx2, avx512) allows.
const Kernels& kernels();
// By name; null where this build or this CPU has it not.
const Kernels* kernels(const char* isa);
const char* isa_in_use();
const char* isas_compiled();

}  // namespace igan_fast::cpu
