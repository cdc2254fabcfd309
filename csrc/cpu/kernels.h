// The CPU kernels as plain functions on pointers: no torch, so that they are tested and sanitised on their own.
// Each is compiled for several instruction sets; kernels() gives the best that this CPU runs.

#pragma once

#include <cstdint>

namespace igan_fast::cpu {

enum class Dtype : uint8_t { Half, BFloat16, Float, Double };

constexpr int64_t size_of(Dtype dtype) { return dtype == Dtype::Double ? 8 : dtype == Dtype::Float ? 4 : 2; }

// A loop over [begin, end) in parallel, in chunks of at least `grain`; torch's, or a test's own.
using Body = void (*)(int64_t begin, int64_t end, void* context);
using ParallelFor = void (*)(int64_t begin, int64_t end, int64_t grain, Body body, void* context);

constexpr int kMaxDims = 8;

// One side of a pair in the pair's iteration order (see feature_l1.inl): dims outermost first, strides in elements.
struct Strided {
  const void* data;
  Dtype dtype;
  bool linear;  // the order is that of memory: strides are not looked at
  int64_t strides[kMaxDims];
};

struct Pair {
  Strided fake, real;
  int ndim;
  int64_t sizes[kMaxDims];
  int64_t numel;
  uint8_t* codes;  // 16 bytes per 64 elements, or null
};

// One output of feature_l1's backward.
struct SignedFill {
  void* out;
  Dtype dtype;
  int64_t numel;
  const uint8_t* codes;
  double scale;
};

// norm_act's view of a tensor: (groups, rows, channels, inner), dense. A contiguous (N, C, *spatial) has a row per
// image and its spatial values inside; with channels last it has a row per image and place, and one value inside.
struct NormShape {
  int64_t groups, rows, channels, inner;
  int64_t values() const { return rows * inner; }  // per group and channel
};

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

struct Kernels {
  const char* isa;
  // sums[i] = Σ|fakeᵢ − realᵢ|; writes the codes of pairs that have room for them.
  void (*feature_l1)(const Pair* pairs, int64_t count, double* sums, ParallelFor);
  // outᵢ[k] = scaleᵢ · codeᵢ[k]
  void (*feature_l1_backward)(const SignedFill* fills, int64_t count, ParallelFor);
  NormKernels<float> norm;          // Half, BFloat16, Float
  NormKernels<double> norm_double;  // Double
};

// The best for this CPU, at most what IGAN_FAST_CPU_ISA (baseline, avx2, avx512) allows.
const Kernels& kernels();
// By name; null where this build or this CPU has it not.
const Kernels* kernels(const char* isa);
const char* isa_in_use();
const char* isas_compiled();

}  // namespace igan_fast::cpu
