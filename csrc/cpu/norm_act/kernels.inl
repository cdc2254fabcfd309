// Statistics per channel, normalisation, LeakyReLU and film (a scale and a shift for each channel of each image),
// forward and backward, in two layouts:
//
//   contiguous     a vector holds neighbouring values of one channel
//   channels_last  a vector holds one value each of neighbouring channels
//
// The statistics have no cancellation for data far from zero. The values are divided into blocks, which are usually
// read once (see block_moments). The moments of the blocks are merged in double. The division into blocks and segments
// depends only on the shape, so the same input gives the same bits on any number of threads.

namespace {

#include "cpu/norm_act/arithmetic.inl"

namespace contiguous {
#include "cpu/norm_act/contiguous.inl"
#include "cpu/norm_act/contiguous_forward.inl"
#include "cpu/norm_act/contiguous_backward.inl"
}  // namespace contiguous

namespace channels_last {
#include "cpu/norm_act/channels_last.inl"
#include "cpu/norm_act/channels_last_film.inl"
#include "cpu/norm_act/channels_last_forward.inl"
#include "cpu/norm_act/channels_last_backward.inl"
}  // namespace channels_last

// Whether a channel has enough neighbouring values to fill vectors. If a contiguous tensor has only a few (a linear
// layer's output, a 2×2 feature map) but enough rows to sum over, the channels_last kernels compute it.
inline bool fills_vectors(const NormShape& s) { return s.inner >= 32 || (s.inner > 1 && s.rows < 8); }

// Calls function(T{}) with the type T of dtype; float64 where A is double.
template <typename A, typename Function>
void with_type_for(Dtype dtype, const Function& function) {
  if constexpr (sizeof(A) == sizeof(double))
    function(double{});
  else if (dtype == Dtype::Half)
    function(Half{});
  else if (dtype == Dtype::BFloat16)
    function(BFloat16{});
  else
    function(float{});
}

template <typename A>
void forward(const NormShape& shape, Dtype dtype, const void* x, const NormParams<A>& params, void* y, A* mean, A* var,
             ParallelFor parallel_for) {
  with_type_for<A>(dtype, [&](auto type) {
    using T = decltype(type);
    const auto typed_forward = fills_vectors(shape) ? &contiguous::forward<T> : &channels_last::forward<T>;
    typed_forward(shape, static_cast<const T*>(x), params, static_cast<T*>(y), mean, var, true, parallel_for);
  });
}

template <typename A>
void inference(const NormShape& shape, Dtype dtype, const void* x, const NormParams<A>& params, const A* mean,
               const A* var, void* y, ParallelFor parallel_for) {
  with_type_for<A>(dtype, [&](auto type) {
    using T = decltype(type);
    const auto typed_forward = fills_vectors(shape) ? &contiguous::forward<T> : &channels_last::forward<T>;
    typed_forward(shape, static_cast<const T*>(x), params, static_cast<T*>(y), const_cast<A*>(mean),
                  const_cast<A*>(var), false, parallel_for);
  });
}

template <typename A>
void statistics(const NormShape& shape, Dtype dtype, const void* x, A* mean, A* var, ParallelFor parallel_for) {
  forward<A>(shape, dtype, x, {}, nullptr, mean, var, parallel_for);
}

template <typename A>
void halves_of_backward(const NormShape& shape, Dtype dtype, const void* grad, const void* x,
                        const NormParams<A>& params, const A* mean, const A* var, bool batch_statistics, Halves half,
                        GradientSums* sums, double count, void* dx, A* dfilm, ParallelFor parallel_for) {
  with_type_for<A>(dtype, [&](auto type) {
    using T = decltype(type);
    const auto typed_backward = fills_vectors(shape) ? &contiguous::backward<T> : &channels_last::backward<T>;
    typed_backward(shape, static_cast<const T*>(grad), static_cast<const T*>(x), params, mean, var, batch_statistics,
                   half, sums, count, static_cast<T*>(dx), dfilm, parallel_for);
  });
}

template <typename A>
void backward(const NormShape& shape, Dtype dtype, const void* grad, const void* x, const NormParams<A>& params,
              const A* mean, const A* var, bool batch_statistics, void* dx, A* dweight, A* dbias, A* dfilm,
              ParallelFor parallel_for) {
  const std::unique_ptr<GradientSums[]> sums(new GradientSums[static_cast<size_t>(shape.groups * shape.channels)]);
  halves_of_backward(shape, dtype, grad, x, params, mean, var, batch_statistics, {true, true}, sums.get(),
                     static_cast<double>(shape.values()), dx, dfilm, parallel_for);
  parameter_gradients(shape, sums.get(), var, params.eps, dweight, dbias);
}

template <typename A>
void sums(const NormShape& shape, Dtype dtype, const void* grad, const void* x, const NormParams<A>& params,
          const A* mean, const A* var, GradientSums* sums, A* dfilm, ParallelFor parallel_for) {
  halves_of_backward<A>(shape, dtype, grad, x, params, mean, var, true, {true, false}, sums, 1, nullptr, dfilm,
                        parallel_for);
}

template <typename A>
void gradient(const NormShape& shape, Dtype dtype, const void* grad, const void* x, const NormParams<A>& params,
              const A* mean, const A* var, const GradientSums* sums, double count, void* dx, ParallelFor parallel_for) {
  halves_of_backward<A>(shape, dtype, grad, x, params, mean, var, true, {false, true}, const_cast<GradientSums*>(sums),
                        count, dx, nullptr, parallel_for);
}

template <typename A>
constexpr NormKernels<A> norm_act_table = {&forward<A>,  &statistics<A>, &inference<A>,
                                           &backward<A>, &sums<A>,       &gradient<A>};

}  // namespace
