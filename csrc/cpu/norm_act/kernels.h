// norm_act's CPU kernels as plain functions on pointers. They do not need torch, so tests can call them directly.

#pragma once

#include "cpu/isa.h"
#include "ops/dtype.h"
#include "ops/norm_act/shape.h"

namespace igan_fast::cpu {

// Per-channel parameters in the compute type. The caller fills in weight 1 and bias 0 where the layer has none.
template <typename Acc>
struct NormParams {
  const Acc* weight;
  const Acc* bias;
  Acc eps, slope;
  const Acc* film = nullptr;  // (images, 2, channels): the scale minus 1, and the shift; or none
};

// Σ dz and Σ dz·(x − mean) of one group and channel, where dz is the gradient of z, the LeakyReLU's input.
struct GradientSums {
  double dz = 0, dz_x = 0;
};

template <typename Acc>
struct NormKernels {
  // Writes mean and var, (groups, channels).
  void (*forward)(const NormShape&, Dtype, const void* x, const NormParams<Acc>&, void* y, Acc* mean, Acc* var,
                  ParallelFor);
  // The first half of forward: writes mean and var, (groups, channels).
  void (*statistics)(const NormShape&, Dtype, const void* x, Acc* mean, Acc* var, ParallelFor);
  // The second half of forward, by any statistics: reads mean and var, (groups, channels).
  void (*inference)(const NormShape&, Dtype, const void* x, const NormParams<Acc>&, const Acc* mean, const Acc* var,
                    void* y, ParallelFor);
  // Reads mean and var, (groups, channels): statistics of x with batch_statistics, else constants. Writes dweight and
  // dbias, (channels,); and with film its gradient dfilm, (images, 2, channels).
  void (*backward)(const NormShape&, Dtype, const void* grad, const void* x, const NormParams<Acc>&, const Acc* mean,
                   const Acc* var, bool batch_statistics, void* dx, Acc* dweight, Acc* dbias, Acc* dfilm, ParallelFor);
  // The first half of backward: writes sums, (groups, channels), and dfilm.
  void (*sums)(const NormShape&, Dtype, const void* grad, const void* x, const NormParams<Acc>&, const Acc* mean,
               const Acc* var, GradientSums* sums, Acc* dfilm, ParallelFor);
  // The second half of backward, with batch_statistics: reads sums, (groups, channels), over `count` values each.
  void (*gradient)(const NormShape&, Dtype, const void* grad, const void* x, const NormParams<Acc>&, const Acc* mean,
                   const Acc* var, const GradientSums* sums, double count, void* dx, ParallelFor);
};

// Acc is the compute type: float for Half, BFloat16 and Float; double for Double.
template <typename Acc>
const NormKernels<Acc>& norm_act_kernels(Isa isa);

}  // namespace igan_fast::cpu
