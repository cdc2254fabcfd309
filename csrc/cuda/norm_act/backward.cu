// norm_act backward on CUDA devices.
//
// There are three launches. The first computes the sums of each segment, the second adds them up in a fixed order, and
// the third computes the gradient of x. The third goes through the segments in reverse order, because the level-2 cache
// still holds the values that the first launch has read last. With film, each image has segments of its own, and a
// launch after the first adds up the sums of each image, which also gives the gradient of the film.

#include "cuda/norm_act/sums.cuh"

namespace igan_fast::cuda {
namespace {

// The terms of each group, (groups, channels), from the means of the sums, (3, groups, channels).
template <typename A>
__global__ void __launch_bounds__(kThreads)
    terms_of(const __grid_constant__ Settings settings, int64_t parts, const double* means, Terms<A>* terms) {
  const int64_t i = block_x() * kThreads + threadIdx.x;
  if (i >= parts) return;
  terms[i] = Terms<A>(means[i], means[parts + i], means[2 * parts + i], 1, settings.var[i] + settings.eps);
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

// The launches of one backward pass. dx, dweight, dbias and dfilm may be null where they are not computed.
template <typename T, int V, bool kChannelsLast, bool kFilm>
struct Backward {
  using A = typename AccOf<T>::type;
  const Launch& launch;
  const Settings& settings;
  const NormShape& shape;
  const T *grad, *x;
  T* dx;
  A* dfilm;
  Partition partition = partition_of<T, V>(shape_for(settings, shape), kChannelsLast);

  // Values of type A for the sums of the segments and, with film, of the images.
  int64_t scratch_size() const {
    const int64_t parts = partition.shape.groups * shape.channels;
    return (kFilm ? 5 * partition.segments + 3 : 3 * partition.segments) * parts;
  }
  void add_sums(A* scratch, bool batch_statistics, const Combined<A>& to) const {
    auto* of_images = reinterpret_cast<Sums<A>*>(scratch);
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
    IGAN_FAST_LAUNCH(launch, blocks_for(shape.channels, kWarps), kThreads, combine_sums<A>)(combined, settings, parts,
                                                                                            batch_statistics, to);
  }
  void write_gradient(const Terms<A>* terms, bool batch_statistics) const {
    const auto kernel =
        batch_statistics ? &gradient<T, V, kChannelsLast, true, kFilm> : &gradient<T, V, kChannelsLast, false, kFilm>;
    IGAN_FAST_LAUNCH(launch, partition.grid(), kThreads, kernel)(partition, settings, terms, grad, x, dx);
  }
};

// Calls function with the Backward of a call, whose types depend on its tensors. Without film, dfilm is empty.
template <typename Function>
void with_backward(const Launch& launch, const Settings& settings, const NormShape& s, const Tensor& grad,
                   const Tensor& x, const Tensor* dx, const Tensor* dfilm, const Function& function) {
  const bool aligned = is_aligned(x.const_data_ptr()) && is_aligned(grad.const_data_ptr());
  with_layout(dtype_of(x, "x"), s, aligned, [&](auto type, auto vector, auto channels_last) {
    using T = decltype(type);
    using A = typename AccOf<T>::type;
    const auto run = [&](auto has_film) {
      function(Backward<T, decltype(vector)::value, decltype(channels_last)::value, decltype(has_film)::value>{
          launch, settings, s, in<T>(grad), in<T>(x), dx ? out<T>(*dx) : nullptr, dfilm ? out<A>(*dfilm) : nullptr});
    };
    settings.film.data ? run(std::true_type{}) : run(std::false_type{});
  });
}

// The gradient of film is empty without film.
Tensor new_dfilm(const Tensor& x, const std::optional<Tensor>& film, ScalarType type) {
  return film ? torch::stable::new_empty(x, {film->size(0), film->size(1)}, type)
              : torch::stable::new_empty(x, {0}, type);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> norm_act_backward(Tensor grad, Tensor x, std::optional<Tensor> weight,
                                                             std::optional<Tensor> bias, Tensor mean, Tensor var,
                                                             double eps, double negative_slope, bool batch_statistics,
                                                             std::optional<Tensor> film) {
  const NormShape s = norm_shape_of(x, groups_of(mean, var));
  check_gradient(grad, x);
  const ScalarType type = compute_type(dtype_of(x, "x"));
  const Launch launch(x);
  const Settings settings = settings_of(weight, bias, mean, var, s, eps, negative_slope, film);
  Tensor dx = torch::stable::empty_like(x), dfilm = new_dfilm(x, film, type);
  Tensor dweight = torch::stable::new_empty(x, {s.channels}, type);
  Tensor dbias = torch::stable::new_empty(x, {s.channels}, type);
  with_backward(launch, settings, s, grad, x, &dx, &dfilm, [&](const auto& backward) {
    using A = typename std::decay_t<decltype(backward)>::A;
    const int64_t of_terms = 4 * s.groups * s.channels;
    Tensor scratch = torch::stable::new_empty(x, {of_terms + backward.scratch_size()}, type);
    auto* terms = out<Terms<A>>(scratch);
    backward.add_sums(out<A>(scratch) + of_terms, batch_statistics, {nullptr, terms, out<A>(dweight), out<A>(dbias)});
    backward.write_gradient(terms, batch_statistics);
  });
  launch.check("norm_act_backward");
  return {dx, dweight, dbias, dfilm};
}

// sums is (3, groups, channels): Σ dz, Σ dz·(x − mean) and Σ (x − mean).
std::tuple<Tensor, Tensor> norm_act_sums(Tensor grad, Tensor x, std::optional<Tensor> weight,
                                         std::optional<Tensor> bias, Tensor mean, Tensor var, double eps,
                                         double negative_slope, std::optional<Tensor> film) {
  const NormShape s = norm_shape_of(x, groups_of(mean, var));
  check_gradient(grad, x);
  const ScalarType type = compute_type(dtype_of(x, "x"));
  const Launch launch(x);
  const Settings settings = settings_of(weight, bias, mean, var, s, eps, negative_slope, film);
  Tensor sums = torch::stable::new_empty(x, {3, s.groups, s.channels}, ScalarType::Double);
  Tensor dfilm = new_dfilm(x, film, type);
  with_backward(launch, settings, s, grad, x, nullptr, &dfilm, [&](const auto& backward) {
    using A = typename std::decay_t<decltype(backward)>::A;
    Tensor scratch = torch::stable::new_empty(x, {backward.scratch_size()}, type);
    backward.add_sums(out<A>(scratch), true, {out<double>(sums), nullptr, nullptr, nullptr});
  });
  launch.check("norm_act_sums");
  return {sums, dfilm};
}

// mean_sums is (3, groups, channels), as of norm_act_sums: the sums divided by the number of values.
Tensor norm_act_gradient(Tensor grad, Tensor x, std::optional<Tensor> weight, std::optional<Tensor> bias, Tensor mean,
                         Tensor var, Tensor mean_sums, double eps, double negative_slope, std::optional<Tensor> film) {
  const NormShape s = norm_shape_of(x, groups_of(mean, var));
  check_gradient(grad, x);
  const int64_t parts = s.groups * s.channels;
  check_sums(mean_sums, parts);
  const Launch launch(x);
  const Settings settings = settings_of(weight, bias, mean, var, s, eps, negative_slope, film);
  Tensor dx = torch::stable::empty_like(x);
  with_backward(launch, settings, s, grad, x, &dx, nullptr, [&](const auto& backward) {
    using A = typename std::decay_t<decltype(backward)>::A;
    Tensor scratch = torch::stable::new_empty(x, {4 * parts}, compute_type(dtype_of(x, "x")));
    auto* terms = out<Terms<A>>(scratch);
    IGAN_FAST_LAUNCH(launch, blocks_for(parts, kThreads), kThreads, terms_of<A>)(settings, parts, in<double>(mean_sums),
                                                                                 terms);
    backward.write_gradient(terms, true);
  });
  launch.check("norm_act_gradient");
  return dx;
}

}  // namespace
}  // namespace igan_fast::cuda

STABLE_TORCH_LIBRARY_IMPL(igan_fast, CUDA, m) {
  m.impl("norm_act_backward", TORCH_BOX(&igan_fast::cuda::norm_act_backward));
  m.impl("norm_act_sums", TORCH_BOX(&igan_fast::cuda::norm_act_sums));
  m.impl("norm_act_gradient", TORCH_BOX(&igan_fast::cuda::norm_act_gradient));
}
