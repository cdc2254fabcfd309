// norm_act backward on CUDA devices.
//
// There are three launches. The first computes the sums of each segment, the second adds them up in a fixed order, and
// the third computes the gradient of x. The third goes through the segments in reverse order, because the level-2 cache
// still holds the values that the first launch has read last. With film, each image has segments of its own, and a
// launch after the first adds up the sums of each image, which also gives the gradient of the film.

#include "cuda/norm_act/affine.cuh"
#include "cuda/norm_act/partition.cuh"
#include "cuda/norm_act/terms.cuh"

namespace igan_fast::cuda {
namespace {

// Σ dz, Σ dz·(x − mean) and Σ (x − mean), where dz is the gradient of z, the LeakyReLU's input.
template <typename A>
struct Sums {
  A dz = 0, dz_x = 0, x = 0;
};

// The same with film, and Σ dy·LeakyReLU(z) and Σ dy, the gradients of the film's scale and shift, where dy is the
// gradient of the result.
template <typename A>
struct FilmSums {
  A dz = 0, dz_x = 0, x = 0, scale = 0, shift = 0;
};

template <typename A, bool kFilm>
using SumsOf = std::conditional_t<kFilm, FilmSums<A>, Sums<A>>;

// The sums of every segment.
template <typename T, int V, bool kChannelsLast, bool kFilm>
__global__ void __launch_bounds__(kThreads)
    sums(const __grid_constant__ Partition partition, const __grid_constant__ Settings settings, const T* grad,
         const T* x, SumsOf<typename AccOf<T>::type, kFilm>* results) {
  using A = typename AccOf<T>::type;
  using P = ThreadPath<V, kChannelsLast>;
  using S = SumsOf<A, kFilm>;
  const P path(partition, block_x());
  S own[P::kChannels];
  if (path.in_range) {
    A mean[P::kChannels], scale[P::kChannels], bias[P::kChannels], film_scale[P::kChannels];
#pragma unroll
    for (int c = 0; c < P::kChannels; ++c) {
      const Affine<A> f(settings, kFilm ? block_z() / settings.film.images : block_z(), path.channel + c);
      mean[c] = f.mean, scale[c] = f.scale, bias[c] = f.bias;
      if constexpr (kFilm) film_scale[c] = Film<A>(settings.film, block_z(), path.channel + c).scale;
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
            const A centred = static_cast<A>(wide(xs[b].values[v])) - mean[c], z = fma(centred, scale[c], bias[c]);
            A g = static_cast<A>(wide(grads[b].values[v]));
            if constexpr (kFilm) {
              own[c].scale = fma(g, activate(z, slope), own[c].scale);
              own[c].shift += g;
              g *= film_scale[c];
            }
            const A dz = activate_backward(z, g, slope);
            own[c].dz += dz;
            own[c].dz_x = fma(dz, centred, own[c].dz_x);
            own[c].x += centred;
          }
    }
  }
  combine_block(own, kChannelsLast ? partition.across : 1, [](S& into, const S& from) {
    into.dz += from.dz;
    into.dz_x += from.dz_x;
    into.x += from.x;
    if constexpr (kFilm) {
      into.scale += from.scale;
      into.shift += from.shift;
    }
  });
  const int writers = kChannelsLast ? partition.across : 1;
  if (path.in_range && static_cast<int>(threadIdx.x) < writers)
#pragma unroll
    for (int c = 0; c < P::kChannels; ++c) results[result_at(partition, path.channel + c)] = own[c];
}

__device__ inline double warp_sum(double value) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) value += __shfl_down_sync(kFullWarp, value, distance);
  return value;
}

// One warp per image and channel adds the sums of the image's segments to dfilm, (N, 2, channels), and to image_sums,
// (groups, channels, images). In `partition` each image is a group.
template <typename A>
__global__ void __launch_bounds__(kThreads) combine_film(const __grid_constant__ Partition partition, int64_t images,
                                                         const FilmSums<A>* results, Sums<A>* image_sums, A* dfilm) {
  const int64_t task = block_x() * kWarps + threadIdx.x / kWarp, channels = partition.shape.channels;
  if (task >= partition.shape.groups * channels) return;  // a whole warp
  const int lane = threadIdx.x % kWarp;
  double dz = 0, dz_x = 0, x = 0, scale = 0, shift = 0;
  for (int64_t i = lane; i < partition.segments; i += kWarp) {
    const FilmSums<A> some = results[task * partition.segments + i];
    dz += static_cast<double>(some.dz);
    dz_x += static_cast<double>(some.dz_x);
    x += static_cast<double>(some.x);
    scale += static_cast<double>(some.scale);
    shift += static_cast<double>(some.shift);
  }
  dz = warp_sum(dz), dz_x = warp_sum(dz_x), x = warp_sum(x), scale = warp_sum(scale), shift = warp_sum(shift);
  if (lane == 0) {
    const int64_t image = task / channels, channel = task % channels;
    Sums<A> total;
    total.dz = static_cast<A>(dz);
    total.dz_x = static_cast<A>(dz_x);
    total.x = static_cast<A>(x);
    image_sums[(image / images * channels + channel) * images + image % images] = total;
    dfilm[image * 2 * channels + channel] = static_cast<A>(scale);
    dfilm[(image * 2 + 1) * channels + channel] = static_cast<A>(shift);
  }
}

// One warp per channel adds the sums of its segments (with film, of its images), which gives the terms of each group,
// (groups, channels), and those of its groups, which gives dweight and dbias, (channels,).
template <typename A>
__global__ void __launch_bounds__(kThreads)
    combine_sums(const __grid_constant__ Partition partition, const __grid_constant__ Settings settings,
                 const Sums<A>* results, bool batch_statistics, Terms<A>* terms, A* dweight, A* dbias) {
  const int64_t channel = block_x() * kWarps + threadIdx.x / kWarp;
  if (channel >= partition.shape.channels) return;  // a whole warp
  const int lane = threadIdx.x % kWarp;
  double weight = 0, bias = 0;
  for (int64_t group = 0; group < partition.shape.groups; ++group) {
    const int64_t task = group * partition.shape.channels + channel;
    double dz = 0, dz_x = 0, x = 0;
    for (int64_t i = lane; i < partition.segments; i += kWarp) {
      const Sums<A> some = results[task * partition.segments + i];
      dz += static_cast<double>(some.dz);
      dz_x += static_cast<double>(some.dz_x);
      x += static_cast<double>(some.x);
    }
    dz = warp_sum(dz), dz_x = warp_sum(dz_x), x = warp_sum(x);
    if (lane == 0) {
      const double var_eps = settings.var[group * settings.statistics_stride + channel] + settings.eps;
      if (batch_statistics) terms[task] = Terms<A>(dz, dz_x, x, static_cast<double>(partition.shape.values()), var_eps);
      weight += dz_x * rsqrt(var_eps);
      bias += dz;
    }
  }
  if (lane == 0) {
    dweight[channel] = static_cast<A>(weight);
    dbias[channel] = static_cast<A>(bias);
  }
}

// With constant statistics dx = scale·dz; with the batch's, see Terms.
template <typename T, int V, bool kChannelsLast, bool kBatchStatistics, bool kFilm>
__global__ void __launch_bounds__(kThreads)
    gradient(const __grid_constant__ Partition partition, const __grid_constant__ Settings settings,
             const Terms<typename AccOf<T>::type>* all_terms, const T* grad, const T* x, T* dx) {
  using A = typename AccOf<T>::type;
  using P = ThreadPath<V, kChannelsLast>;
  const P path(partition, partition.segments - 1 - block_x());
  if (!path.in_range) return;
  A mean[P::kChannels], scale[P::kChannels], bias[P::kChannels], film_scale[P::kChannels];
  Terms<A> terms[P::kChannels];
  const int64_t group = kFilm ? block_z() / settings.film.images : block_z();
#pragma unroll
  for (int c = 0; c < P::kChannels; ++c) {
    const Affine<A> f(settings, group, path.channel + c);
    mean[c] = f.mean, scale[c] = f.scale, bias[c] = f.bias;
    if constexpr (kFilm) film_scale[c] = Film<A>(settings.film, block_z(), path.channel + c).scale;
    if (kBatchStatistics) terms[c] = all_terms[group * partition.shape.channels + path.channel + c];
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
          const A centred = static_cast<A>(wide(xs[b].values[v])) - mean[c];
          A g = static_cast<A>(wide(grads[b].values[v]));
          if constexpr (kFilm) g *= film_scale[c];
          A dz = activate_backward(fma(centred, scale[c], bias[c]), g, slope);
          if (kBatchStatistics) dz = terms[c].template subtract_from<T>(dz, centred);
          xs[b].values[v] = narrow<T>(scale[c] * dz);
        }
        store<T, V>(dx + path.at(s + b * path.stride), xs[b]);
      }
  }
}

// The launches of one backward pass. `scratch` is memory for sums and terms, see scratch_size.
template <typename T, int V, bool kChannelsLast, bool kFilm>
struct Backward {
  using A = typename AccOf<T>::type;
  const Launch& launch;
  const Settings& settings;
  const NormShape& shape;
  const T *grad, *x;
  T* dx;
  A *dweight, *dbias, *dfilm;
  Partition partition = partition_of<T, V>(shape_for(settings, shape), kChannelsLast);

  // Values of type A: the terms of the groups, the sums of the segments and, with film, of the images.
  int64_t scratch_size() const {
    const int64_t parts = partition.shape.groups * shape.channels;
    return 4 * shape.groups * shape.channels + (kFilm ? 5 * partition.segments + 3 : 3 * partition.segments) * parts;
  }
  void run(A* scratch, bool batch_statistics) const {
    auto* terms = reinterpret_cast<Terms<A>*>(scratch);
    auto* of_images = reinterpret_cast<Sums<A>*>(terms + shape.groups * shape.channels);
    auto* results =
        reinterpret_cast<SumsOf<A, kFilm>*>(of_images + (kFilm ? partition.shape.groups * shape.channels : 0));
    IGAN_FAST_LAUNCH(launch, partition.grid(), kThreads, sums<T, V, kChannelsLast, kFilm>)(partition, settings, grad, x,
                                                                                           results);
    Partition combined = partition;
    const Sums<A>* parts;
    if constexpr (kFilm) {
      combined.shape = shape;
      combined.segments = settings.film.images;
      IGAN_FAST_LAUNCH(launch, blocks_for(partition.shape.groups * shape.channels, kWarps), kThreads, combine_film<A>)(
          partition, settings.film.images, results, of_images, dfilm);
      parts = of_images;
    } else {
      parts = results;
    }
    IGAN_FAST_LAUNCH(launch, blocks_for(shape.channels, kWarps), kThreads, combine_sums<A>)(
        combined, settings, parts, batch_statistics, terms, dweight, dbias);
    const auto kernel =
        batch_statistics ? &gradient<T, V, kChannelsLast, true, kFilm> : &gradient<T, V, kChannelsLast, false, kFilm>;
    IGAN_FAST_LAUNCH(launch, partition.grid(), kThreads, kernel)(partition, settings, terms, grad, x, dx);
  }
};

// Without film, dfilm is empty.
std::tuple<Tensor, Tensor, Tensor, Tensor> norm_act_backward(Tensor grad, Tensor x, std::optional<Tensor> weight,
                                                             std::optional<Tensor> bias, Tensor mean, Tensor var,
                                                             double eps, double negative_slope, bool batch_statistics,
                                                             std::optional<Tensor> film) {
  const NormShape s = norm_shape_of(x, groups_of(mean, var));
  check_gradient(grad, x);
  const Dtype dtype = dtype_of(x, "x");
  const Launch launch(x);
  Tensor dx = torch::stable::empty_like(x);
  Tensor dweight = torch::stable::new_empty(x, {s.channels}, compute_type(dtype));
  Tensor dbias = torch::stable::new_empty(x, {s.channels}, compute_type(dtype));
  Tensor dfilm = film ? torch::stable::new_empty(x, {x.size(0), 2 * s.channels}, compute_type(dtype))
                      : torch::stable::new_empty(x, {0}, compute_type(dtype));
  const Settings settings = settings_of(weight, bias, mean, var, s, eps, negative_slope, s.channels, film);
  const bool aligned = is_aligned(x.const_data_ptr()) && is_aligned(grad.const_data_ptr());
  with_layout(dtype, s, aligned, [&](auto type, auto vector, auto channels_last) {
    using T = decltype(type);
    using A = typename AccOf<T>::type;
    const auto run = [&](auto has_film) {
      const Backward<T, decltype(vector)::value, decltype(channels_last)::value, decltype(has_film)::value> backward{
          launch, settings, s, in<T>(grad), in<T>(x), out<T>(dx), out<A>(dweight), out<A>(dbias), out<A>(dfilm)};
      Tensor scratch = torch::stable::new_empty(x, {backward.scratch_size()}, compute_type(dtype));
      backward.run(out<A>(scratch), batch_statistics);
    };
    film ? run(std::true_type{}) : run(std::false_type{});
  });
  launch.check("norm_act_backward");
  return {dx, dweight, dbias, dfilm};
}

}  // namespace
}  // namespace igan_fast::cuda

STABLE_TORCH_LIBRARY_IMPL(igan_fast, CUDA, m) {
  m.impl("norm_act_backward", TORCH_BOX(&igan_fast::cuda::norm_act_backward));
}
