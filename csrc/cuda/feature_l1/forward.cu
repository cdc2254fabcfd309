// feature_l1 on CUDA devices: every pair in one launch forward, and one small launch that adds up; every gradient in
// one launch backward. What the kernels need to know of the pairs travels as a kernel parameter, so that nothing is
// copied to the device and a CUDA graph can hold the call.

#include <limits>

#include "device.cuh"

namespace igan_fast::cuda {
namespace {

constexpr int kEight = 8;  // neighbours of one thread: their codes are a byte of + and a byte of −
constexpr int kSteps = 4;  // times that a thread does so, with all loads in flight
constexpr int64_t kBlock = kThreads * kEight * kSteps;
constexpr int kMaxPairs = 12;  // in one launch: a parameter block holds 4 KiB

template <typename Item>
struct Batch {
  Item items[kMaxPairs];
  int64_t starts[kMaxPairs + 1];  // of each item's blocks
  int count;
};

static_assert(sizeof(Batch<Pair>) <= 4096 - 64, "kernel parameters are limited to 4 KiB");

// The items from `first` on that one launch takes.
template <typename Item>
Batch<Item> batch_of(const std::vector<Item>& items, size_t first) {
  Batch<Item> batch{};
  for (size_t i = first; i < items.size() && batch.count < kMaxPairs; ++i, ++batch.count) {
    batch.items[batch.count] = items[i];
    batch.starts[batch.count + 1] = batch.starts[batch.count] + (items[i].numel + kBlock - 1) / kBlock;
  }
  return batch;
}

template <typename Item>
__device__ int item_of(const Batch<Item>& batch, int64_t block) {
  int i = 0;
  while (block >= batch.starts[i + 1]) ++i;
  return i;
}

// Eight neighbours of a linear side; those past the end are 0.
template <typename T, typename A>
__device__ __forceinline__ void load_eight(const T* data, int64_t first, int64_t numel, bool aligned,
                                           A (&values)[kEight]) {
  if (aligned && first + kEight <= numel) {
    constexpr int kPacks = kEight / kVector<T> > 0 ? kEight / kVector<T> : 1, kWide = kEight / kPacks;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const auto pack = *reinterpret_cast<const Pack<T, kWide>*>(data + first + p * kWide);
#pragma unroll
      for (int v = 0; v < kWide; ++v) values[p * kWide + v] = static_cast<A>(wide(pack.values[v]));
    }
  } else {
#pragma unroll
    for (int v = 0; v < kEight; ++v) values[v] = first + v < numel ? static_cast<A>(wide(data[first + v])) : A{0};
  }
}

// Offsets of both sides of the k-th element, whose strides differ.
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

template <typename A>
struct Signs {
  A sum = 0;
  unsigned codes = 0;  // a bit per neighbour where it is positive, eight bits further where negative
  __device__ void add(A difference, int v) {
    sum += difference < 0 ? -difference : difference > 0 ? difference : difference * difference;  // NaN stays NaN
    codes |= (difference > 0 ? 1u << v : 0u) | (difference < 0 ? 256u << v : 0u);
  }
};

template <typename T>
__device__ __forceinline__ double sum_linear(const Pair& pair, int64_t first) {
  using A = typename AccOf<T>::type;
  const T* fake = static_cast<const T*>(pair.fake.data);
  const T* real = static_cast<const T*>(pair.real.data);
  const bool aligned = (reinterpret_cast<uintptr_t>(fake) | reinterpret_cast<uintptr_t>(real)) % 16 == 0;
  auto* codes = reinterpret_cast<uint16_t*>(pair.codes);
  constexpr int kAtOnce = sizeof(T) == 2 ? kSteps : sizeof(T) == 4 ? 2 : 1;  // what the registers hold
  A sum = 0;
  for (int begin = 0; begin < kSteps; begin += kAtOnce) {
    A fakes[kAtOnce][kEight], reals[kAtOnce][kEight];
#pragma unroll
    for (int s = 0; s < kAtOnce; ++s) {
      const int64_t at = first + ((begin + s) * kThreads + static_cast<int>(threadIdx.x)) * kEight;
      load_eight(fake, at, pair.numel, aligned, fakes[s]);
      load_eight(real, at, pair.numel, aligned, reals[s]);
    }
#pragma unroll
    for (int s = 0; s < kAtOnce; ++s) {
      const int64_t at = first + ((begin + s) * kThreads + static_cast<int>(threadIdx.x)) * kEight;
      Signs<A> signs;
#pragma unroll
      for (int v = 0; v < kEight; ++v) signs.add(fakes[s][v] - reals[s][v], v);
      sum += signs.sum;
      if (codes && at < pair.numel) codes[at / kEight] = static_cast<uint16_t>(signs.codes);
    }
  }
  return static_cast<double>(sum);
}

// Strides or dtypes differ: value by value, each side where it stands.
template <typename A>
__device__ __forceinline__ double sum_strided(const Pair& pair, int64_t first) {
  auto* codes = reinterpret_cast<uint16_t*>(pair.codes);
  A sum = 0;
  for (int s = 0; s < kSteps; ++s) {
    const int64_t at = first + (s * kThreads + static_cast<int>(threadIdx.x)) * kEight;
    Signs<A> signs;
    for (int v = 0; v < kEight && at + v < pair.numel; ++v) {
      const Offsets offsets = offsets_of(pair, at + v);
      signs.add(static_cast<A>(read(pair.fake.data, pair.fake.dtype, offsets.fake)) -
                    static_cast<A>(read(pair.real.data, pair.real.dtype, offsets.real)),
                v);
    }
    sum += signs.sum;
    if (codes && at < pair.numel) codes[at / kEight] = static_cast<uint16_t>(signs.codes);
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
    const bool wide_pair = pair.fake.dtype == Dtype::Double || pair.real.dtype == Dtype::Double;
    sum = wide_pair ? sum_strided<double>(pair, first) : sum_strided<float>(pair, first);
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

struct Scales {
  double scale[kMaxPairs];
  int64_t starts[kMaxPairs + 1];
  int count;
};

// total + Σ scaleᵢ · (the sum of pair i's blocks), by one block, in a fixed order.
__global__ void __launch_bounds__(kThreads)
    add_up(const __grid_constant__ Scales scales, const double* partial, double* total, void* loss, bool wide_loss) {
  double result = *total;
  for (int i = 0; i < scales.count; ++i) {
    double sum = 0;
    for (int64_t b = scales.starts[i] + threadIdx.x; b < scales.starts[i + 1]; b += kThreads) sum += partial[b];
    result += block_sum(sum) * scales.scale[i];
  }
  if (threadIdx.x != 0) return;
  *total = result;
  if (wide_loss)
    *static_cast<double*>(loss) = result;
  else
    *static_cast<float*>(loss) = static_cast<float>(result);
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    backward(const __grid_constant__ Batch<SignedFill> batch, const void* upstream, Dtype upstream_dtype) {
  using A = typename AccOf<T>::type;
  const int64_t block = block_x();
  const int i = item_of(batch, block);
  const SignedFill& fill = batch.items[i];
  const int64_t first = (block - batch.starts[i]) * kBlock;
  const auto* codes = reinterpret_cast<const uint16_t*>(fill.codes);
  unsigned loaded[kSteps];
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
    const int64_t at = first + (s * kThreads + static_cast<int>(threadIdx.x)) * kEight;
    loaded[s] = at < fill.numel ? codes[at / kEight] : 0;
  }
  const A scale = static_cast<A>(fill.scale * read(upstream, upstream_dtype, 0));
  const T plus = narrow<T>(scale), minus = narrow<T>(-scale), zero = narrow<T>(scale * 0);  // NaN where infinite
  T* out = static_cast<T*>(fill.out);
  constexpr int kPacks = kEight / kVector<T> > 0 ? kEight / kVector<T> : 1, kWide = kEight / kPacks;
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
    const int64_t at = first + (s * kThreads + static_cast<int>(threadIdx.x)) * kEight;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      Pack<T, kWide> pack;
#pragma unroll
      for (int v = 0; v < kWide; ++v) {
        const unsigned code = loaded[s] >> (p * kWide + v);
        pack.values[v] = code & 1 ? plus : code & 256 ? minus : zero;
      }
      const int64_t to = at + p * kWide;
      if (to + kWide <= fill.numel) {
        *reinterpret_cast<Pack<T, kWide>*>(out + to) = pack;
      } else {
#pragma unroll
        for (int v = 0; v < kWide; ++v)
          if (to + v < fill.numel) out[to + v] = pack.values[v];
      }
    }
  }
}

unsigned grid_of(int64_t blocks) {
  STD_TORCH_CHECK(blocks <= INT_MAX, "the feature maps are too large for one launch");
  return static_cast<unsigned>(blocks);
}

std::tuple<Tensor, Tensor> feature_l1(std::vector<Tensor> fake, std::vector<Tensor> real, std::vector<double> weights,
                                      bool save_signs) {
  Pairs pairs(fake, real, weights.size(), save_signs);
  const Launch launch(fake[0]);
  Tensor loss = torch::stable::new_empty(fake[0], {}, pairs.wide ? ScalarType::Double : ScalarType::Float);
  Tensor total = torch::stable::new_zeros(fake[0], {1}, ScalarType::Double);
  for (size_t first = 0; first < pairs.list.size(); first += kMaxPairs) {
    const Batch<Pair> batch = batch_of(pairs.list, first);
    const int64_t blocks = batch.starts[batch.count];
    Tensor partial = torch::stable::new_empty(fake[0], {blocks}, ScalarType::Double);
    auto* sums = static_cast<double*>(partial.mutable_data_ptr());
    if (blocks > 0) forward<<<grid_of(blocks), kThreads, 0, launch>>>(batch, sums);
    launch.check("feature_l1");
    Scales scales{};
    scales.count = batch.count;
    for (int i = 0; i < batch.count; ++i) {
      const int64_t numel = batch.items[i].numel;
      scales.starts[i + 1] = batch.starts[i + 1];
      scales.scale[i] = numel ? weights[first + static_cast<size_t>(i)] / static_cast<double>(numel)
                              : std::numeric_limits<double>::quiet_NaN();  // a mean of nothing
    }
    add_up<<<1, kThreads, 0, launch>>>(scales, sums, static_cast<double*>(total.mutable_data_ptr()),
                                       loss.mutable_data_ptr(), pairs.wide);
    launch.check("feature_l1");
  }
  return {loss, pairs.signs};
}

std::vector<Tensor> feature_l1_backward(Tensor grad, Tensor signs, std::vector<int64_t> numels,
                                        std::vector<int64_t> offsets, std::vector<double> scales, ScalarType dtype) {
  STD_TORCH_CHECK(grad.numel() == 1, "grad has ", grad.numel(), " values; expected one");
  const Launch launch(signs);
  Fills fills(signs, numels, offsets, scales, dtype);
  const Dtype upstream = dtype_of(grad, "grad");
  for (size_t first = 0; first < fills.list.size(); first += kMaxPairs) {
    const Batch<SignedFill> batch = batch_of(fills.list, first);
    const int64_t blocks = batch.starts[batch.count];
    if (blocks == 0) continue;
    with_type(dtype_of(dtype, "dtype"), [&](auto type) {
      backward<decltype(type)><<<grid_of(blocks), kThreads, 0, launch>>>(batch, grad.const_data_ptr(), upstream);
    });
    launch.check("feature_l1_backward");
  }
  return fills.outputs;
}

}  // namespace
}  // namespace igan_fast::cuda

STABLE_TORCH_LIBRARY_IMPL(igan_fast, CUDA, m) {
  m.impl("feature_l1", TORCH_BOX(&igan_fast::cuda::feature_l1));
  m.impl("feature_l1_backward", TORCH_BOX(&igan_fast::cuda::feature_l1_backward));
}
