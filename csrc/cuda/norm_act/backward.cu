// norm_act backward on CUDA devices.
//
// There are three launches. The first computes the sums of each segment, the second adds them up in a fixed order, and
// the third computes the gradient of x. The third goes through the segments in reverse order, because the level-2 cache
// still holds the values that the first launch has read last.

#include "cuda/norm_act/affine.cuh"
#include "cuda/norm_act/partition.cuh"

namespace igan_fast::cuda {
namespace {

// Σ dz and Σ dz·(x − mean), where dz is the gradient of z, the LeakyReLU's input.
template <typename A>
struct Sums {
  A dz = 0, dz_x = 0;
};

// The sums of every segment.
template <typename T, int V, bool kChannelsLast>
__global__ void __launch_bounds__(kThreads)
    sums(const __grid_constant__ Partition partition, const __grid_constant__ Settings settings, const T* grad,
         const T* x, Sums<typename AccOf<T>::type>* results) {
  using A = typename AccOf<T>::type;
  using P = ThreadPath<V, kChannelsLast>;
  const P path(partition, block_x());
  Sums<A> own[P::kChannels];
  if (path.in_range) {
    A mean[P::kChannels], scale[P::kChannels], bias[P::kChannels];
#pragma unroll
    for (int c = 0; c < P::kChannels; ++c) {
      const Affine<A> f(settings, block_z(), path.channel + c);
      mean[c] = f.mean, scale[c] = f.scale, bias[c] = f.bias;
    }
    const A slope = static_cast<A>(settings.slope);
    constexpr int kInFlight = kMaxInFlight / 2;
    for (int s = path.step; s < path.end; s += kInFlight * path.stride) {
      Pack<T, V> xs[kInFlight], grads[kInFlight];
#pragma unroll
      for (int b = 0; b < kInFlight; ++b)
        if (s + b * path.stride < path.end) {
          xs[b] = load<T, V>(x + path.at(s + b * path.stride));
          grads[b] = load<T, V>(grad + path.at(s + b * path.stride));
        }
#pragma unroll
      for (int b = 0; b < kInFlight; ++b)
        if (s + b * path.stride < path.end)
#pragma unroll
          for (int v = 0; v < V; ++v) {
            const int c = kChannelsLast ? v : 0;
            const A centred = static_cast<A>(wide(xs[b].values[v])) - mean[c],
                    g = static_cast<A>(wide(grads[b].values[v]));
            const A dz = activate_backward(fma(centred, scale[c], bias[c]), g, slope);
            own[c].dz += dz;
            own[c].dz_x = fma(dz, centred, own[c].dz_x);
          }
    }
  }
  combine_block(own, kChannelsLast ? partition.across : 1, [](Sums<A>& into, const Sums<A>& from) {
    into.dz += from.dz;
    into.dz_x += from.dz_x;
  });
  const int writers = kChannelsLast ? partition.across : 1;
  if (path.in_range && static_cast<int>(threadIdx.x) < writers)
#pragma unroll
    for (int c = 0; c < P::kChannels; ++c) results[result_at(partition, path.channel + c)] = own[c];
}

// One warp per channel adds the sums of its segments to totals, (groups, channels), and those of its groups to dweight
// and dbias, (channels,).
template <typename A>
__global__ void __launch_bounds__(kThreads)
    combine_sums(const __grid_constant__ Partition partition, const __grid_constant__ Settings settings,
                 const Sums<A>* results, Sums<A>* totals, A* dweight, A* dbias) {
  const int64_t channel = block_x() * kWarps + threadIdx.x / kWarp;
  if (channel >= partition.shape.channels) return;  // a whole warp
  const int lane = threadIdx.x % kWarp;
  double weight = 0, bias = 0;
  for (int64_t group = 0; group < partition.shape.groups; ++group) {
    const int64_t task = group * partition.shape.channels + channel;
    double dz = 0, dz_x = 0;
    for (int64_t i = lane; i < partition.segments; i += kWarp) {
      dz += static_cast<double>(results[task * partition.segments + i].dz);
      dz_x += static_cast<double>(results[task * partition.segments + i].dz_x);
    }
    for (int distance = kWarp / 2; distance > 0; distance /= 2) {
      dz += __shfl_down_sync(kFullWarp, dz, distance);
      dz_x += __shfl_down_sync(kFullWarp, dz_x, distance);
    }
    if (lane == 0) {
      const Affine<A> f(settings, group, channel);
      Sums<A> total;
      total.dz = static_cast<A>(dz);
      total.dz_x = static_cast<A>(dz_x);
      totals[task] = total;
      weight += dz_x * static_cast<double>(f.invstd);
      bias += dz;
    }
  }
  if (lane == 0) {
    dweight[channel] = static_cast<A>(weight);
    dbias[channel] = static_cast<A>(bias);
  }
}

// With the batch's statistics dx = scale·(dz − mean(dz) − x̂·mean(dz·x̂)), x̂ = (x − mean)/std; with constant statistics
// dx = scale·dz.
template <typename T, int V, bool kChannelsLast, bool kBatchStatistics>
__global__ void __launch_bounds__(kThreads)
    gradient(const __grid_constant__ Partition partition, const __grid_constant__ Settings settings,
             const Sums<typename AccOf<T>::type>* totals, const T* grad, const T* x, T* dx) {
  using A = typename AccOf<T>::type;
  using P = ThreadPath<V, kChannelsLast>;
  const P path(partition, partition.segments - 1 - block_x());
  if (!path.in_range) return;
  A mean[P::kChannels], scale[P::kChannels], bias[P::kChannels], mean_term[P::kChannels], var_term[P::kChannels];
  const A n = static_cast<A>(partition.shape.values());
#pragma unroll
  for (int c = 0; c < P::kChannels; ++c) {
    const Affine<A> f(settings, block_z(), path.channel + c);
    mean[c] = f.mean, scale[c] = f.scale, bias[c] = f.bias;
    mean_term[c] = var_term[c] = 0;
    if (kBatchStatistics) {
      const Sums<A> total = totals[block_z() * partition.shape.channels + path.channel + c];
      mean_term[c] = f.scale * (total.dz / n);
      var_term[c] = f.scale * (f.invstd * f.invstd * (total.dz_x / n));
    }
  }
  const A slope = static_cast<A>(settings.slope);
  constexpr int kInFlight = kMaxInFlight / 4;
  for (int s = path.step; s < path.end; s += kInFlight * path.stride) {
    Pack<T, V> xs[kInFlight], grads[kInFlight];
#pragma unroll
    for (int b = 0; b < kInFlight; ++b)
      if (s + b * path.stride < path.end) {
        xs[b] = load<T, V>(x + path.at(s + b * path.stride));
        grads[b] = load<T, V>(grad + path.at(s + b * path.stride));
      }
#pragma unroll
    for (int b = 0; b < kInFlight; ++b)
      if (s + b * path.stride < path.end) {
#pragma unroll
        for (int v = 0; v < V; ++v) {
          const int c = kChannelsLast ? v : 0;
          const A centred = static_cast<A>(wide(xs[b].values[v])) - mean[c],
                  g = static_cast<A>(wide(grads[b].values[v]));
          A d = scale[c] * activate_backward(fma(centred, scale[c], bias[c]), g, slope);
          if (kBatchStatistics) d = d - mean_term[c] - centred * var_term[c];
          xs[b].values[v] = narrow<T>(d);
        }
        store<T, V>(dx + path.at(s + b * path.stride), xs[b]);
      }
  }
}

std::tuple<Tensor, Tensor, Tensor> norm_act_backward(Tensor grad, Tensor x, std::optional<Tensor> weight,
                                                     std::optional<Tensor> bias, Tensor mean, Tensor var, double eps,
                                                     double negative_slope, bool batch_statistics) {
  const NormShape s = norm_shape_of(x, groups_of(mean, var));
  check_gradient(grad, x);
  const Dtype dtype = dtype_of(x, "x");
  const Launch launch(x);
  Tensor dx = torch::stable::empty_like(x);
  Tensor dweight = torch::stable::new_empty(x, {s.channels}, compute_type(dtype));
  Tensor dbias = torch::stable::new_empty(x, {s.channels}, compute_type(dtype));
  const Settings settings = settings_of(weight, bias, mean, var, s, eps, negative_slope, s.channels);
  const bool aligned = is_aligned(x.const_data_ptr()) && is_aligned(grad.const_data_ptr());
  with_layout(dtype, s, aligned, [&](auto type, auto vector, auto channels_last) {
    using T = decltype(type);
    using A = typename AccOf<T>::type;
    constexpr int V = decltype(vector)::value;
    constexpr bool kChannelsLast = decltype(channels_last)::value;
    const Partition partition = partition_of<T, V>(s, kChannelsLast);
    const int64_t channels = s.groups * s.channels;
    Tensor scratch = torch::stable::new_empty(x, {2 * channels * (partition.segments + 1)}, compute_type(dtype));
    auto* totals = out<Sums<A>>(scratch);
    auto* results = totals + channels;
    sums<T, V, kChannelsLast>
        <<<partition.grid(), kThreads, 0, launch>>>(partition, settings, in<T>(grad), in<T>(x), results);
    combine_sums<A><<<blocks_for(s.channels, kWarps), kThreads, 0, launch>>>(partition, settings, results, totals,
                                                                             out<A>(dweight), out<A>(dbias));
    const auto kernel = batch_statistics ? &gradient<T, V, kChannelsLast, true> : &gradient<T, V, kChannelsLast, false>;
    kernel<<<partition.grid(), kThreads, 0, launch>>>(partition, settings, totals, in<T>(grad), in<T>(x), out<T>(dx));
  });
  launch.check("norm_act_backward");
  return {dx, dweight, dbias};
}

}  // namespace
}  // namespace igan_fast::cuda

STABLE_TORCH_LIBRARY_IMPL(igan_fast, CUDA, m) {
  m.impl("norm_act_backward", TORCH_BOX(&igan_fast::cuda::norm_act_backward));
}
