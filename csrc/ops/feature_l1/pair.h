// What the CPU's and the CUDA kernels of feature_l1 take: plain data, no torch.

#pragma once

#include <cstdint>

namespace igan_fast {

enum class Dtype : uint8_t { Half, BFloat16, Float, Double };

constexpr int64_t size_of(Dtype dtype) { return dtype == Dtype::Double ? 8 : dtype == Dtype::Float ? 4 : 2; }

constexpr int kMaxDims = 8;
constexpr int64_t kCodeGroup = 64;  // elements whose codes, two bits each, are kept together
constexpr int64_t kCodeBytes = 16;

constexpr int64_t code_bytes(int64_t numel) { return (numel + kCodeGroup - 1) / kCodeGroup * kCodeBytes; }

// One side of a pair in the pair's iteration order: dims outermost first, strides in elements.
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
  uint8_t* codes;  // code_bytes(numel), or null
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
#if defined(__CUDACC__)
  __host__ __device__
#endif
      int64_t values() const {
    return rows * inner;
  }  // per group and channel
};

}  // namespace igan_fast
