// What feature_l1's kernels take on either device: plain data, no torch.
//
// The backward needs only the sign of each difference fake − real. The forward saves it as a sign mask of 2 bits per
// element: "positive" and "negative". Neither is set where the difference is 0 or NaN. A group of 64 elements has 16
// bytes. A mask stays on its device, and each device orders the bytes as its vectors make them:
//
//   CPU    bytes 0 to 7 are the positive bits, bytes 8 to 15 the negative ones; element k is bit k % 8 of byte k / 8.
//   CUDA   bytes 2j and 2j + 1 are the positive and the negative bits of elements 8j to 8j + 7.
//
// Example: of 64 differences, number 0 is 0.5, number 1 is −2, number 9 is 3, all others are 0. The bytes that are not
// 0:
//
//   CPU    byte 0 = 0b00000001 (0 is positive), byte 1 = 0b00000010 (9 is positive), byte 8 = 0b00000010 (1 is
//   negative) CUDA   byte 0 = 0b00000001 (0 is positive), byte 1 = 0b00000010 (1 is negative), byte 2 = 0b00000010 (9
//   is positive)
//
// The last group of a tensor has 16 bytes even where it has fewer elements.

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
  bool linear;  // the iteration order is the order in memory; strides are then not read
  int64_t strides[kMaxDims];
};

struct Pair {
  Strided fake, real;
  int ndim;
  int64_t sizes[kMaxDims];
  int64_t numel;
  uint8_t* sign_mask;  // mask_bytes(numel) bytes, in the iteration order; null where none is saved
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
