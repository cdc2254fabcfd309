// Statistics per channel, normalisation and LeakyReLU, forward and backward.
//
// The statistics are exact for data far from zero: each block of a few thousand values, small enough to stay in the
// first cache, is read twice (its mean, then the squares about that mean), and the blocks' moments are merged in double
// by Chan's formula. The partition into blocks and segments depends on the shape alone, so the same input gives the
// same bits on any number of threads.

namespace {

constexpr int64_t kBlockValues = 8192;
constexpr int64_t kSegmentValues = 65536;  // what is worth a thread of its own
constexpr int64_t kMaxSegments = 32;
constexpr int64_t kOwnTasks = 16;  // from so many on, channels or groups are the parallel tasks themselves

struct Moments {
  double count = 0, mean = 0, m2 = 0;
  IGAN_FAST_INLINE void merge(double n, double other_mean, double other_m2) {
    if (n == 0) return;
    const double total = count + n, delta = other_mean - mean;
    m2 += other_m2 + delta * delta * (count * n / total);
    mean += delta * (n / total);
    count = total;
  }
};

// What one channel's values go through: z = (x − mean)·scale + bias, in this very form forward and backward, so that
// the sign found again in the backward is the forward's.
template <typename A>
struct Affine {
  A mean, scale, bias, slope;
};

template <typename A>
A inverse_std(A var, A eps) {
  return static_cast<A>(1 / std::sqrt(static_cast<double>(var) + static_cast<double>(eps)));
}

// dx = scale·g′ − offset − (x − mean)·tilt
template <typename A>
struct Gradient {
  A offset, tilt;
};

template <typename A>
Gradient<A> gradient_of(A scale, A invstd, double sum_grad, double sum_grad_x, int64_t count, bool batch_statistics) {
  if (!batch_statistics) return {0, 0};
  const double inv = static_cast<double>(invstd), n = static_cast<double>(count), s = static_cast<double>(scale);
  return {static_cast<A>(s * sum_grad / n), static_cast<A>(s * inv * inv * sum_grad_x / n)};
}

#include "norm_act_runs.inl"
#include "norm_act_columns.inl"

// Long enough to be worth a loop each; of short ones, enough rows must make up columns that are.
inline bool by_runs(const NormShape& s) { return s.inner >= 32 || (s.inner > 1 && s.rows < 8); }

template <typename A, typename Function>
void with_norm_type(Dtype dtype, const Function& function) {
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
void norm_forward(const NormShape& shape, Dtype dtype, const void* x, const NormParams<A>& params, void* y, A* mean,
                  A* var, ParallelFor run) {
  with_norm_type<A>(dtype, [&](auto type) {
    using T = decltype(type);
    const auto forward = by_runs(shape) ? &runs::forward<T> : &columns::forward<T>;
    forward(shape, static_cast<const T*>(x), params, static_cast<T*>(y), mean, var, true, run);
  });
}

template <typename A>
void norm_inference(const NormShape& shape, Dtype dtype, const void* x, const NormParams<A>& params, const A* mean,
                    const A* var, void* y, ParallelFor run) {
  with_norm_type<A>(dtype, [&](auto type) {
    using T = decltype(type);
    const auto forward = by_runs(shape) ? &runs::forward<T> : &columns::forward<T>;
    forward(shape, static_cast<const T*>(x), params, static_cast<T*>(y), const_cast<A*>(mean), const_cast<A*>(var),
            false, run);
  });
}

template <typename A>
void norm_backward(const NormShape& shape, Dtype dtype, const void* grad, const void* x, const NormParams<A>& params,
                   const A* mean, const A* var, bool batch_statistics, void* dx, A* dweight, A* dbias,
                   ParallelFor run) {
  with_norm_type<A>(dtype, [&](auto type) {
    using T = decltype(type);
    const auto backward = by_runs(shape) ? &runs::backward<T> : &columns::backward<T>;
    backward(shape, static_cast<const T*>(grad), static_cast<const T*>(x), params, mean, var, batch_statistics,
             static_cast<T*>(dx), dweight, dbias, run);
  });
}

template <typename A>
constexpr NormKernels<A> norm_kernels = {&norm_forward<A>, &norm_inference<A>, &norm_backward<A>};

}  // namespace
