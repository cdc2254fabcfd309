// Batched transposes, which convert feature maps from contiguous to channels_last and back. PyTorch's copy reads or
// writes one of the two tensors value by value, and each value is in another cache line.

#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/isa.h"

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace igan_fast::cpu {

constexpr int64_t kSquare = 4;            // a square of 4 × 4 values is transposed in registers
constexpr int64_t kLine = 16;             // values of a cache line; a tile of kLine × kLine writes whole lines
constexpr int64_t kMinPerThread = 16384;  // values; another thread does not pay off for less work

inline void transpose_square(const float* in, int64_t in_row, float* out, int64_t out_row) {
#if defined(__SSE2__)
  __m128 a = _mm_loadu_ps(in), b = _mm_loadu_ps(in + in_row), c = _mm_loadu_ps(in + 2 * in_row),
         d = _mm_loadu_ps(in + 3 * in_row);
  _MM_TRANSPOSE4_PS(a, b, c, d);
  _mm_storeu_ps(out, a);
  _mm_storeu_ps(out + out_row, b);
  _mm_storeu_ps(out + 2 * out_row, c);
  _mm_storeu_ps(out + 3 * out_row, d);
#else
  for (int64_t r = 0; r < kSquare; ++r)
    for (int64_t c = 0; c < kSquare; ++c) out[c * out_row + r] = in[r * in_row + c];
#endif
}

inline void transpose_tile(const float* in, int64_t rows, int64_t columns, int64_t in_row, float* out,
                           int64_t out_row) {
  for (int64_t c = 0; c < columns; c += kSquare)
    for (int64_t r = 0; r < rows; r += kSquare) {
      const float* from = in + r * in_row + c;
      float* to = out + c * out_row + r;
      if (r + kSquare <= rows && c + kSquare <= columns) {
        transpose_square(from, in_row, to, out_row);
        continue;
      }
      for (int64_t i = 0; i < std::min(kSquare, rows - r); ++i)
        for (int64_t j = 0; j < std::min(kSquare, columns - c); ++j) to[j * out_row + i] = from[i * in_row + j];
    }
}

// (batch, rows, columns) → (batch, columns, rows), both contiguous.
inline void transpose(int64_t batch, int64_t rows, int64_t columns, const float* in, float* out,
                      ParallelFor parallel_for) {
  struct Work {
    int64_t rows, columns, tiles_across;
    const float* in;
    float* out;
  } work{rows, columns, (columns + kLine - 1) / kLine, in, out};
  const auto body = [](int64_t begin, int64_t end, void* context) {
    const Work w = *static_cast<const Work*>(context);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / w.tiles_across * w.rows * w.columns, column = task % w.tiles_across * kLine;
      for (int64_t row = 0; row < w.rows; row += kLine)
        transpose_tile(w.in + image + row * w.columns + column, std::min(kLine, w.rows - row),
                       std::min(kLine, w.columns - column), w.columns, w.out + image + column * w.rows + row, w.rows);
    }
  };
  parallel_for(0, batch * work.tiles_across, std::max<int64_t>(kMinPerThread / (rows * kLine), 1), body, &work);
}

}  // namespace igan_fast::cpu
