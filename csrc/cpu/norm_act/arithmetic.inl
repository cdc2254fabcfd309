// The arithmetic that both layouts share.

// The division of the work. It depends only on the shape, never on the number of threads.
constexpr int64_t kBlockValues = 8192;
constexpr int64_t kSegmentValues = 65536;  // another thread does not pay off for less work
constexpr int64_t kMaxSegments = 32;
constexpr int64_t kMinTasks = 16;  // with at least as many channels or groups, each of them is one parallel task

// Count, mean and sum of squared deviations of a set of values. merge() adds another set by Chan's formula.
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

// The normalisation of one channel: z = (x − mean)·scale + bias. Forward and backward compute z by the same formula, so
// that z has the same sign in both.
template <typename A>
struct Affine {
  A mean, scale, bias, slope;
};

// The scale and the shift of one channel of an image after the activation: y = activate(z)·scale + shift.
template <typename A>
struct Film {
  A scale, shift;
};

// The film of an image and a channel, from its values (images, 2, channels).
template <typename A>
IGAN_FAST_INLINE Film<A> film_of(const A* film, int64_t channels, int64_t image, int64_t channel) {
  const A* at = film + image * 2 * channels + channel;
  return {1 + at[0], at[channels]};
}

template <typename A>
A inverse_std(A var, A eps) {
  return static_cast<A>(1 / std::sqrt(static_cast<double>(var) + static_cast<double>(eps)));
}

// The gradient of x, where dz is the gradient of z: dx = scale·dz − mean_term − (x − mean)·var_term. The two terms are
// the gradients through the batch's mean and variance.
template <typename A>
struct Gradient {
  A mean_term, var_term;
};

// sum_dz is Σ dz, sum_dz_x is Σ dz·(x − mean), both over the channel's `count` values.
template <typename A>
Gradient<A> gradient_of(A scale, A invstd, double sum_dz, double sum_dz_x, int64_t count, bool batch_statistics) {
  if (!batch_statistics) return {0, 0};
  const double inv = static_cast<double>(invstd), n = static_cast<double>(count), s = static_cast<double>(scale);
  return {static_cast<A>(s * sum_dz / n), static_cast<A>(s * inv * inv * sum_dz_x / n)};
}
