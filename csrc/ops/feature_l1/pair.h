// The arguments of feature_l1's kernels on both devices, as plain data without torch.
//
// The backward needs only the sign of each difference fake − real. The forward saves the signs as a sign mask of 2 bits
// per element: "positive" and "negative". Neither bit is set where the difference is 0 or NaN. A group of 64 elements
// has 16 bytes. A mask is read only on the device that wrote it. The order of the bytes is therefore free:
//
//   CPU    bytes 0 to 7 are the positive bits, bytes 8 to 15 the negative ones; element k is bit k % 8 of byte k / 8.
//   CUDA   bytes 2j and 2j + 1 are the positive and the negative bits of elements 8j to 8j + 7.
//
// Example: of 64 differences, number 0 is 0.5, number 1 is −2, number 9 is 3, and all others are 0. Three bytes are not
// 0:
//
//          0 is positive          9 is positive          1 is negative
//   CPU    byte 0 = 0b00000001    byte 1 = 0b00000010    byte 8 = 0b00000010
//   CUDA   byte 0 = 0b00000001    byte 2 = 0b00000010    byte 1 = 0b00000010
//
// The last group of a tensor has 16 bytes even where it has fewer elements. The bits of the others are 0.

#pragma once

#include "ops/dtype.h"

namespace igan_fast {

constexpr int kMaxDims = 8;
constexpr int64_t kMaskGroup = 64;  // elements
constexpr int64_t kMaskGroupBytes = 16;

// The size of the sign mask of a tensor.
constexpr int64_t mask_bytes(int64_t numel) { return (numel + kMaskGroup - 1) / kMaskGroup * kMaskGroupBytes; }

// One tensor of a pair. Dims are in the pair's iteration order, outermost first; strides count elements.
struct Strided {
  const void* data;
  Dtype dtype;
  bool linear;  // whether the iteration order is the order in memory, without gaps
  int64_t strides[kMaxDims];
};

struct Pair {
  Strided fake, real;
  int ndim;
  int64_t sizes[kMaxDims];
  int64_t numel;
  uint8_t* sign_mask;  // mask_bytes(numel) bytes, in the iteration order; null if no mask is saved
};

// One output of feature_l1_backward: out[k] = scale · sign of difference k.
struct SignedFill {
  void* out;
  Dtype dtype;
  int64_t numel;
  const uint8_t* sign_mask;
  double scale;
};

}  // namespace igan_fast
