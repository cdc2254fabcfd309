// The 5×5 stride-2 convolution, its transpose and its weight gradient against
// direct loops in double, for every instruction set and both tile sizes.

#include <limits>

#include "testing.h"

using namespace igan_fast;
using namespace igan_fast::cpu;

namespace {

struct Case {
  StridedConvShape shape;
  std::vector<float> large, small, weight, bias;
  // What small, large and weight's gradient come to.
  std::vector<double> small_sums, large_sums, gradient;

  explicit Case(const StridedConvShape &s) : shape(s) {
    Random random{11};
    const int64_t places = s.batch * s.small_height * s.small_width;
    large.resize(static_cast<size_t>(4 * places * s.large_channels));
    small.resize(static_cast<size_t>(places * s.small_channels));
    weight.resize(
        static_cast<size_t>(25 * s.small_channels * s.large_channels));
    bias.resize(
        static_cast<size_t>(std::max(s.small_channels, s.large_channels)));
    for (auto *values : {&large, &small, &weight, &bias})
      for (float &value : *values)
        value = static_cast<float>(random());
    small_sums.resize(small.size());
    large_sums.resize(large.size());
    gradient.resize(weight.size());
    each([&](size_t at_large, size_t at_small, size_t at_weight) {
      const double l = static_cast<double>(large[at_large]),
                   m = static_cast<double>(small[at_small]),
                   w = static_cast<double>(weight[at_weight]);
      small_sums[at_small] += l * w;
      large_sums[at_large] += m * w;
      gradient[at_weight] += l * m;
    });
  }

  // function(place in large, place in small, place in weight) for every product
  // that the convolution is a sum of.
  template <typename Function> void each(const Function &function) const {
    const StridedConvShape &s = shape;
    for (int64_t n = 0; n < s.batch; ++n)
      for (int64_t y = 0; y < s.small_height; ++y)
        for (int64_t x = 0; x < s.small_width; ++x)
          for (int64_t tap = 0; tap < 25; ++tap) {
            const int64_t row = 2 * y + tap / 5 - 2,
                          column = 2 * x + tap % 5 - 2;
            if (row < 0 || row >= 2 * s.small_height || column < 0 ||
                column >= 2 * s.small_width)
              continue;
            const int64_t at_large =
                ((n * 2 * s.small_height + row) * 2 * s.small_width + column) *
                s.large_channels;
            const int64_t at_small =
                ((n * s.small_height + y) * s.small_width + x) *
                s.small_channels;
            for (int64_t c = 0; c < s.large_channels; ++c)
              for (int64_t k = 0; k < s.small_channels; ++k)
                function(
                    static_cast<size_t>(at_large + c),
                    static_cast<size_t>(at_small + k),
                    static_cast<size_t>((k * s.large_channels + c) * 25 + tap));
          }
  }
};

// Weights with their input channels last in memory, and where the values of the
// contiguous ones lie in them.
FilterStrides channels_last(const StridedConvShape &s) {
  return {s.large_channels * 25, 1, 5 * s.large_channels, s.large_channels};
}

std::vector<float> as_channels_last(const StridedConvShape &s,
                                    const std::vector<float> &weight) {
  std::vector<float> out(weight.size());
  const FilterStrides to = channels_last(s);
  size_t from = 0;
  for (int64_t k = 0; k < s.small_channels; ++k)
    for (int64_t c = 0; c < s.large_channels; ++c)
      for (int64_t tap = 0; tap < 25; ++tap)
        out[static_cast<size_t>(k * to.small + c * to.large + tap / 5 * to.row +
                                tap % 5 * to.column)] = weight[from++];
  return out;
}

double worst(const std::vector<float> &found,
             const std::vector<double> &expected) {
  double largest = 1e-30, difference = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    largest = std::max(largest, std::abs(expected[i]));
    const double d = std::abs(static_cast<double>(found[i]) - expected[i]);
    if (std::isnan(d)) // which no comparison would keep
      return std::numeric_limits<double>::infinity();
    difference = std::max(difference, d);
  }
  return difference / largest;
}

void one_case(const char *isa, const StridedConvKernels &kernel, int tile,
              const Case &c) {
  const StridedConvShape &s = c.shape;
  const FilterStrides strides{s.large_channels * 25, 25, 5, 1};
  const double allowed = tile == 2 ? 2e-6 : 1e-5;
  const float slope = 0.2f;
  const auto activated = [&](std::vector<double> values, int64_t channels) {
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] +=
          static_cast<double>(c.bias[i % static_cast<size_t>(channels)]);
      values[i] *= values[i] > 0 ? 1.0 : static_cast<double>(slope);
    }
    return values;
  };

  // Buffers of exactly the size that may be touched; NaN shows what was not
  // written.
  const float unwritten = std::numeric_limits<float>::quiet_NaN();
  for (const bool transposed : {false, true}) {
    std::vector<float> filter(
        static_cast<size_t>(kernel.filter_size(s, transposed)));
    kernel.make_filter(s, strides, c.weight.data(), transposed, filter.data(),
                       &on_threads);
    std::vector<float> other(filter.size());
    kernel.make_filter(s, channels_last(s),
                       as_channels_last(s, c.weight).data(), transposed,
                       other.data(), &in_one_piece);
    CHECK(filter == other,
          "%s, tile %d, transposed %d: the weights' layout changes bits", isa,
          tile, transposed);
    const auto run = transposed ? kernel.convolve_transposed : kernel.convolve;
    const std::vector<float> &in = transposed ? c.small : c.large;
    std::vector<float> out(transposed ? c.large.size() : c.small.size(),
                           unwritten),
        again = out;
    run(s, in.data(), filter.data(), nullptr, 1.f, out.data(), &on_threads);
    const double plain = worst(out, transposed ? c.large_sums : c.small_sums);
    CHECK(plain <= allowed, "%s, tile %d, transposed %d: %g", isa, tile,
          transposed, plain);
    run(s, in.data(), filter.data(), nullptr, 1.f, again.data(), &in_one_piece);
    CHECK(out == again, "%s, tile %d, transposed %d: threads change bits", isa,
          tile, transposed);
    run(s, in.data(), filter.data(), c.bias.data(), slope, out.data(),
        &on_threads);
    const double with_bias =
        worst(out, transposed ? activated(c.large_sums, s.large_channels)
                              : activated(c.small_sums, s.small_channels));
    CHECK(with_bias <= allowed, "%s, tile %d, transposed %d, bias: %g", isa,
          tile, transposed, with_bias);
  }
  std::vector<float> found(c.weight.size(), unwritten), again = found;
  kernel.weight_gradient(s, strides, c.large.data(), c.small.data(),
                         found.data(), &on_threads);
  const double difference = worst(found, c.gradient);
  CHECK(difference <= allowed, "%s, tile %d, weight gradient: %g", isa, tile,
        difference);
  kernel.weight_gradient(s, strides, c.large.data(), c.small.data(),
                         again.data(), &in_one_piece);
  CHECK(found == again, "%s, tile %d, weight gradient: threads change bits",
        isa, tile);
  kernel.weight_gradient(s, channels_last(s), c.large.data(), c.small.data(),
                         again.data(), &on_threads);
  CHECK(as_channels_last(s, found) == again,
        "%s, tile %d, weight gradient: its layout changes bits", isa, tile);
}

} // namespace

int main() {
  // batch, height and width of the small image, its channels, the large one's.
  const StridedConvShape shapes[] = {
      {1, 1, 1, 1, 1},  {2, 4, 4, 16, 16},   {1, 5, 3, 17, 9},
      {3, 2, 7, 5, 33}, {2, 8, 12, 40, 24},  {40, 4, 4, 8, 8},
      {1, 1, 6, 33, 1}, {4, 11, 10, 180, 3}, // sums over blocks of tiles
  };
  return for_every_isa([&](const Kernels &kernels) {
    for (const StridedConvShape &shape : shapes) {
      const Case c(shape);
      one_case(kernels.isa, kernels.strided_conv_2, 2, c);
      one_case(kernels.isa, kernels.strided_conv_4, 4, c);
    }
  });
}
