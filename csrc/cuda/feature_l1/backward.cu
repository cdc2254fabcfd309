// feature_l1 backward on CUDA devices: one launch for the gradients of up to kMaxPairs tensors.

#include "cuda/feature_l1/batch.cuh"

namespace igan_fast::cuda {
namespace {

template <typename T>
__global__ void __launch_bounds__(kThreads)
    backward(const __grid_constant__ Batch<SignedFill> batch, const void* upstream, Dtype upstream_dtype) {
  using A = typename AccOf<T>::type;
  const int64_t block = block_x();
  const int i = item_of(batch, block);
  const SignedFill& fill = batch.items[i];
  const int64_t first = (block - batch.starts[i]) * kBlock;
  const auto* mask = reinterpret_cast<const uint16_t*>(fill.sign_mask);
  unsigned loaded[kSteps];
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
    const int64_t at = first + (s * kThreads + static_cast<int>(threadIdx.x)) * kPerThread;
    loaded[s] = at < fill.numel ? mask[at / kPerThread] : 0;
  }
  const A scale = static_cast<A>(fill.scale * read(upstream, upstream_dtype, 0));
  const T plus = narrow<T>(scale), minus = narrow<T>(-scale),
          zero = narrow<T>(scale * 0);  // NaN where scale is infinite
  T* out = static_cast<T*>(fill.out);
  constexpr int kPacks = kPerThread / kVector<T> > 0 ? kPerThread / kVector<T> : 1, kWide = kPerThread / kPacks;
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
    const int64_t at = first + (s * kThreads + static_cast<int>(threadIdx.x)) * kPerThread;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      Pack<T, kWide> pack;
#pragma unroll
      for (int v = 0; v < kWide; ++v) {
        const unsigned bits = loaded[s] >> (p * kWide + v);
        pack.values[v] = bits & 1 ? plus : bits & 256 ? minus : zero;
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
      IGAN_FAST_LAUNCH(launch, grid_of(blocks), kThreads, backward<decltype(type)>)(batch, grad.const_data_ptr(),
                                                                                    upstream);
    });
    launch.check("feature_l1_backward");
  }
  return fills.outputs;
}

}  // namespace
}  // namespace igan_fast::cuda

STABLE_TORCH_LIBRARY_IMPL(igan_fast, CUDA, m) {
  m.impl("feature_l1_backward", TORCH_BOX(&igan_fast::cuda::feature_l1_backward));
}
