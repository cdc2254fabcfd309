// The first half of norm_act's backward pass on CUDA devices: the kernels that compute its sums.

#pragma once

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

// What combine_sums writes: either the sums of each group, (3, groups, channels); or what follows from them, which is
// the terms of each group, (groups, channels), with the batch's statistics, and dweight and dbias, (channels,).
template <typename A>
struct Combined {
  double* sums;
  Terms<A>* terms;
  A *dweight, *dbias;
};

// One warp per channel adds the sums of its segments (with film, of its images) for each group, and those of its
// groups.
template <typename A>
__global__ void __launch_bounds__(kThreads)
    combine_sums(const __grid_constant__ Partition partition, const __grid_constant__ Settings settings,
                 const Sums<A>* results, bool batch_statistics, const __grid_constant__ Combined<A> to) {
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
      const double var_eps = settings.var[task] + settings.eps;
      if (to.sums) {
        const int64_t parts = partition.shape.groups * partition.shape.channels;
        to.sums[task] = dz, to.sums[parts + task] = dz_x, to.sums[2 * parts + task] = x;
      } else if (batch_statistics) {
        to.terms[task] = Terms<A>(dz, dz_x, x, static_cast<double>(partition.shape.values()), var_eps);
      }
      weight += dz_x * rsqrt(var_eps);
      bias += dz;
    }
  }
  if (lane == 0 && !to.sums) {
    to.dweight[channel] = static_cast<A>(weight);
    to.dbias[channel] = static_cast<A>(bias);
  }
}

}  // namespace
}  // namespace igan_fast::cuda
