// norm_act on CUDA devices.
//
// Forward: moments of each segment, merged by Chan's formula in a fixed order; then the map, from the last segment to
// the first, so that it begins with what the second-level cache still holds. Backward likewise. The squares are taken
// about the mean of the few values that a thread holds at once, so data far from zero costs no digits.

#include "norm_act.cuh"

namespace igan_fast::cuda {
namespace {

template <typename A>
struct Moments {
  A count = 0, mean = 0, m2 = 0;
  __device__ void merge(A n, A other_mean, A other_m2) {
    if (n == 0) return;
    const A total = count + n, delta = other_mean - mean, share = n / total;
    mean += delta * share;
    m2 += other_m2 + delta * delta * (count * share);
    count = total;
  }
  __device__ void merge(const Moments& other) { merge(other.count, other.mean, other.m2); }
};

// Combines what the threads of one channel hold, in a fixed order, for every channel of the block: by columns the
// threads that stand `across` apart, by runs all of them. combine(into, from) works on shared memory.
template <typename Value, int kChannels, typename Combine>
__device__ void combine_block(Value (&values)[kChannels], int across, const Combine& combine) {
  __shared__ Value shared[kThreads];
#pragma unroll
  for (int v = 0; v < kChannels; ++v) {
    __syncthreads();
    shared[threadIdx.x] = values[v];
    for (int distance = kThreads / 2; distance >= across; distance /= 2) {
      __syncthreads();
      if (static_cast<int>(threadIdx.x) < distance) combine(shared[threadIdx.x], shared[threadIdx.x + distance]);
    }
    __syncthreads();
    values[v] = shared[threadIdx.x];
  }
}

// Segment results lie together per channel: (groups, channels, segments).
__device__ inline int64_t result_at(const Walk& walk, int64_t channel) {
  return (block_z() * walk.shape.channels + channel) * walk.segments + block_x();
}

template <typename T, int V, bool kColumns>
__global__ void __launch_bounds__(kThreads)
    moments(const __grid_constant__ Walk walk, const T* x, Moments<typename AccOf<T>::type>* results) {
  using A = typename AccOf<T>::type;
  using P = Path<V, kColumns>;
  const P path(walk, block_x());
  Moments<A> own[P::kChannels];
  for (int s = path.step; path.works && s < path.end; s += kBatch * path.stride) {
    Pack<T, V> packs[kBatch];
    int count = 0;
#pragma unroll
    for (int b = 0; b < kBatch; ++b)
      if (s + b * path.stride < path.end) {
        packs[b] = load<T, V>(x + path.at(s + b * path.stride));
        ++count;
      }
    constexpr int kPerChannel = V / P::kChannels;  // of a pack
    const A n = static_cast<A>(count * kPerChannel), inverse = 1 / n;
#pragma unroll
    for (int c = 0; c < P::kChannels; ++c) {
      A sum = 0, m2 = 0;
#pragma unroll
      for (int b = 0; b < kBatch; ++b)
        if (b < count)
#pragma unroll
          for (int v = 0; v < kPerChannel; ++v) sum += wide(packs[b].values[c + v]);
      const A mean = sum * inverse;
#pragma unroll
      for (int b = 0; b < kBatch; ++b)
        if (b < count)
#pragma unroll
          for (int v = 0; v < kPerChannel; ++v) {
            const A d = wide(packs[b].values[c + v]) - mean;
            m2 += d * d;
          }
      own[c].merge(n, mean, m2);
    }
  }
  combine_block(own, kColumns ? walk.across : 1, [](Moments<A>& into, const Moments<A>& from) { into.merge(from); });
  const int finishers = kColumns ? walk.across : 1;
  if (path.works && static_cast<int>(threadIdx.x) < finishers)
#pragma unroll
    for (int c = 0; c < P::kChannels; ++c) results[result_at(walk, path.channel + c)] = own[c];
}

// One warp per group and channel merges its segments. Where values are infinite, merging makes NaN of the mean: then it
// is what the plain sum gives, as elsewhere in torch.
template <typename T, typename A>
__global__ void __launch_bounds__(kThreads)
    combine_moments(const __grid_constant__ Walk walk, const T* x, const Moments<A>* results, A* means, A* vars) {
  const int64_t task = block_x() * kWarps + threadIdx.x / kWarp;
  const NormShape& s = walk.shape;
  if (task >= s.groups * s.channels) return;  // a whole warp
  const int lane = threadIdx.x % kWarp;
  Moments<double> own;
  for (int64_t i = lane; i < walk.segments; i += kWarp) {
    const Moments<A> other = results[task * walk.segments + i];
    own.merge(static_cast<double>(other.count), static_cast<double>(other.mean), static_cast<double>(other.m2));
  }
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    Moments<double> other;
    other.count = __shfl_down_sync(kAll, own.count, distance);
    other.mean = __shfl_down_sync(kAll, own.mean, distance);
    other.m2 = __shfl_down_sync(kAll, own.m2, distance);
    own.merge(other);
  }
  double mean = __shfl_sync(kAll, own.mean, 0);
  if (!isfinite(mean)) {
    const int64_t group = task / s.channels, channel = task % s.channels, row_stride = s.channels * s.inner;
    double sum = 0;
    for (int64_t k = lane; k < s.values(); k += kWarp)
      sum +=
          static_cast<double>(wide(x[(group * s.rows + k / s.inner) * row_stride + channel * s.inner + k % s.inner]));
    for (int distance = kWarp / 2; distance > 0; distance /= 2) sum += __shfl_down_sync(kAll, sum, distance);
    mean = sum / static_cast<double>(s.values());
  }
  if (lane == 0) {
    means[task] = static_cast<A>(mean);
    vars[task] = static_cast<A>(own.m2 / own.count);
  }
}

template <typename T, int V, bool kColumns>
__global__ void __launch_bounds__(kThreads)
    apply(const __grid_constant__ Walk walk, const __grid_constant__ Settings settings, const T* x, T* y) {
  using A = typename AccOf<T>::type;
  using P = Path<V, kColumns>;
  const P path(walk, walk.segments - 1 - block_x());
  if (!path.works) return;
  A mean[P::kChannels], scale[P::kChannels], bias[P::kChannels];
#pragma unroll
  for (int c = 0; c < P::kChannels; ++c) {
    const Affine<A> f(settings, block_z(), path.channel + c);
    mean[c] = f.mean, scale[c] = f.scale, bias[c] = f.bias;
  }
  const A slope = static_cast<A>(settings.slope);
  constexpr int kFew = kBatch / 2;
  for (int s = path.step; s < path.end; s += kFew * path.stride) {
    Pack<T, V> packs[kFew];
#pragma unroll
    for (int b = 0; b < kFew; ++b)
      if (s + b * path.stride < path.end) packs[b] = load<T, V>(x + path.at(s + b * path.stride));
#pragma unroll
    for (int b = 0; b < kFew; ++b)
      if (s + b * path.stride < path.end) {
        Pack<T, V> result;
#pragma unroll
        for (int v = 0; v < V; ++v) {
          const int c = kColumns ? v : 0;
          const A z = fma(static_cast<A>(wide(packs[b].values[v])) - mean[c], scale[c], bias[c]);
          result.values[v] = narrow<T>(activate(z, slope));
        }
        store<T, V>(y + path.at(s + b * path.stride), result);
      }
  }
}

template <typename A>
struct Sums {
  A grad = 0, product = 0;  // Σ g′ and Σ g′·(x − mean), g′ being what passes the LeakyReLU
};

template <typename T, int V, bool kColumns>
__global__ void __launch_bounds__(kThreads)
    sums(const __grid_constant__ Walk walk, const __grid_constant__ Settings settings, const T* grad, const T* x,
         Sums<typename AccOf<T>::type>* results) {
  using A = typename AccOf<T>::type;
  using P = Path<V, kColumns>;
  const P path(walk, block_x());
  Sums<A> own[P::kChannels];
  if (path.works) {
    A mean[P::kChannels], scale[P::kChannels], bias[P::kChannels];
#pragma unroll
    for (int c = 0; c < P::kChannels; ++c) {
      const Affine<A> f(settings, block_z(), path.channel + c);
      mean[c] = f.mean, scale[c] = f.scale, bias[c] = f.bias;
    }
    const A slope = static_cast<A>(settings.slope);
    constexpr int kFew = kBatch / 2;
    for (int s = path.step; s < path.end; s += kFew * path.stride) {
      Pack<T, V> xs[kFew], grads[kFew];
#pragma unroll
      for (int b = 0; b < kFew; ++b)
        if (s + b * path.stride < path.end) {
          xs[b] = load<T, V>(x + path.at(s + b * path.stride));
          grads[b] = load<T, V>(grad + path.at(s + b * path.stride));
        }
#pragma unroll
      for (int b = 0; b < kFew; ++b)
        if (s + b * path.stride < path.end)
#pragma unroll
          for (int v = 0; v < V; ++v) {
            const int c = kColumns ? v : 0;
            const A centred = static_cast<A>(wide(xs[b].values[v])) - mean[c],
                    g = static_cast<A>(wide(grads[b].values[v]));
            const A passed = activate_backward(fma(centred, scale[c], bias[c]), g, slope);
            own[c].grad += passed;
            own[c].product = fma(passed, centred, own[c].product);
          }
    }
  }
  combine_block(own, kColumns ? walk.across : 1, [](Sums<A>& into, const Sums<A>& from) {
    into.grad += from.grad;
    into.product += from.product;
  });
  const int finishers = kColumns ? walk.across : 1;
  if (path.works && static_cast<int>(threadIdx.x) < finishers)
#pragma unroll
    for (int c = 0; c < P::kChannels; ++c) results[result_at(walk, path.channel + c)] = own[c];
}

// One warp per channel adds up its segments, then its groups: totals (groups, channels), dweight and dbias (channels).
template <typename A>
__global__ void __launch_bounds__(kThreads)
    combine_sums(const __grid_constant__ Walk walk, const __grid_constant__ Settings settings, const Sums<A>* results,
                 Sums<A>* totals, A* dweight, A* dbias) {
  const int64_t channel = block_x() * kWarps + threadIdx.x / kWarp;
  if (channel >= walk.shape.channels) return;  // a whole warp
  const int lane = threadIdx.x % kWarp;
  double weight = 0, bias = 0;
  for (int64_t group = 0; group < walk.shape.groups; ++group) {
    const int64_t task = group * walk.shape.channels + channel;
    double grad = 0, product = 0;
    for (int64_t i = lane; i < walk.segments; i += kWarp) {
      grad += static_cast<double>(results[task * walk.segments + i].grad);
      product += static_cast<double>(results[task * walk.segments + i].product);
    }
    for (int distance = kWarp / 2; distance > 0; distance /= 2) {
      grad += __shfl_down_sync(kAll, grad, distance);
      product += __shfl_down_sync(kAll, product, distance);
    }
    if (lane == 0) {
      const Affine<A> f(settings, group, channel);
      Sums<A> total;
      total.grad = static_cast<A>(grad);
      total.product = static_cast<A>(product);
      totals[task] = total;
      weight += product * static_cast<double>(f.invstd);
      bias += grad;
    }
  }
  if (lane == 0) {
    dweight[channel] = static_cast<A>(weight);
    dbias[channel] = static_cast<A>(bias);
  }
}

// dx = scale·(g′ − mean g′ − x̂·mean(g′·x̂)); with constant statistics scale·g′.
template <typename T, int V, bool kColumns, bool kBatchStatistics>
__global__ void __launch_bounds__(kThreads)
    gradient(const __grid_constant__ Walk walk, const __grid_constant__ Settings settings,
             const Sums<typename AccOf<T>::type>* totals, const T* grad, const T* x, T* dx) {
  using A = typename AccOf<T>::type;
  using P = Path<V, kColumns>;
  const P path(walk, walk.segments - 1 - block_x());
  if (!path.works) return;
  A mean[P::kChannels], scale[P::kChannels], bias[P::kChannels], offset[P::kChannels], tilt[P::kChannels];
  const A n = static_cast<A>(walk.shape.values());
#pragma unroll
  for (int c = 0; c < P::kChannels; ++c) {
    const Affine<A> f(settings, block_z(), path.channel + c);
    mean[c] = f.mean, scale[c] = f.scale, bias[c] = f.bias;
    offset[c] = tilt[c] = 0;
    if (kBatchStatistics) {
      const Sums<A> total = totals[block_z() * walk.shape.channels + path.channel + c];
      offset[c] = f.scale * (total.grad / n);
      tilt[c] = f.scale * (f.invstd * f.invstd * (total.product / n));
    }
  }
  const A slope = static_cast<A>(settings.slope);
  constexpr int kFew = kBatch / 4;
  for (int s = path.step; s < path.end; s += kFew * path.stride) {
    Pack<T, V> xs[kFew], grads[kFew];
#pragma unroll
    for (int b = 0; b < kFew; ++b)
      if (s + b * path.stride < path.end) {
        xs[b] = load<T, V>(x + path.at(s + b * path.stride));
        grads[b] = load<T, V>(grad + path.at(s + b * path.stride));
      }
#pragma unroll
    for (int b = 0; b < kFew; ++b)
      if (s + b * path.stride < path.end) {
#pragma unroll
        for (int v = 0; v < V; ++v) {
          const int c = kColumns ? v : 0;
          const A centred = static_cast<A>(wide(xs[b].values[v])) - mean[c],
                  g = static_cast<A>(wide(grads[b].values[v]));
          A d = scale[c] * activate_backward(fma(centred, scale[c], bias[c]), g, slope);
          if (kBatchStatistics) d = d - offset[c] - centred * tilt[c];
          xs[b].values[v] = narrow<T>(d);
        }
        store<T, V>(dx + path.at(s + b * path.stride), xs[b]);
      }
  }
}

// r ← (1 − m)·r + m·factor·s for each group's statistics s, in order.
__global__ void __launch_bounds__(kThreads)
    update(void* running, Dtype running_dtype, int64_t stride, const void* statistics, Dtype dtype, int64_t groups,
           int64_t channels, double factor, double momentum) {
  const int64_t c = block_x() * kThreads + threadIdx.x;
  if (c >= channels) return;
  double value = read(running, running_dtype, c * stride);
  for (int64_t g = 0; g < groups; ++g)
    value = (1 - momentum) * value + momentum * factor * read(statistics, dtype, g * channels + c);
  switch (running_dtype) {
    case Dtype::Half: static_cast<__half*>(running)[c * stride] = narrow<__half>(value); break;
    case Dtype::BFloat16: static_cast<__nv_bfloat16*>(running)[c * stride] = narrow<__nv_bfloat16>(value); break;
    case Dtype::Float: static_cast<float*>(running)[c * stride] = static_cast<float>(value); break;
    default: static_cast<double*>(running)[c * stride] = value;
  }
}

unsigned blocks_for(int64_t tasks, int64_t per_block) {
  return static_cast<unsigned>((tasks + per_block - 1) / per_block);
}

// function(T{}, V as a type, whether by columns as a type): the widest access that shape and pointers allow.
template <typename Function>
void with_path(Dtype dtype, const NormShape& s, bool aligned, const Function& function) {
  with_type(dtype, [&](auto type) {
    constexpr int kWide = kVector<decltype(type)>;
    using One = std::integral_constant<int, 1>;
    using Wide = std::integral_constant<int, kWide>;
    if (s.inner == 1)
      aligned&& s.channels % kWide == 0 ? function(type, Wide{}, std::true_type{})
                                        : function(type, One{}, std::true_type{});
    else
      aligned&& s.inner % kWide == 0 ? function(type, Wide{}, std::false_type{})
                                     : function(type, One{}, std::false_type{});
  });
}

Settings settings_of(const std::optional<Tensor>& weight, const std::optional<Tensor>& bias, const Tensor& mean,
                     const Tensor& var, const NormShape& s, double eps, double slope, int64_t statistics_stride) {
  const Dtype type = dtype_of(mean, "mean");
  STD_TORCH_CHECK(var.scalar_type() == mean.scalar_type(), "mean and var differ in dtype");
  return {vector_of(weight, s.channels, 1, "weight"),
          vector_of(bias, s.channels, 0, "bias"),
          {mean.const_data_ptr(), type, mean.stride(mean.dim() - 1), 0},
          {var.const_data_ptr(), type, var.stride(var.dim() - 1), 0},
          eps,
          slope,
          statistics_stride};
}

template <typename T>
const T* in(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <typename T>
T* out(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

std::tuple<Tensor, Tensor, Tensor> norm_act(Tensor x, std::optional<Tensor> weight, std::optional<Tensor> bias,
                                            double eps, double negative_slope, int64_t groups) {
  const NormShape s = norm_shape_of(x, groups);
  const Dtype dtype = dtype_of(x, "x");
  const Launch launch(x);
  Tensor y = torch::stable::empty_like(x);
  Tensor mean = torch::stable::new_empty(x, {groups, s.channels}, compute_type(dtype));
  Tensor var = torch::stable::new_empty(x, {groups, s.channels}, compute_type(dtype));
  const Settings settings = settings_of(weight, bias, mean, var, s, eps, negative_slope, s.channels);
  with_path(dtype, s, is_aligned(x.const_data_ptr()), [&](auto type, auto vector, auto columns) {
    using T = decltype(type);
    using A = typename AccOf<T>::type;
    constexpr int V = decltype(vector)::value;
    constexpr bool kColumns = decltype(columns)::value;
    const Walk walk = walk_of<T, V>(s, kColumns);
    Tensor scratch = torch::stable::new_empty(x, {3 * groups * s.channels * walk.segments}, compute_type(dtype));
    auto* results = out<Moments<A>>(scratch);
    moments<T, V, kColumns><<<walk.grid(), kThreads, 0, launch>>>(walk, in<T>(x), results);
    combine_moments<T, A><<<blocks_for(groups * s.channels, kWarps), kThreads, 0, launch>>>(walk, in<T>(x), results,
                                                                                            out<A>(mean), out<A>(var));
    apply<T, V, kColumns><<<walk.grid(), kThreads, 0, launch>>>(walk, settings, in<T>(x), out<T>(y));
  });
  launch.check("norm_act");
  return {y, mean, var};
}

Tensor norm_act_inference(Tensor x, std::optional<Tensor> weight, std::optional<Tensor> bias, Tensor mean, Tensor var,
                          double eps, double negative_slope) {
  const NormShape s = norm_shape_of(x, 1);
  const Launch launch(x);
  Tensor y = torch::stable::empty_like(x);
  STD_TORCH_CHECK(mean.numel() == s.channels && var.numel() == s.channels, "mean and var: expected (C,) each");
  const Settings settings = settings_of(weight, bias, mean, var, s, eps, negative_slope, 0);
  with_path(dtype_of(x, "x"), s, is_aligned(x.const_data_ptr()), [&](auto type, auto vector, auto columns) {
    using T = decltype(type);
    constexpr int V = decltype(vector)::value;
    constexpr bool kColumns = decltype(columns)::value;
    const Walk walk = walk_of<T, V>(s, kColumns);
    apply<T, V, kColumns><<<walk.grid(), kThreads, 0, launch>>>(walk, settings, in<T>(x), out<T>(y));
  });
  launch.check("norm_act_inference");
  return y;
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
  with_path(dtype, s, aligned, [&](auto type, auto vector, auto columns) {
    using T = decltype(type);
    using A = typename AccOf<T>::type;
    constexpr int V = decltype(vector)::value;
    constexpr bool kColumns = decltype(columns)::value;
    const Walk walk = walk_of<T, V>(s, kColumns);
    const int64_t channels = s.groups * s.channels;
    Tensor scratch = torch::stable::new_empty(x, {2 * channels * (walk.segments + 1)}, compute_type(dtype));
    auto* totals = out<Sums<A>>(scratch);
    auto* results = totals + channels;
    sums<T, V, kColumns><<<walk.grid(), kThreads, 0, launch>>>(walk, settings, in<T>(grad), in<T>(x), results);
    combine_sums<A><<<blocks_for(s.channels, kWarps), kThreads, 0, launch>>>(walk, settings, results, totals,
                                                                             out<A>(dweight), out<A>(dbias));
    const auto kernel = batch_statistics ? &gradient<T, V, kColumns, true> : &gradient<T, V, kColumns, false>;
    kernel<<<walk.grid(), kThreads, 0, launch>>>(walk, settings, totals, in<T>(grad), in<T>(x), out<T>(dx));
  });
  launch.check("norm_act_backward");
  return {dx, dweight, dbias};
}

void norm_act_update(Tensor running_mean, Tensor running_var, Tensor mean, Tensor var, int64_t count, double momentum) {
  const int64_t groups = groups_of(mean, var), channels = mean.size(1);
  const Launch launch(mean);
  const double unbiased = static_cast<double>(count) / static_cast<double>(count - 1);
  const auto one = [&](Tensor& running, const Tensor& statistics, double factor, const char* what) {
    STD_TORCH_CHECK(running.dim() == 1 && running.numel() == channels, what, ": expected (", channels, ",)");
    update<<<blocks_for(channels, kThreads), kThreads, 0, launch>>>(
        running.mutable_data_ptr(), dtype_of(running, what), running.stride(0), statistics.const_data_ptr(),
        dtype_of(statistics, "statistics"), groups, channels, factor, momentum);
  };
  one(running_mean, mean, 1, "running_mean");
  one(running_var, var, unbiased, "running_var");
  launch.check("norm_act_update");
}

}  // namespace
}  // namespace igan_fast::cuda

STABLE_TORCH_LIBRARY_IMPL(igan_fast, CUDA, m) {
  m.impl("norm_act", TORCH_BOX(&igan_fast::cuda::norm_act));
  m.impl("norm_act_inference", TORCH_BOX(&igan_fast::cuda::norm_act_inference));
  m.impl("norm_act_backward", TORCH_BOX(&igan_fast::cuda::norm_act_backward));
  m.impl("norm_act_update", TORCH_BOX(&igan_fast::cuda::norm_act_update));
}
