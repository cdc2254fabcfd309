// The direct convolutions from and to few channels, and the weight gradient,
// against plain loops in double, for every instruction set.

#include <array>
#include <limits>
#include <vector>

#include "cpu/direct/kernels.h"

#include "testing.h"

using namespace igan_fast;
using namespace igan_fast::cpu;

namespace {

const float kUnwritten = std::numeric_limits<float>::quiet_NaN();

size_t count(std::initializer_list<int64_t> sizes) {
  int64_t product = 1;
  for (const int64_t size : sizes)
    product *= size;
  return static_cast<size_t>(product);
}

double leaky(double value, double slope) {
  return value > 0 ? value : value * slope;
}

struct Case {
  DirectShape s;
  std::vector<float> image, features, signs, weight, bias, image_bias;
  // Expected: the convolution, the transposed one of the features and of the
  // gradient that they are with signs, and the gradients of weight and bias.
  std::vector<double> sums, image_sums, image_sums_of_gradient, weight_gradient,
      bias_gradient;
  static constexpr double kSlope = 0.25;

  explicit Case(const DirectShape &shape)
      : s(shape),
        image(
            count({s.batch, s.image_height, s.image_width, s.image_channels})),
        features(count({s.batch, s.height, s.width, s.channels})),
        signs(features.size()),
        weight(count(
            {s.channels, s.image_channels, s.kernel_height, s.kernel_width})),
        bias(static_cast<size_t>(s.channels)),
        image_bias(static_cast<size_t>(s.image_channels)),
        sums(features.size()), image_sums(image.size()),
        image_sums_of_gradient(image.size()), weight_gradient(weight.size()),
        bias_gradient(bias.size()) {
    Random random{5};
    for (auto *values :
         {&image, &features, &signs, &weight, &bias, &image_bias})
      for (float &value : *values)
        value = static_cast<float>(random());
    for (size_t f = 0; f < features.size(); ++f)
      bias_gradient[f % bias.size()] += gradient(f);
    each([&](size_t i, size_t f, size_t w) {
      const double pixel = static_cast<double>(image[i]),
                   factor = static_cast<double>(weight[w]);
      sums[f] += pixel * factor;
      image_sums[i] += static_cast<double>(features[f]) * factor;
      image_sums_of_gradient[i] += gradient(f) * factor;
      weight_gradient[w] += pixel * gradient(f);
    });
  }

  // The gradient of the LeakyReLU's input.
  double gradient(size_t f) const {
    return static_cast<double>(features[f]) *
           (static_cast<double>(signs[f]) > 0 ? 1.0 : kSlope);
  }

  // Calls function(index in image, in features, in weight) for every product.
  template <typename Function> void each(const Function &function) const {
    for (int64_t n = 0; n < s.batch; ++n)
      for (int64_t y = 0; y < s.height; ++y)
        for (int64_t x = 0; x < s.width; ++x)
          for (int64_t i = 0; i < s.kernel_height; ++i)
            for (int64_t j = 0; j < s.kernel_width; ++j) {
              const int64_t row = y * s.stride_height - s.padding_height + i,
                            column = x * s.stride_width - s.padding_width + j;
              if (row < 0 || row >= s.image_height || column < 0 ||
                  column >= s.image_width)
                continue;
              for (int64_t c = 0; c < s.image_channels; ++c)
                for (int64_t f = 0; f < s.channels; ++f)
                  function(
                      static_cast<size_t>(
                          ((n * s.image_height + row) * s.image_width +
                           column) *
                              s.image_channels +
                          c),
                      static_cast<size_t>(
                          ((n * s.height + y) * s.width + x) * s.channels + f),
                      static_cast<size_t>(
                          ((f * s.image_channels + c) * s.kernel_height + i) *
                              s.kernel_width +
                          j));
            }
  }

  ImageStrides channels_last() const {
    return {s.image_height * s.image_width * s.image_channels,
            s.image_width * s.image_channels, s.image_channels, 1};
  }
  ImageStrides channels_first() const {
    const int64_t plane = s.image_height * s.image_width;
    return {plane * s.image_channels, s.image_width, 1, plane};
  }
  std::vector<float> image_channels_first() const {
    std::vector<float> out(image.size());
    const ImageStrides to = channels_first();
    size_t from = 0;
    for (int64_t n = 0; n < s.batch; ++n)
      for (int64_t y = 0; y < s.image_height; ++y)
        for (int64_t x = 0; x < s.image_width; ++x)
          for (int64_t c = 0; c < s.image_channels; ++c)
            out[static_cast<size_t>(n * to.image + y * to.row + x * to.column +
                                    c * to.channel)] = image[from++];
    return out;
  }

  WeightStrides contiguous() const {
    const int64_t taps = s.kernel_height * s.kernel_width;
    return {s.image_channels * taps, taps, s.kernel_width, 1};
  }
  WeightStrides weight_channels_last() const {
    return {s.image_channels * s.kernel_height * s.kernel_width, 1,
            s.kernel_width * s.image_channels, s.image_channels};
  }
  std::vector<float> weight_as_channels_last() const {
    std::vector<float> out(weight.size());
    const WeightStrides to = weight_channels_last();
    size_t from = 0;
    for (int64_t f = 0; f < s.channels; ++f)
      for (int64_t c = 0; c < s.image_channels; ++c)
        for (int64_t i = 0; i < s.kernel_height; ++i)
          for (int64_t j = 0; j < s.kernel_width; ++j)
            out[static_cast<size_t>(f * to.channel + c * to.image_channel +
                                    i * to.row + j * to.column)] =
                weight[from++];
    return out;
  }
};

double worst(const std::vector<float> &found,
             const std::vector<double> &expected) {
  double largest = 1e-30, difference = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    largest = std::max(largest, std::abs(expected[i]));
    difference = worse(difference,
                       std::abs(static_cast<double>(found[i]) - expected[i]));
  }
  return difference / largest;
}

std::vector<double> activated(std::vector<double> sums,
                              const std::vector<float> &bias, double slope) {
  for (size_t i = 0; i < sums.size(); ++i)
    sums[i] =
        leaky(sums[i] + static_cast<double>(bias[i % bias.size()]), slope);
  return sums;
}

void one_case(const char *isa, const DirectKernels &kernels, const Case &c) {
  const DirectShape &s = c.s;
  const auto check = [&](const std::vector<float> &found,
                         const std::vector<double> &expected,
                         const char *what) {
    const double difference = worst(found, expected);
    CHECK(difference <= 2e-6, "%s, %dx%d, stride %d, padding %d, %d to %d: %g",
          what, static_cast<int>(s.kernel_height),
          static_cast<int>(s.kernel_width), static_cast<int>(s.stride_height),
          static_cast<int>(s.padding_height),
          static_cast<int>(s.image_channels), static_cast<int>(s.channels),
          difference);
  };
  const auto same = [&](const std::vector<float> &a,
                        const std::vector<float> &b, const char *what) {
    CHECK(a == b, "%s: %s, %dx%d, stride %d: other bits", isa, what,
          static_cast<int>(s.kernel_height), static_cast<int>(s.kernel_width),
          static_cast<int>(s.stride_height));
  };
  const Features plain{c.features.data(), nullptr, 1.f},
      gradient{c.features.data(), c.signs.data(),
               static_cast<float>(Case::kSlope)};
  const std::vector<float> first = c.image_channels_first(),
                           last = c.weight_as_channels_last();

  // Buffers of exactly the size that may be touched; NaN shows what was not
  // written.
  std::vector<float> found(c.features.size(), kUnwritten), again = found;
  kernels.convolve(s, c.channels_last(), c.image.data(), c.contiguous(),
                   c.weight.data(), nullptr, 1.f, found.data(), &on_threads);
  check(found, c.sums, "convolution");
  kernels.convolve(s, c.channels_first(), first.data(),
                   c.weight_channels_last(), last.data(), nullptr, 1.f,
                   again.data(), &in_one_piece);
  same(found, again, "convolution");
  kernels.convolve(s, c.channels_last(), c.image.data(), c.contiguous(),
                   c.weight.data(), c.bias.data(), 0.f, found.data(),
                   &on_threads);
  check(found, activated(c.sums, c.bias, 0), "convolution, bias, ReLU");

  found.assign(c.image.size(), kUnwritten), again = found;
  kernels.convolve_transposed(s, plain, c.contiguous(), c.weight.data(),
                              nullptr, 1.f, found.data(), &on_threads);
  check(found, c.image_sums, "transposed");
  kernels.convolve_transposed(s, plain, c.weight_channels_last(), last.data(),
                              nullptr, 1.f, again.data(), &in_one_piece);
  same(found, again, "transposed");
  kernels.convolve_transposed(s, gradient, c.contiguous(), c.weight.data(),
                              c.image_bias.data(), 0.5f, found.data(),
                              &on_threads);
  check(found, activated(c.image_sums_of_gradient, c.image_bias, 0.5),
        "transposed of a gradient, bias, LeakyReLU");

  found.assign(c.weight.size(), kUnwritten), again = found;
  std::vector<float> sums(c.bias.size(), kUnwritten), sums_again = sums;
  kernels.weight_gradient(s, c.channels_last(), c.image.data(), gradient,
                          found.data(), sums.data(), &on_threads);
  check(found, c.weight_gradient, "weight gradient");
  check(sums, c.bias_gradient, "bias gradient");
  kernels.weight_gradient(s, c.channels_first(), first.data(), gradient,
                          again.data(), sums_again.data(), &in_one_piece);
  same(found, again, "weight gradient");
  same(sums, sums_again, "bias gradient");
  kernels.weight_gradient(s, c.channels_last(), c.image.data(), gradient,
                          again.data(), nullptr, &on_threads);
  same(found, again, "weight gradient without the bias's");
}

// The sums that an infinite value of the features is part of, and no others,
// are not finite.
void not_finite(const char *isa, const DirectKernels &kernels, Case c) {
  const size_t place = c.features.size() / 2;
  c.features[place] = std::numeric_limits<float>::infinity();
  std::vector<bool> reached(c.image.size());
  c.each([&](size_t i, size_t f, size_t) {
    if (f == place)
      reached[i] = true;
  });
  std::vector<float> found(c.image.size());
  kernels.convolve_transposed(c.s, {c.features.data(), nullptr, 1.f},
                              c.contiguous(), c.weight.data(), nullptr, 1.f,
                              found.data(), &on_threads);
  size_t wrong = 0;
  for (size_t i = 0; i < found.size(); ++i)
    wrong += std::isfinite(found[i]) == reached[i];
  CHECK(wrong == 0, "%s, %dx%d: %d values", isa,
        static_cast<int>(c.s.kernel_height), static_cast<int>(c.s.kernel_width),
        static_cast<int>(wrong));
}

std::vector<Case> all_cases() {
  struct Size {
    int64_t batch, height, width, image_channels, channels;
  };
  struct Filter {
    int64_t height, width, stride_height, stride_width, padding_height,
        padding_width;
  };
  const Size sizes[] = {
      {1, 1, 1, 1, 1},    {2, 7, 5, 3, 5},    {3, 9, 16, 4, 16},
      {1, 12, 31, 2, 17}, {2, 10, 26, 3, 64}, {9, 5, 6, 3, 33},
      {1, 40, 9, 1, 150},
  };
  const Filter filters[] = {
      {1, 1, 1, 1, 0, 0},  {3, 3, 1, 1, 1, 1}, {3, 3, 2, 2, 1, 1},
      {4, 4, 2, 2, 1, 1},  {5, 5, 2, 2, 2, 2}, {5, 5, 3, 3, 0, 0},
      {7, 7, 1, 1, 2, 2},  {2, 2, 3, 3, 1, 1}, {1, 6, 2, 1, 0, 3},
      {6, 1, 1, 3, 4, 0},  {9, 9, 1, 1, 4, 4}, {16, 3, 2, 3, 9, 1},
      {3, 20, 1, 2, 1, 9},
  };
  std::vector<Case> cases;
  for (const Size &size : sizes)
    for (const Filter &f : filters) {
      const int64_t height = size.height + 2 * f.padding_height - f.height,
                    width = size.width + 2 * f.padding_width - f.width;
      if (height >= 0 && width >= 0)
        cases.emplace_back(DirectShape{
            size.batch, size.height, size.width, size.image_channels,
            height / f.stride_height + 1, width / f.stride_width + 1,
            size.channels, f.height, f.width, f.stride_height, f.stride_width,
            f.padding_height, f.padding_width});
    }
  return cases;
}

} // namespace

int main() {
  const std::vector<Case> cases = all_cases();
  return for_every_isa([&](Isa isa) {
    for (const Case &c : cases) {
      one_case(name_of(isa), direct_kernels(isa), c);
      not_finite(name_of(isa), direct_kernels(isa), c);
    }
  });
}
