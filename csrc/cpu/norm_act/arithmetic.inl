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

// The sums are those over `count` values.
template <typename A>
Gradient<A> gradient_of(A scale, A invstd, const GradientSums& sums, double count, bool batch_statistics) {
  if (!batch_statistics) return {0, 0};
  const double inv = static_cast<double>(invstd), s = static_cast<double>(scale);
  return {static_cast<A>(s * sums.dz / count), static_cast<A>(s * inv * inv * sums.dz_x / count)};
}

// The two halves of a backward pass: the sums of every group and channel, and the gradient of x from them.
struct Halves {
  bool sums, gradient;
};

// dweight and dbias, (channels,), from the sums, (groups, channels).
template <typename A>
void parameter_gradients(const NormShape& s, const GradientSums* sums, const A* var, A eps, A* dweight, A* dbias) {
  for (int64_t c = 0; c < s.channels; ++c) {
    double weight = 0, bias = 0;
    for (int64_t at = c; at < s.groups * s.channels; at += s.channels) {
      weight += sums[at].dz_x * static_cast<double>(inverse_std(var[at], eps));
      bias += sums[at].dz;
    }
    dweight[c] = static_cast<A>(weight);
    dbias[c] = static_cast<A>(bias);
  }
}
