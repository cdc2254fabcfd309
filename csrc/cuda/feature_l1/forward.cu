// feature_l1 forward on CUDA devices: one launch for up to kMaxPairs pairs, and a small one that adds up the sums of
// their blocks.

#include <limits>

#include "cuda/feature_l1/batch.cuh"

namespace igan_fast::cuda {
namespace {

// kPerThread elements of a linear tensor, from `first` on; those past the end are 0.
template <typename T, typename A>
__device__ __forceinline__ void load_values(const T* data, int64_t first, int64_t numel, bool aligned,
                                            A (&values)[kPerThread]) {
  if (aligned && first + kPerThread <= numel) {
    constexpr int kPacks = kPerThread / kVector<T> > 0 ? kPerThread / kVector<T> : 1, kWide = kPerThread / kPacks;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const auto pack = *reinterpret_cast<const Pack<T, kWide>*>(data + first + p * kWide);
#pragma unroll
      for (int v = 0; v < kWide; ++v) values[p * kWide + v] = static_cast<A>(wide(pack.values[v]));
    }
  } else {
#pragma unroll
    for (int v = 0; v < kPerThread; ++v) values[v] = first + v < numel ? static_cast<A>(wide(data[first + v])) : A{0};
  }
}

// The first element of element k's group in the sign mask. All 16 bytes of a group are written.
__device__ __forceinline__ int64_t group_of(int64_t k) { return k & ~(kMaskGroup - 1); }

// The offsets of element k in both tensors.
struct Offsets {
  int64_t fake, real;
};
__device__ __forceinline__ Offsets offsets_of(const Pair& pair, int64_t k) {
  Offsets offsets{0, 0};
  for (int d = pair.ndim - 1; d >= 0; --d) {
    const int64_t size = pair.sizes[d];
    int64_t index;
    if (k < INT_MAX && size < INT_MAX) {
      const unsigned rest = static_cast<unsigned>(k) / static_cast<unsigned>(size);
      index = static_cast<unsigned>(k) - rest * static_cast<unsigned>(size);
      k = rest;
    } else {
      index = k % size;
      k /= size;
    }
    offsets.fake += index * pair.fake.strides[d];
    offsets.real += index * pair.real.strides[d];
  }
  return offsets;
}

// The sum of absolute differences of a thread's elements, and their sign mask (see ops/feature_l1/pair.h).
template <typename A>
struct Differences {
  A sum = 0;
  unsigned mask = 0;  // bit v: difference v is positive; bit 8 + v: it is negative
  __device__ void add(A difference, int v) {
    sum += difference < 0 ? -difference : difference > 0 ? difference : difference * difference;  // NaN stays NaN
    mask |= (difference > 0 ? 1u << v : 0u) | (difference < 0 ? 256u << v : 0u);
  }
};

template <typename T>
__device__ __forceinline__ double sum_linear(const Pair& pair, int64_t first) {
  using A = typename AccOf<T>::type;
  const T* fake = static_cast<const T*>(pair.fake.data);
  const T* real = static_cast<const T*>(pair.real.data);
  const bool aligned = (reinterpret_cast<uintptr_t>(fake) | reinterpret_cast<uintptr_t>(real)) % 16 == 0;
  auto* mask = reinterpret_cast<uint16_t*>(pair.sign_mask);
  constexpr int kAtOnce = sizeof(T) == 2 ? kSteps : sizeof(T) == 4 ? 2 : 1;  // steps whose loads the registers hold
  A sum = 0;
  for (int begin = 0; begin < kSteps; begin += kAtOnce) {
    A fakes[kAtOnce][kPerThread], reals[kAtOnce][kPerThread];
#pragma unroll
    for (int s = 0; s < kAtOnce; ++s) {
      const int64_t at = first + ((begin + s) * kThreads + static_cast<int>(threadIdx.x)) * kPerThread;
      load_values(fake, at, pair.numel, aligned, fakes[s]);
      load_values(real, at, pair.numel, aligned, reals[s]);
    }
#pragma unroll
    for (int s = 0; s < kAtOnce; ++s) {
      const int64_t at = first + ((begin + s) * kThreads + static_cast<int>(threadIdx.x)) * kPerThread;
      Differences<A> differences;
#pragma unroll
      for (int v = 0; v < kPerThread; ++v) differences.add(fakes[s][v] - reals[s][v], v);
      sum += differences.sum;
      if (mask && group_of(at) < pair.numel) mask[at / kPerThread] = static_cast<uint16_t>(differences.mask);
    }
  }
  return static_cast<double>(sum);
}

// The same where strides or dtypes differ: value by value, each tensor at a separate offset.
template <typename A>
__device__ __forceinline__ double sum_strided(const Pair& pair, int64_t first) {
  auto* mask = reinterpret_cast<uint16_t*>(pair.sign_mask);
  A sum = 0;
  for (int s = 0; s < kSteps; ++s) {
    const int64_t at = first + (s * kThreads + static_cast<int>(threadIdx.x)) * kPerThread;
    Differences<A> differences;
    for (int v = 0; v < kPerThread && at + v < pair.numel; ++v) {
      const Offsets offsets = offsets_of(pair, at + v);
      differences.add(static_cast<A>(read(pair.fake.data, pair.fake.dtype, offsets.fake)) -
                          static_cast<A>(read(pair.real.data, pair.real.dtype, offsets.real)),
                      v);
    }
    sum += differences.sum;
    if (mask && group_of(at) < pair.numel) mask[at / kPerThread] = static_cast<uint16_t>(differences.mask);
  }
  return static_cast<double>(sum);
}

__global__ void __launch_bounds__(kThreads) forward(const __grid_constant__ Batch<Pair> batch, double* partial) {
  const int64_t block = block_x();
  const int i = item_of(batch, block);
  const Pair& pair = batch.items[i];
  const int64_t first = (block - batch.starts[i]) * kBlock;
  double sum;
  if (!pair.fake.linear || !pair.real.linear || pair.fake.dtype != pair.real.dtype) {
    const bool has_double = pair.fake.dtype == Dtype::Double || pair.real.dtype == Dtype::Double;
    sum = has_double ? sum_strided<double>(pair, first) : sum_strided<float>(pair, first);
  } else if (pair.fake.dtype == Dtype::Half) {
    sum = sum_linear<__half>(pair, first);
  } else if (pair.fake.dtype == Dtype::BFloat16) {
    sum = sum_linear<__nv_bfloat16>(pair, first);
  } else if (pair.fake.dtype == Dtype::Float) {
    sum = sum_linear<float>(pair, first);
  } else {
    sum = sum_linear<double>(pair, first);
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[block] = sum;
}

// The pairs of a launch: their weights and where their blocks begin.
struct Scales {
  double scale[kMaxPairs];
  int64_t starts[kMaxPairs + 1];
  int count;
};

// total += Σ scaleᵢ · (the sum of pair i's blocks), and the loss is the new total. One block, in a fixed order.
__global__ void __launch_bounds__(kThreads) weighted_sum(const __grid_constant__ Scales scales, const double* partial,
                                                         double* total, void* loss, bool loss_is_double) {
  double result = *total;
  for (int i = 0; i < scales.count; ++i) {
    double sum = 0;
    for (int64_t b = scales.starts[i] + threadIdx.x; b < scales.starts[i + 1]; b += kThreads) sum += partial[b];
    result += block_sum(sum) * scales.scale[i];
  }
  if (threadIdx.x != 0) return;
  *total = result;
  if (loss_is_double)
    *static_cast<double*>(loss) = result;
  else
    *static_cast<float*>(loss) = static_cast<float>(result);
}

std::tuple<Tensor, Tensor> feature_l1(std::vector<Tensor> fake, std::vector<Tensor> real, std::vector<double> weights,
                                      bool save_signs) {
  Pairs pairs(fake, real, weights.size(), save_signs);
  const Launch launch(fake[0]);
  Tensor loss = torch::stable::new_empty(fake[0], {}, pairs.has_double ? ScalarType::Double : ScalarType::Float);
  Tensor total = torch::stable::new_zeros(fake[0], {1}, ScalarType::Double);
  for (size_t first = 0; first < pairs.list.size(); first += kMaxPairs) {
    const Batch<Pair> batch = batch_of(pairs.list, first);
    const int64_t blocks = batch.starts[batch.count];
    Tensor partial = torch::stable::new_empty(fake[0], {blocks}, ScalarType::Double);
    auto* sums = static_cast<double*>(partial.mutable_data_ptr());
    if (blocks > 0) IGAN_FAST_LAUNCH(launch, grid_of(blocks), kThreads, forward)(batch, sums);
    launch.check("feature_l1");
    Scales scales{};
    scales.count = batch.count;
    for (int i = 0; i < batch.count; ++i) {
      const int64_t numel = batch.items[i].numel;
      scales.starts[i + 1] = batch.starts[i + 1];
      scales.scale[i] = numel ? weights[first + static_cast<size_t>(i)] / static_cast<double>(numel)
                              : std::numeric_limits<double>::quiet_NaN();  // the mean of an empty tensor, as in PyTorch
    }
    IGAN_FAST_LAUNCH(launch, 1, kThreads, weighted_sum)(scales, sums, static_cast<double*>(total.mutable_data_ptr()),
                                                        loss.mutable_data_ptr(), pairs.has_double);
    launch.check("feature_l1");
  }
  return {loss, pairs.sign_masks};
}

}  // namespace
}  // namespace igan_fast::cuda

STABLE_TORCH_LIBRARY_IMPL(igan_fast, CUDA, m) { m.impl("feature_l1", TORCH_BOX(&igan_fast::cuda::feature_l1)); }
