// The division of feature_l1's pairs of tensors, or of the outputs of its backward, into launches and blocks.

#pragma once

#include <climits>

#include "cuda/device.cuh"
#include "ops/feature_l1/pairs.h"

namespace igan_fast::cuda {

// A thread reads kPerThread neighbouring elements in each of kSteps steps. The sign mask of a step is 2 bytes.
constexpr int kPerThread = 8;
constexpr int kSteps = 4;
constexpr int64_t kBlock = kThreads * kPerThread * kSteps;
constexpr int kMaxPairs = 12;  // of one launch; a kernel's parameters have at most 4 KiB

// The items of one launch. It is a kernel parameter: no copy to the device is needed, and a CUDA graph can capture the
// call.
template <typename Item>
struct Batch {
  Item items[kMaxPairs];
  int64_t starts[kMaxPairs + 1];  // item i has the blocks [starts[i], starts[i + 1])
  int count;
};

static_assert(sizeof(Batch<Pair>) <= 4096 - 64, "kernel parameters are limited to 4 KiB");

// The items from `first` on, as many as one launch takes.
template <typename Item>
Batch<Item> batch_of(const std::vector<Item>& items, size_t first) {
  Batch<Item> batch{};
  for (size_t i = first; i < items.size() && batch.count < kMaxPairs; ++i, ++batch.count) {
    batch.items[batch.count] = items[i];
    batch.starts[batch.count + 1] = batch.starts[batch.count] + (items[i].numel + kBlock - 1) / kBlock;
  }
  return batch;
}

// The item that a block belongs to.
template <typename Item>
__device__ int item_of(const Batch<Item>& batch, int64_t block) {
  int i = 0;
  while (block >= batch.starts[i + 1]) ++i;
  return i;
}

inline unsigned grid_of(int64_t blocks) {
  STD_TORCH_CHECK(blocks <= INT_MAX, "the feature maps are too large for one launch");
  return static_cast<unsigned>(blocks);
}

}  // namespace igan_fast::cuda
