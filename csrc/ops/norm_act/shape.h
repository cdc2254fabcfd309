// The shape of a tensor for norm_act's kernels. This header does not include torch.

#pragma once

#include <cstdint>

namespace igan_fast {

// A dense tensor (N, C, *spatial) seen as (groups, rows, channels, inner). Each group of images has its own statistics.
// Contiguous: a row is an image, and inner counts its spatial positions. channels_last: a row is one position of an
// image, and inner is 1.
struct NormShape {
  int64_t groups, rows, channels, inner;
  int64_t image_rows = 1;  // rows of an image

#if defined(__CUDACC__)
  __host__ __device__
#endif
      int64_t values() const {
    return rows * inner;
  }  // per group and channel

  // The same tensor with every image as a group.
  NormShape of_images() const { return {groups * (rows / image_rows), image_rows, channels, inner, image_rows}; }
};

}  // namespace igan_fast
