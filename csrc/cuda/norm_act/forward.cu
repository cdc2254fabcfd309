// norm_act forward on CUDA devices.
//
// There are three launches. The first computes the moments of each segment, the second merges them by Chan's formula in
// a fixed order, and the third normalises. The third goes through the segments in reverse order, because the level-2
// cache still holds the values that the first launch has read last. The squares are taken about the mean of the few
// values that a thread holds at the same time. There is therefore no cancellation for data far from zero.

#include "cuda/norm_act/affine.cuh"
#include "cuda/norm_act/partition.cuh"

namespace igan_fast::cuda {
namespace {

// Count, mean and sum of squared deviations of a set of values. merge() adds another set by Chan's formula. The mean is
// mean + rest, as if it had twice the digits: where data are far from zero, the rounding of one number is not small
// beside their deviations.
template <typename A>
struct Moments {
  A count = 0, mean = 0, rest = 0, m2 = 0;
  __device__ void merge(const Moments& other) {
    if (other.count == 0) return;
    const A total = count + other.count, share = other.count / total;
    const A far = other.mean - mean, near = other.rest - rest, delta = far + near;
    const A step = far * share, sum = mean + step, moved = sum - mean;
    rest += fma(near, share, (mean - (sum - moved)) + (step - moved));  // what the sum has lost, exactly
    mean = sum;
    m2 += fma(delta * delta, count * share, other.m2);
    count = total;
  }
};

// The moments of every segment.
template <typename T, int V, bool kChannelsLast>
__global__ void __launch_bounds__(kThreads)
    moments(const __grid_constant__ Partition partition, const T* x, Moments<typename AccOf<T>::type>* results) {
  using A = typename AccOf<T>::type;
  using P = ThreadPath<V, kChannelsLast>;
  const P path(partition, block_x());
  Moments<A> own[P::kChannels];
  for (int s = path.step; path.in_range && s < path.end; s += kMaxInFlight * path.stride) {
    Pack<T, V> packs[kMaxInFlight];
    int count = 0;
#pragma unroll
    for (int b = 0; b < kMaxInFlight; ++b)
      if (s + b * path.stride < path.end) {
        packs[b] = load<T, V>(x + path.at(s + b * path.stride));
        ++count;
      }
    constexpr int kPerChannel = V / P::kChannels;  // of a pack
    const A n = static_cast<A>(count * kPerChannel), inverse = 1 / n;
#pragma unroll
    for (int c = 0; c < P::kChannels; ++c) {
      A sum = 0, rest = 0, m2 = 0;
#pragma unroll
      for (int b = 0; b < kMaxInFlight; ++b)
        if (b < count)
#pragma unroll
          for (int v = 0; v < kPerChannel; ++v) sum += wide(packs[b].values[c + v]);
      const A mean = sum * inverse;
#pragma unroll
      for (int b = 0; b < kMaxInFlight; ++b)
        if (b < count)
#pragma unroll
          for (int v = 0; v < kPerChannel; ++v) {
            const A d = wide(packs[b].values[c + v]) - mean;
            rest += d;
            m2 = fma(d, d, m2);
          }
      rest *= inverse;  // the rounding error of the mean
      own[c].merge({n, mean, rest, fma(-n * rest, rest, m2)});
    }
  }
  combine_block(own, kChannelsLast ? partition.across : 1,
                [](Moments<A>& into, const Moments<A>& from) { into.merge(from); });
  const int writers = kChannelsLast ? partition.across : 1;
  if (path.in_range && static_cast<int>(threadIdx.x) < writers)
#pragma unroll
    for (int c = 0; c < P::kChannels; ++c) results[result_at(partition, path.channel + c)] = own[c];
}

// One warp per group and channel merges the moments of its segments. Merging turns infinite values into NaN. Then the
// mean is computed by a plain sum, as PyTorch does.
template <typename T, typename A>
__global__ void __launch_bounds__(kThreads) combine_moments(const __grid_constant__ Partition partition, const T* x,
                                                            const Moments<A>* results, A* means, A* vars) {
  const int64_t task = block_x() * kWarps + threadIdx.x / kWarp;
  const NormShape& s = partition.shape;
  if (task >= s.groups * s.channels) return;  // a whole warp
  const int lane = threadIdx.x % kWarp;
  Moments<double> own;
  for (int64_t i = lane; i < partition.segments; i += kWarp) {
    const Moments<A> other = results[task * partition.segments + i];
    own.merge({static_cast<double>(other.count), static_cast<double>(other.mean), static_cast<double>(other.rest),
               static_cast<double>(other.m2)});
  }
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    Moments<double> other;
    other.count = __shfl_down_sync(kFullWarp, own.count, distance);
    other.mean = __shfl_down_sync(kFullWarp, own.mean, distance);
    other.rest = __shfl_down_sync(kFullWarp, own.rest, distance);
    other.m2 = __shfl_down_sync(kFullWarp, own.m2, distance);
    own.merge(other);
  }
  double mean = __shfl_sync(kFullWarp, own.mean + own.rest, 0);
  if (!isfinite(mean)) {
    const int64_t group = task / s.channels, channel = task % s.channels, row_stride = s.channels * s.inner;
    double sum = 0;
    for (int64_t k = lane; k < s.values(); k += kWarp)
      sum +=
          static_cast<double>(wide(x[(group * s.rows + k / s.inner) * row_stride + channel * s.inner + k % s.inner]));
    for (int distance = kWarp / 2; distance > 0; distance /= 2) sum += __shfl_down_sync(kFullWarp, sum, distance);
    mean = sum / static_cast<double>(s.values());
  }
  if (lane == 0) {
    means[task] = static_cast<A>(mean);
    vars[task] = static_cast<A>(own.m2 / own.count);
  }
}

// y = LeakyReLU(z), and with kFilm y = LeakyReLU(z)·scale + shift of each image
template <typename T, int V, bool kChannelsLast, bool kFilm>
__global__ void __launch_bounds__(kThreads)
    apply(const __grid_constant__ Partition partition, const __grid_constant__ Settings settings, const T* x, T* y) {
  using A = typename AccOf<T>::type;
  using P = ThreadPath<V, kChannelsLast>;
  const P path(partition, partition.segments - 1 - block_x());
  if (!path.in_range) return;
  A mean[P::kChannels], scale[P::kChannels], bias[P::kChannels], film_scale[P::kChannels], film_shift[P::kChannels];
#pragma unroll
  for (int c = 0; c < P::kChannels; ++c) {
    const Affine<A> f(settings, kFilm ? block_z() / settings.film.images : block_z(), path.channel + c);
    mean[c] = f.mean, scale[c] = f.scale, bias[c] = f.bias;
    if constexpr (kFilm) {
      const Film<A> m(settings.film, block_z(), path.channel + c);
      film_scale[c] = m.scale, film_shift[c] = m.shift;
    }
  }
  const A slope = static_cast<A>(settings.slope);
  constexpr int kInFlight = kMaxInFlight / 2;
  for (int s = path.step; s < path.end; s += kInFlight * path.stride) {
    Pack<T, V> packs[kInFlight];
#pragma unroll
    for (int b = 0; b < kInFlight; ++b)
      if (s + b * path.stride < path.end) packs[b] = load<T, V>(x + path.at(s + b * path.stride));
#pragma unroll
    for (int b = 0; b < kInFlight; ++b)
      if (s + b * path.stride < path.end) {
        Pack<T, V> result;
#pragma unroll
        for (int v = 0; v < V; ++v) {
          const int c = kChannelsLast ? v : 0;
          const A z = fma(static_cast<A>(wide(packs[b].values[v])) - mean[c], scale[c], bias[c]);
          A value = activate(z, slope);
          if constexpr (kFilm) value = fma(value, film_scale[c], film_shift[c]);
          result.values[v] = narrow<T>(value);
        }
        store<T, V>(y + path.at(s + b * path.stride), result);
      }
  }
}

template <typename T, int V, bool kChannelsLast>
void launch_apply(const Launch& launch, const Settings& settings, const NormShape& s, const Tensor& x,
                  const Tensor& y) {
  const Partition partition = partition_of<T, V>(shape_for(settings, s), kChannelsLast);
  const auto kernel = settings.film.data ? &apply<T, V, kChannelsLast, true> : &apply<T, V, kChannelsLast, false>;
  IGAN_FAST_LAUNCH(launch, partition.grid(), kThreads, kernel)(partition, settings, in<T>(x), out<T>(y));
}

// Writes mean and var, (groups, channels).
template <typename T, int V, bool kChannelsLast>
void launch_statistics(const Launch& launch, const NormShape& s, const Tensor& x, const Tensor& mean,
                       const Tensor& var) {
  using A = typename AccOf<T>::type;
  const int64_t parts = s.groups * s.channels;
  const Partition partition = partition_of<T, V>(s, kChannelsLast);
  Tensor scratch = torch::stable::new_empty(x, {4 * parts * partition.segments}, mean.scalar_type());
  auto* results = out<Moments<A>>(scratch);
  IGAN_FAST_LAUNCH(launch, partition.grid(), kThreads, moments<T, V, kChannelsLast>)(partition, in<T>(x), results);
  IGAN_FAST_LAUNCH(launch, blocks_for(parts, kWarps), kThreads, combine_moments<T, A>)(partition, in<T>(x), results,
                                                                                       out<A>(mean), out<A>(var));
}

std::tuple<Tensor, Tensor, Tensor> norm_act(Tensor x, std::optional<Tensor> weight, std::optional<Tensor> bias,
                                            double eps, double negative_slope, int64_t groups,
                                            std::optional<Tensor> film) {
  const NormShape s = norm_shape_of(x, groups);
  const Dtype dtype = dtype_of(x, "x");
  const Launch launch(x);
  Tensor y = torch::stable::empty_like(x);
  Tensor mean = torch::stable::new_empty(x, {groups, s.channels}, compute_type(dtype));
  Tensor var = torch::stable::new_empty(x, {groups, s.channels}, compute_type(dtype));
  const Settings settings = settings_of(weight, bias, mean, var, s, eps, negative_slope, film);
  with_layout(dtype, s, is_aligned(x.const_data_ptr()), [&](auto type, auto vector, auto channels_last) {
    using T = decltype(type);
    constexpr int V = decltype(vector)::value;
    constexpr bool kChannelsLast = decltype(channels_last)::value;
    launch_statistics<T, V, kChannelsLast>(launch, s, x, mean, var);
    launch_apply<T, V, kChannelsLast>(launch, settings, s, x, y);
  });
  launch.check("norm_act");
  return {y, mean, var};
}

std::tuple<Tensor, Tensor> norm_act_statistics(Tensor x, int64_t groups) {
  const NormShape s = norm_shape_of(x, groups);
  const Dtype dtype = dtype_of(x, "x");
  const Launch launch(x);
  Tensor mean = torch::stable::new_empty(x, {groups, s.channels}, compute_type(dtype));
  Tensor var = torch::stable::new_empty(x, {groups, s.channels}, compute_type(dtype));
  with_layout(dtype, s, is_aligned(x.const_data_ptr()), [&](auto type, auto vector, auto channels_last) {
    launch_statistics<decltype(type), decltype(vector)::value, decltype(channels_last)::value>(launch, s, x, mean, var);
  });
  launch.check("norm_act_statistics");
  return {mean, var};
}

Tensor norm_act_inference(Tensor x, std::optional<Tensor> weight, std::optional<Tensor> bias, Tensor mean, Tensor var,
                          double eps, double negative_slope, std::optional<Tensor> film) {
  const NormShape s = norm_shape_of(x, mean.dim() == 2 ? groups_of(mean, var) : 1);
  const Launch launch(x);
  Tensor y = torch::stable::empty_like(x);
  STD_TORCH_CHECK(mean.numel() == s.groups * s.channels && var.numel() == s.groups * s.channels,
                  "mean and var: expected (C,) or (groups, C) each");
  const Settings settings = settings_of(weight, bias, mean, var, s, eps, negative_slope, film);
  with_layout(dtype_of(x, "x"), s, is_aligned(x.const_data_ptr()), [&](auto type, auto vector, auto channels_last) {
    using T = decltype(type);
    constexpr int V = decltype(vector)::value;
    constexpr bool kChannelsLast = decltype(channels_last)::value;
    launch_apply<T, V, kChannelsLast>(launch, settings, s, x, y);
  });
  launch.check("norm_act_inference");
  return y;
}

}  // namespace
}  // namespace igan_fast::cuda

STABLE_TORCH_LIBRARY_IMPL(igan_fast, CUDA, m) {
  m.impl("norm_act", TORCH_BOX(&igan_fast::cuda::norm_act));
  m.impl("norm_act_statistics", TORCH_BOX(&igan_fast::cuda::norm_act_statistics));
  m.impl("norm_act_inference", TORCH_BOX(&igan_fast::cuda::norm_act_inference));
}
