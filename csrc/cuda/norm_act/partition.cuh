// How norm_act's kernels walk a tensor: (groups, rows, channels, inner), see shared/pair.h.
//
// A block works on one segment of one group's values. By columns (inner = 1, channels last in memory) a thread keeps to
// V neighbouring channels and goes down the rows; by runs (inner > 1) the block keeps to one channel and a thread takes
// V neighbouring values of it at a time. The partition depends on the shape alone.

#pragma once

#include "device.cuh"

namespace igan_fast::cuda {

constexpr int kBlocksWanted = 2048;  // several for each multiprocessor of any device
constexpr int kBatch = 8;            // accesses of a thread in flight at once

struct Walk {
  NormShape shape;
  int across;        // by columns: threads side by side
  int64_t segments;  // of a group's steps
  int64_t steps;     // by columns: rows; by runs: vectors of a channel
  int64_t per_segment;
  int64_t slices;  // by columns: blocks side by side; by runs: channels

  dim3 grid() const {
    return dim3(static_cast<unsigned>(segments), static_cast<unsigned>(slices), static_cast<unsigned>(shape.groups));
  }
};

template <typename T, int V>
Walk walk_of(const NormShape& s, bool by_columns) {
  Walk walk{s, 1, 1, 0, 0, 0};
  if (by_columns) {
    const int64_t vectors = (s.channels + V - 1) / V;
    while (walk.across < kWarp && walk.across < vectors) walk.across *= 2;
    walk.slices = (vectors + walk.across - 1) / walk.across;
    walk.steps = s.rows;
  } else {
    walk.slices = s.channels;
    walk.steps = s.rows * (s.inner / V);
  }
  const int64_t at_once = kThreads / walk.across * kBatch;  // steps of a block in one go
  const int64_t most = (walk.steps + at_once - 1) / at_once;
  const int64_t wanted = (kBlocksWanted + walk.slices * s.groups - 1) / (walk.slices * s.groups);
  walk.per_segment = (walk.steps + std::min(most, wanted) - 1) / std::min(most, wanted);
  walk.segments = (walk.steps + walk.per_segment - 1) / walk.per_segment;
  STD_TORCH_CHECK(walk.steps <= INT_MAX - kThreads * kBatch && walk.slices <= 65535 && s.groups <= 65535,
                  "x has too many values, channels or groups for one launch");
  return walk;
}

// One thread's way through its segment.
template <int V, bool kColumns>
struct Path {
  static constexpr int kChannels = kColumns ? V : 1;  // of one thread
  int64_t base, channel, row_stride;
  int step, stride, end;  // less than 2^31, whatever the size of the tensor
  unsigned per_row;
  bool works;

  __device__ Path(const Walk& walk, int64_t segment) {
    const NormShape& s = walk.shape;
    const int64_t group = block_z();
    row_stride = s.channels * s.inner;
    base = group * s.rows * row_stride;
    const int64_t first = segment * walk.per_segment;
    end = static_cast<int>(first + walk.per_segment < walk.steps ? first + walk.per_segment : walk.steps);
    if (kColumns) {
      channel = (block_y() * walk.across + threadIdx.x % walk.across) * V;
      works = channel < s.channels;
      step = static_cast<int>(first + threadIdx.x / walk.across);
      stride = kThreads / walk.across;
      base += channel;
      per_row = 1;
    } else {
      channel = block_y();
      works = true;
      step = static_cast<int>(first + threadIdx.x);
      stride = kThreads;
      base += channel * s.inner;
      per_row = static_cast<unsigned>(s.inner / V);
    }
  }
  // Where the vector of a step begins.
  __device__ int64_t at(int s) const {
    if (kColumns) return base + s * row_stride;
    const unsigned row = static_cast<unsigned>(s) / per_row;
    return base + row * row_stride + static_cast<int64_t>(static_cast<unsigned>(s) - row * per_row) * V;
  }
};

template <typename T, int V>
__device__ Pack<T, V> load(const T* from) {
  return *reinterpret_cast<const Pack<T, V>*>(from);
}

template <typename T, int V>
__device__ void store(T* to, const Pack<T, V>& pack) {
  *reinterpret_cast<Pack<T, V>*>(to) = pack;
}

// A tensor of (C,) in any dtype, or nothing.
struct Vector {
  const void* data;
  Dtype dtype;
  int64_t stride;
  double missing;
  __device__ double operator[](int64_t c) const { return data ? read(data, dtype, c * stride) : missing; }
};

inline Vector vector_of(const std::optional<Tensor>& tensor, int64_t count, double missing, const char* what) {
  if (!tensor) return {nullptr, Dtype::Float, 0, missing};
  STD_TORCH_CHECK(tensor->dim() == 1 && tensor->numel() == count, what, " has ", tensor->numel(), " values; expected ",
                  count);
  return {tensor->const_data_ptr(), dtype_of(*tensor, what), tensor->stride(0), missing};
}

// What a channel's values go through: z = (x − mean)·scale + bias, computed by the same instructions forward and
// backward.
struct Settings {
  Vector weight, bias, mean, var;
  double eps, slope;
  int64_t statistics_stride;  // from one group's statistics to the next's; 0 where all share them
};

template <typename A>
struct Affine {
  A mean, scale, bias, invstd;
  __device__ Affine(const Settings& settings, int64_t group, int64_t c) {
    const int64_t at = group * settings.statistics_stride + c;
    mean = static_cast<A>(settings.mean[at]);
    invstd = rsqrt(static_cast<A>(settings.var[at] + settings.eps));
    scale = static_cast<A>(settings.weight[c]) * invstd;
    bias = static_cast<A>(settings.bias[c]);
  }
  __device__ A z(A centred) const { return fma(centred, scale, bias); }
};

}  // namespace igan_fast::cuda
