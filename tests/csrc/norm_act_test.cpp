// norm_act's CPU kernels against loops in double, on buffers of exactly the
// size that they may touch.

#include "cpu/norm_act/kernels.h"

#include "testing.h"

using namespace igan_fast;
using namespace igan_fast::cpu;

namespace {

// The index in memory of value k of a group and channel.
size_t index_of(const NormShape &s, int64_t group, int64_t channel, int64_t k) {
  return static_cast<size_t>(
      ((group * s.rows + k / s.inner) * s.channels + channel) * s.inner +
      k % s.inner);
}

double relative(double difference, double scale) {
  return std::abs(difference) / std::max(scale, 1.0);
}

template <typename T>
void one_shape(Isa isa, const NormShape &s, double mean_of_data,
               bool has_film) {
  using A = typename AccOf<T>::type;
  const size_t count = static_cast<size_t>(s.groups * s.values() * s.channels),
               channels = static_cast<size_t>(s.channels);
  Random random{5};
  std::vector<T> x(count), grad(count), y = unwritten<T>(count), dx = y,
                                        again = y;
  for (T &value : x)
    value = from_double<T>(random() + mean_of_data);
  for (T &value : grad)
    value = from_double<T>(random());
  std::vector<A> weight(channels), bias(channels),
      dweight = unwritten<A>(channels), dbias = dweight;
  for (A &value : weight)
    value = static_cast<A>(random());
  for (A &value : bias)
    value = static_cast<A>(random());
  std::vector<A> mean = unwritten<A>(channels * static_cast<size_t>(s.groups)),
                 var = mean;
  const size_t images = static_cast<size_t>(s.groups * (s.rows / s.image_rows)),
               film_count = has_film ? images * 2 * channels : 0;
  std::vector<A> film(film_count), dfilm = unwritten<A>(film_count);
  for (A &value : film)
    value = static_cast<A>(random());
  const NormParams<A> params{weight.data(), bias.data(), static_cast<A>(1e-5),
                             static_cast<A>(0.2),
                             has_film ? film.data() : nullptr};
  const NormKernels<A> &norm = norm_act_kernels<A>(isa);

  norm.forward(s, dtype_of<T>(), x.data(), params, y.data(), mean.data(),
               var.data(), &on_threads);
  norm.backward(s, dtype_of<T>(), grad.data(), x.data(), params, mean.data(),
                var.data(), true, dx.data(), dweight.data(), dbias.data(),
                dfilm.data(), &on_threads);

  double worst_y = 0, worst_dx = 0, worst_weight = 0, worst_bias = 0,
         worst_film = 0;
  std::vector<double> film_sums(film_count);
  std::vector<double> weight_sums(channels), bias_sums(channels);
  const double n = static_cast<double>(s.values());
  for (int64_t g = 0; g < s.groups; ++g)
    for (int64_t c = 0; c < s.channels; ++c) {
      double mu = 0, square = 0, sum_grad = 0, sum_product = 0;
      for (int64_t k = 0; k < s.values(); ++k)
        mu += static_cast<double>(to_float(x[index_of(s, g, c, k)])) / n;
      for (int64_t k = 0; k < s.values(); ++k)
        square += std::pow(
            static_cast<double>(to_float(x[index_of(s, g, c, k)])) - mu, 2);
      const double w = weight[static_cast<size_t>(c)],
                   b = bias[static_cast<size_t>(c)],
                   inverse = 1 / std::sqrt(square / n + 1e-5);
      const auto normal = [&](int64_t k) {
        return (static_cast<double>(to_float(x[index_of(s, g, c, k)])) - mu) *
               inverse;
      };
      const auto film_at = [&](int64_t k) { // the scale; the shift follows
        const int64_t image =
            g * (s.rows / s.image_rows) + k / s.inner / s.image_rows;
        return static_cast<size_t>(image * 2 * s.channels + c);
      };
      const auto dz = [&](int64_t k) {
        const double scale = has_film ? 1 + double(film[film_at(k)]) : 1;
        return static_cast<double>(to_float(grad[index_of(s, g, c, k)])) *
               scale * (normal(k) * w + b > 0 ? 1 : 0.2);
      };
      for (int64_t k = 0; k < s.values(); ++k) {
        sum_grad += dz(k);
        sum_product += dz(k) * normal(k);
        if (has_film) {
          const double z = normal(k) * w + b, dy = static_cast<double>(to_float(
                                                  grad[index_of(s, g, c, k)]));
          film_sums[film_at(k)] += dy * (z > 0 ? z : 0.2 * z);
          film_sums[film_at(k) + channels] += dy;
        }
      }
      for (int64_t k = 0; k < s.values(); ++k) {
        const double z = normal(k) * w + b, a = z > 0 ? z : 0.2 * z,
                     out = has_film ? a * (1 + double(film[film_at(k)])) +
                                          double(film[film_at(k) + channels])
                                    : a;
        const double d =
            w * inverse * (dz(k) - sum_grad / n - normal(k) * sum_product / n);
        worst_y = worse(
            worst_y,
            relative(static_cast<double>(to_float(y[index_of(s, g, c, k)])) -
                         out,
                     std::abs(out)));
        if (std::abs(z) >
            1e-3) // nearer to 0, rounding may choose the other side
          worst_dx = worse(
              worst_dx,
              relative(static_cast<double>(to_float(dx[index_of(s, g, c, k)])) -
                           d,
                       std::abs(d)));
      }
      weight_sums[static_cast<size_t>(c)] += sum_product;
      bias_sums[static_cast<size_t>(c)] += sum_grad;
    }
  for (size_t c = 0; c < channels; ++c) {
    worst_weight = worse(worst_weight,
                         relative(dweight[c] - weight_sums[c], std::sqrt(n)));
    worst_bias =
        worse(worst_bias, relative(dbias[c] - bias_sums[c], std::sqrt(n)));
  }
  for (size_t i = 0; i < film_count; ++i)
    worst_film =
        worse(worst_film,
              relative(double(dfilm[i]) - film_sums[i],
                       std::sqrt(static_cast<double>(s.image_rows * s.inner))));
  const double allowed = tolerance<T>() * (mean_of_data != 0 ? 200 : 1);
  CHECK(worst_y < allowed && worst_dx < 4 * allowed &&
            worst_weight < 4 * allowed && worst_bias < 4 * allowed &&
            worst_film < 4 * allowed,
        "%s, size %zu, %ld×%ld×%ld×%ld of %ld rows, film %d: y %g, dx %g, "
        "weight %g, bias %g, film %g",
        name_of(isa), sizeof(T), long(s.groups), long(s.rows), long(s.channels),
        long(s.inner), long(s.image_rows), has_film, worst_y, worst_dx,
        worst_weight, worst_bias, worst_film);

  norm.forward(s, dtype_of<T>(), x.data(), params, again.data(), mean.data(),
               var.data(), &in_one_piece);
  CHECK(!std::memcmp(again.data(), y.data(), count * sizeof(T)),
        "%s: other bits with other threads", name_of(isa));
  std::vector<T> dx_again = unwritten<T>(count);
  std::vector<A> dfilm_again = unwritten<A>(film_count);
  norm.backward(s, dtype_of<T>(), grad.data(), x.data(), params, mean.data(),
                var.data(), true, dx_again.data(), dweight.data(), dbias.data(),
                dfilm_again.data(), &in_one_piece);
  CHECK(!std::memcmp(dx_again.data(), dx.data(), count * sizeof(T)) &&
            std::equal(dfilm.begin(), dfilm.end(), dfilm_again.begin()),
        "%s: other bits of the gradients with other threads", name_of(isa));
  norm.inference(s, dtype_of<T>(), x.data(), params, mean.data(), var.data(),
                 again.data(), &on_threads);
  CHECK(!std::memcmp(again.data(), y.data(), count * sizeof(T)),
        "%s: inference differs", name_of(isa));

  const size_t parts = channels * static_cast<size_t>(s.groups);
  std::vector<A> own_mean = unwritten<A>(parts), own_var = own_mean;
  norm.statistics(s, dtype_of<T>(), x.data(), own_mean.data(), own_var.data(),
                  &on_threads);
  CHECK(!std::memcmp(own_mean.data(), mean.data(), parts * sizeof(A)) &&
            !std::memcmp(own_var.data(), var.data(), parts * sizeof(A)),
        "%s: the first half of forward differs", name_of(isa));
  std::vector<GradientSums> sums(parts);
  std::fill(dx_again.begin(), dx_again.end(), unwritten<T>(1)[0]);
  std::fill(dfilm_again.begin(), dfilm_again.end(), unwritten<A>(1)[0]);
  norm.sums(s, dtype_of<T>(), grad.data(), x.data(), params, mean.data(),
            var.data(), sums.data(), dfilm_again.data(), &on_threads);
  norm.gradient(s, dtype_of<T>(), grad.data(), x.data(), params, mean.data(),
                var.data(), sums.data(), n, dx_again.data(), &on_threads);
  CHECK(!std::memcmp(dx_again.data(), dx.data(), count * sizeof(T)) &&
            std::equal(dfilm.begin(), dfilm.end(), dfilm_again.begin()),
        "%s: the halves of backward differ", name_of(isa));
}

template <typename T> void shapes(Isa isa) {
  const NormShape all[] = {
      {1, 2, 1, 1}, // the fewest values
      {1, 5, 3, 1},
      {2, 33, 16, 1},
      {1, 1000, 3, 1},
      {1, 700, 130, 1},
      {3, 9, 600, 1},
      {20, 12, 5, 1},
      {1, 1003, 32, 1}, // merged rows and a tail of whole vectors
      {2, 7, 3, 1},     // a tail alone
      {1, 40, 17, 4},   // channels_last with several values of a channel
      {2, 16, 33, 9},
      {1, 61, 5, 3},
      {1, 3, 2, 5}, // contiguous
      {2, 3, 4, 100},
      {1, 2, 3, 20000},
      {1, 300, 20, 64},
      {1, 4, 1, 9001},
      {5, 1, 7, 49},
      // more channels than are computed together, also in groups
      {1, 16, 70, 64},
      {2, 6, 77, 36},
      {1, 3, 70, 33},
  };
  for (NormShape shape : all) {
    one_shape<T>(isa, shape, 0, false);
    // channels_last: images of one row, of a few and of all; else of one row.
    for (const int64_t rows : {int64_t{1}, int64_t{2}, int64_t{17}, shape.rows})
      if (shape.rows % rows == 0 && (rows == 1 || shape.inner == 1)) {
        shape.image_rows = rows;
        one_shape<T>(isa, shape, 0, true);
      }
  }
}

} // namespace

int main() {
  return for_every_isa([](Isa isa) {
    shapes<Half>(isa);
    shapes<BFloat16>(isa);
    shapes<float>(isa);
    shapes<double>(isa);
    one_shape<float>(isa, {1, 3000, 32, 1}, 1e4, false);
    one_shape<float>(isa, {1, 30, 3, 1000}, 1e4, false);
    one_shape<float>(isa, {1, 3000, 32, 1, 1500}, 0, true);
    one_shape<float>(isa, {1, 3002, 33, 1, 1501}, 0, true);
  });
}
