// The division of a tensor (groups, rows, channels, inner) among blocks and threads in norm_act's kernels. It depends
// only on the shape and on the alignment of the tensors.
//
//   channels_last (inner = 1)   A block has up to 32 · V neighbouring channels of one group. A thread has V of them,
//                               and reads their values in one row of a segment at each step.
//   contiguous (inner > 1)      A block has one channel of one group. A thread reads V neighbouring values of it at
//                               each step.

#pragma once

#include <algorithm>
#include <climits>
#include <cstring>

#include "cuda/device.cuh"
#include "ops/norm_act/shape.h"

namespace igan_fast::cuda {

constexpr int kMinBlocks = 2048;  // several for each multiprocessor of any device
constexpr int kMaxInFlight = 8;   // loads that a thread starts before it uses the first

struct Partition {
  NormShape shape;
  int across;        // channels_last: threads side by side in a block; contiguous: 1
  int64_t segments;  // into which the steps are divided
  int64_t steps;     // channels_last: rows; contiguous: vectors of a channel
  int64_t per_segment;
  int64_t slices;  // channels_last: blocks side by side; contiguous: channels

  dim3 grid() const {
    return dim3(static_cast<unsigned>(segments), static_cast<unsigned>(slices), static_cast<unsigned>(shape.groups));
  }
};

template <typename T, int V>
Partition partition_of(const NormShape& s, bool channels_last) {
  Partition partition{s, 1, 1, 0, 0, 0};
  if (channels_last) {
    const int64_t vectors = (s.channels + V - 1) / V;
    while (partition.across < kWarp && partition.across < vectors) partition.across *= 2;
    partition.slices = (vectors + partition.across - 1) / partition.across;
    partition.steps = s.rows;
  } else {
    partition.slices = s.channels;
    partition.steps = s.rows * (s.inner / V);
  }
  const int64_t in_flight = kThreads / partition.across * kMaxInFlight;  // steps of a block
  const int64_t most = (partition.steps + in_flight - 1) / in_flight;
  const int64_t wanted = (kMinBlocks + partition.slices * s.groups - 1) / (partition.slices * s.groups);
  partition.per_segment = (partition.steps + std::min(most, wanted) - 1) / std::min(most, wanted);
  partition.segments = (partition.steps + partition.per_segment - 1) / partition.per_segment;
  STD_TORCH_CHECK(
      partition.steps <= INT_MAX - kThreads * kMaxInFlight && partition.slices <= 65535 && s.groups <= 65535,
      "x has too many values, channels or groups for one launch");
  return partition;
}

// The steps of one thread in its segment: step, step + stride, … below end.
template <int V, bool kChannelsLast>
struct ThreadPath {
  static constexpr int kChannels = kChannelsLast ? V : 1;  // of the thread
  int64_t base, channel, row_stride;
  int step, stride, end;  // less than 2^31, whatever the size of the tensor
  unsigned per_row;
  bool in_range;  // false for threads past the last channel

  __device__ ThreadPath(const Partition& partition, int64_t segment) {
    const NormShape& s = partition.shape;
    const int64_t group = block_z();
    row_stride = s.channels * s.inner;
    base = group * s.rows * row_stride;
    const int64_t first = segment * partition.per_segment;
    end = static_cast<int>(first + partition.per_segment < partition.steps ? first + partition.per_segment
                                                                           : partition.steps);
    if (kChannelsLast) {
      channel = (block_y() * partition.across + threadIdx.x % partition.across) * V;
      in_range = channel < s.channels;
      step = static_cast<int>(first + threadIdx.x / partition.across);
      stride = kThreads / partition.across;
      base += channel;
      per_row = 1;
    } else {
      channel = block_y();
      in_range = true;
      step = static_cast<int>(first + threadIdx.x);
      stride = kThreads;
      base += channel * s.inner;
      per_row = static_cast<unsigned>(s.inner / V);
    }
  }
  // The offset of a step's vector.
  __device__ int64_t at(int s) const {
    if (kChannelsLast) return base + s * row_stride;
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

// The value of the lane `distance` lanes further on, in four-byte words.
template <typename Value>
__device__ inline Value from_lane(const Value& value, int distance) {
  constexpr int kWords = static_cast<int>(sizeof(Value) / sizeof(unsigned));
  unsigned words[kWords];
  memcpy(words, &value, sizeof(Value));
#pragma unroll
  for (int w = 0; w < kWords; ++w) words[w] = __shfl_down_sync(kFullWarp, words[w], distance);
  Value other;
  memcpy(&other, words, sizeof(Value));
  return other;
}

// Combines the values of all threads of a block that work on the same channel, in a fixed order: first those of a warp,
// then those of the warps. The numbers of these threads differ by multiples of `across`. Afterwards thread i holds the
// results of its channels, for i < across.
template <typename Value, int kChannels, typename Combine>
__device__ void combine_block(Value (&values)[kChannels], int across, const Combine& combine) {
#pragma unroll
  for (int v = 0; v < kChannels; ++v)
    for (int distance = kWarp / 2; distance >= across; distance /= 2) {
      const Value other = from_lane(values[v], distance);
      combine(values[v], other);
    }
  constexpr int kAtOnce = kChannels < 4 ? kChannels : 4;  // channels of a thread that fit into 20 KB
  constexpr int kShared = kAtOnce * kThreads;
  __shared__ Value shared[kShared];  // (channel, warp, lane)
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarp, lane = thread % kWarp;
#pragma unroll
  for (int first = 0; first < kChannels; first += kAtOnce) {
    if (lane < across)
#pragma unroll
      for (int v = 0; v < kAtOnce; ++v) shared[v * kThreads + thread] = values[first + v];
    __syncthreads();
    // One thread for each value that is left of a warp.
    if (warp < kAtOnce && lane < across)
      for (int w = 1; w < kWarps; ++w)
        combine(shared[warp * kThreads + lane], shared[warp * kThreads + w * kWarp + lane]);
    __syncthreads();
    if (thread < across)
#pragma unroll
      for (int v = 0; v < kAtOnce; ++v) values[first + v] = shared[v * kThreads + thread];
    if (first + kAtOnce < kChannels) __syncthreads();
  }
}

// The index of this block's result for a channel, in an array (groups, channels, segments).
__device__ inline int64_t result_at(const Partition& partition, int64_t channel) {
  return (block_z() * partition.shape.channels + channel) * partition.segments + block_x();
}

inline unsigned blocks_for(int64_t tasks, int64_t per_block) {
  return static_cast<unsigned>((tasks + per_block - 1) / per_block);
}

// Calls function(T{}, V, channels_last): a value of the type of dtype; the size of the largest vector that shape and
// pointers allow; and whether the layout is channels_last. All three are known at compile time.
template <typename Function>
void with_layout(Dtype dtype, const NormShape& s, bool aligned, const Function& function) {
  with_type(dtype, [&](auto type) {
    constexpr int kWide = kVector<decltype(type)>;
    using One = std::integral_constant<int, 1>;
    using Wide = std::integral_constant<int, kWide>;
    if (s.inner == 1)
      (aligned && s.channels % kWide == 0) ? function(type, Wide{}, std::true_type{})
                                           : function(type, One{}, std::true_type{});
    else
      (aligned && s.inner % kWide == 0) ? function(type, Wide{}, std::false_type{})
                                        : function(type, One{}, std::false_type{});
  });
}

}  // namespace igan_fast::cuda
