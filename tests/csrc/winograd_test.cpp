// The Winograd convolution, the transposed one and the weight gradient against
// direct loops in double, for every instruction set, filter and tile size.

#include <array>
#include <cstdlib>
#include <limits>
#include <map>
#include <memory>

#include "cpu/winograd/kernels.h"

#include "testing.h"

using namespace igan_fast;
using namespace igan_fast::cpu;

namespace {

struct Case {
  ConvShape shape;
  int64_t kernel, stride, taps;
  std::vector<float> large, small, weight, bias;
  // The expected results: the convolution, the transposed one and the weight
  // gradient.
  std::vector<double> small_sums, large_sums, gradient;

  Case(const ConvShape &s, int64_t kernel_, int64_t stride_)
      : shape(s), kernel(kernel_), stride(stride_), taps(kernel_ * kernel_) {
    Random random{11};
    large.resize(static_cast<size_t>(s.batch * s.large_height * s.large_width *
                                     s.large_channels));
    small.resize(static_cast<size_t>(s.batch * s.small_height * s.small_width *
                                     s.small_channels));
    weight.resize(
        static_cast<size_t>(taps * s.small_channels * s.large_channels));
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

  // Calls function(index in large, index in small, index in weight) for every
  // product that the convolution sums.
  template <typename Function> void each(const Function &function) const {
    const ConvShape &s = shape;
    for (int64_t n = 0; n < s.batch; ++n)
      for (int64_t y = 0; y < s.small_height; ++y)
        for (int64_t x = 0; x < s.small_width; ++x)
          for (int64_t tap = 0; tap < taps; ++tap) {
            const int64_t row = stride * y + tap / kernel - s.padding,
                          column = stride * x + tap % kernel - s.padding;
            if (row < 0 || row >= s.large_height || column < 0 ||
                column >= s.large_width)
              continue;
            const int64_t at_large =
                ((n * s.large_height + row) * s.large_width + column) *
                s.large_channels;
            const int64_t at_small =
                ((n * s.small_height + y) * s.small_width + x) *
                s.small_channels;
            for (int64_t c = 0; c < s.large_channels; ++c)
              for (int64_t k = 0; k < s.small_channels; ++k)
                function(static_cast<size_t>(at_large + c),
                         static_cast<size_t>(at_small + k),
                         static_cast<size_t>((k * s.large_channels + c) * taps +
                                             tap));
          }
  }

  FilterStrides contiguous() const {
    return {shape.large_channels * taps, taps, kernel, 1};
  }

  // The strides of weights whose large channels are last in memory, and
  // contiguous weights copied to that layout.
  FilterStrides channels_last() const {
    return {shape.large_channels * taps, 1, kernel * shape.large_channels,
            shape.large_channels};
  }
  std::vector<float> as_channels_last(const std::vector<float> &values) const {
    std::vector<float> out(values.size());
    const FilterStrides to = channels_last();
    size_t from = 0;
    for (int64_t k = 0; k < shape.small_channels; ++k)
      for (int64_t c = 0; c < shape.large_channels; ++c)
        for (int64_t tap = 0; tap < taps; ++tap)
          out[static_cast<size_t>(k * to.small + c * to.large +
                                  tap / kernel * to.row +
                                  tap % kernel * to.column)] = values[from++];
    return out;
  }
};

// Zeros, aligned to a cache line: filters there are written with streaming
// stores.
struct Aligned {
  struct Free {
    void operator()(float *memory) const { std::free(memory); }
  };
  std::unique_ptr<float, Free> memory;
  explicit Aligned(size_t size)
      : memory(static_cast<float *>(std::aligned_alloc(64, 4 * size))) {
    std::fill_n(memory.get(), size, 0.f);
  }
  float *data() const { return memory.get(); }
};

Values in(const float *values) { return {values, Dtype::Float}; }
MutableValues out_of(float *values) { return {values, Dtype::Float}; }

double worst(const std::vector<float> &found,
             const std::vector<double> &expected) {
  double largest = 1e-30, difference = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    largest = std::max(largest, std::abs(expected[i]));
    const double d = std::abs(static_cast<double>(found[i]) - expected[i]);
    if (std::isnan(d)) // every comparison with NaN is false
      return std::numeric_limits<double>::infinity();
    difference = std::max(difference, d);
  }
  return difference / largest;
}

void one_case(const char *isa, const WinogradKernels &kernel, const Case &c) {
  const ConvShape &s = c.shape;
  const FilterStrides strides = c.contiguous();
  const double allowed = kernel.tile == 2 ? 2e-6 : 1e-5;
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
    const auto size = static_cast<size_t>(
        kernel.filter_size(s.small_channels, s.large_channels, transposed));
    const Aligned filter(size);
    kernel.transform_filter(s.small_channels, s.large_channels, strides,
                            in(c.weight.data()), transposed, filter.data(),
                            &on_threads);
    std::vector<float> other(size);
    kernel.transform_filter(s.small_channels, s.large_channels,
                            c.channels_last(),
                            in(c.as_channels_last(c.weight).data()), transposed,
                            other.data(), &in_one_piece);
    CHECK(std::equal(other.begin(), other.end(), filter.data()),
          "%s, %dx%d/%d, tile %d, padding %d, transposed %d: the weights' "
          "layout, or the filter's place, changes bits",
          isa, kernel.kernel, kernel.kernel, kernel.stride, kernel.tile,
          static_cast<int>(s.padding), transposed);
    const auto run = transposed ? kernel.convolve_transposed : kernel.convolve;
    const Values from = in((transposed ? c.small : c.large).data());
    std::vector<float> out(transposed ? c.large.size() : c.small.size(),
                           unwritten),
        again = out;
    run(s, from, filter.data(), nullptr, 1.f, out_of(out.data()), &on_threads);
    const double plain = worst(out, transposed ? c.large_sums : c.small_sums);
    CHECK(plain <= allowed,
          "%s, %dx%d/%d, tile %d, padding %d, transposed %d: %g", isa,
          kernel.kernel, kernel.kernel, kernel.stride, kernel.tile,
          static_cast<int>(s.padding), transposed, plain);
    run(s, from, filter.data(), nullptr, 1.f, out_of(again.data()),
        &in_one_piece);
    CHECK(
        out == again,
        "%s, %dx%d/%d, tile %d, padding %d, transposed %d: threads change bits",
        isa, kernel.kernel, kernel.kernel, kernel.stride, kernel.tile,
        static_cast<int>(s.padding), transposed);
    run(s, from, filter.data(), c.bias.data(), slope, out_of(out.data()),
        &on_threads);
    const double with_bias =
        worst(out, transposed ? activated(c.large_sums, s.large_channels)
                              : activated(c.small_sums, s.small_channels));
    CHECK(with_bias <= allowed,
          "%s, %dx%d/%d, tile %d, padding %d, transposed %d, bias: %g", isa,
          kernel.kernel, kernel.kernel, kernel.stride, kernel.tile,
          static_cast<int>(s.padding), transposed, with_bias);
  }
  std::vector<float> found(c.weight.size(), unwritten), again = found;
  kernel.weight_gradient(s, strides, in(c.large.data()), in(c.small.data()),
                         out_of(found.data()), &on_threads);
  const double difference = worst(found, c.gradient);
  CHECK(difference <= allowed,
        "%s, %dx%d/%d, tile %d, padding %d, weight gradient: %g", isa,
        kernel.kernel, kernel.kernel, kernel.stride, kernel.tile,
        static_cast<int>(s.padding), difference);
  kernel.weight_gradient(s, strides, in(c.large.data()), in(c.small.data()),
                         out_of(again.data()), &in_one_piece);
  CHECK(
      found == again,
      "%s, %dx%d/%d, tile %d, padding %d, weight gradient: threads change bits",
      isa, kernel.kernel, kernel.kernel, kernel.stride, kernel.tile,
      static_cast<int>(s.padding));
  kernel.weight_gradient(s, c.channels_last(), in(c.large.data()),
                         in(c.small.data()), out_of(again.data()), &on_threads);
  CHECK(c.as_channels_last(found) == again,
        "%s, %dx%d/%d, tile %d, padding %d, weight gradient: its layout "
        "changes bits",
        isa, kernel.kernel, kernel.kernel, kernel.stride, kernel.tile,
        static_cast<int>(s.padding));
}

} // namespace

int main() {
  // batch, height and width of the large feature map, its channels, the small
  // one's.
  struct {
    int64_t batch, height, width, large, small;
  } const sizes[] = {
      {1, 1, 2, 1, 1},    {2, 8, 8, 16, 16},   {1, 9, 6, 9, 17},
      {3, 4, 13, 33, 5},  {2, 16, 23, 24, 40}, {20, 8, 8, 8, 8},
      {1, 2, 12, 1, 33},  {6, 21, 20, 3, 180}, // several blocks of tiles
      {1, 3, 3, 65, 230}, // many parts of a weight gradient
  };
  // Each expected result is computed once for all instruction sets and tiles.
  std::map<std::array<int64_t, 4>, Case> cases;
  return for_every_isa([&](Isa isa) {
    for (const WinogradKernels &kernel : winograd_kernels(isa))
      for (const auto &size : sizes)
        for (int64_t padding = 0; padding < kernel.kernel; ++padding) {
          const auto small = [&](int64_t large) {
            return large + 2 * padding < kernel.kernel
                       ? 0
                       : (large + 2 * padding - kernel.kernel) / kernel.stride +
                             1;
          };
          const ConvShape shape{
              size.batch,         size.height,       size.width, size.large,
              small(size.height), small(size.width), size.small, padding};
          if (shape.small_height > 0 && shape.small_width > 0)
            one_case(name_of(isa), kernel,
                     cases
                         .try_emplace({&size - sizes, padding, kernel.kernel,
                                       kernel.stride},
                                      shape, kernel.kernel, kernel.stride)
                         .first->second);
        }
  });
}
