// The one-dimensional Winograd convolution, the transposed one and the weight
// gradient against direct loops in double, for every instruction set.

#include <limits>

#include "cpu/winograd_1d/kernels.h"

#include "testing.h"

using namespace igan_fast::cpu;

namespace {

size_t size(int64_t count) { return static_cast<size_t>(count); }

struct Case {
  Conv1d s;
  int64_t in_group, out_group; // large and small channels of a group
  std::vector<float> large, small, weight, bias;
  // The expected results: the convolution, the transposed one and the weight
  // gradient.
  std::vector<double> small_sums, large_sums, gradient;

  explicit Case(const Conv1d &shape)
      : s(shape), in_group(s.large_channels / s.groups),
        out_group(s.small_channels / s.groups) {
    Random random{7};
    large.resize(size(s.batch * s.large_channels * s.large_length));
    small.resize(size(s.batch * s.small_channels * s.small_length));
    weight.resize(size(s.small_channels * in_group * s.kernel));
    bias.resize(size(std::max(s.small_channels, s.large_channels)));
    for (auto *values : {&large, &small, &weight, &bias})
      for (float &value : *values)
        value = static_cast<float>(random());
    small_sums.resize(small.size());
    large_sums.resize(large.size());
    gradient.resize(weight.size());
    for (int64_t n = 0; n < s.batch; ++n)
      for (int64_t o = 0; o < s.small_channels; ++o)
        for (int64_t c = 0; c < in_group; ++c)
          for (int64_t i = 0; i < s.small_length; ++i)
            for (int64_t k = 0; k < s.kernel; ++k) {
              const int64_t t =
                  i % s.interleaved - s.padding +
                  s.interleaved * (s.stride * (i / s.interleaved) + k);
              if (t < 0 || t >= s.large_length)
                continue;
              const int64_t channel = o / out_group * in_group + c;
              const size_t at_large =
                  size((n * s.large_channels + channel) * s.large_length + t);
              const size_t at_small =
                  size((n * s.small_channels + o) * s.small_length + i);
              const size_t at_weight = size((o * in_group + c) * s.kernel + k);
              const double l = double(large[at_large]),
                           m = double(small[at_small]),
                           w = double(weight[at_weight]);
              small_sums[at_small] += l * w;
              large_sums[at_large] += m * w;
              gradient[at_weight] += l * m;
            }
  }

  Weight1d weights() const {
    return {weight.data(), in_group * s.kernel, s.kernel, 1};
  }
};

// The largest difference, relative to the largest expected value.
template <typename Expected>
double error_of(const std::vector<float> &found, const Expected &expected) {
  double error = 0, largest = 1e-30;
  for (size_t i = 0; i < found.size(); ++i) {
    error = worse(error, std::fabs(double(found[i]) - expected(i)));
    largest = std::max(largest, std::fabs(expected(i)));
  }
  return error / largest;
}

std::vector<float> filter_of(const Winograd1dKernels &kernels, const Case &c,
                             const Weight1d &weight, bool transposed,
                             ParallelFor parallel) {
  auto filter = unwritten<float>(size(kernels.filter_size(c.s, transposed)));
  kernels.transform_filter(c.s, weight, transposed, filter.data(), parallel);
  return filter;
}

void check_direction(Isa isa, const Case &c, bool transposed,
                     const char *name) {
  const Winograd1dKernels &kernels = winograd_1d_kernels(isa);
  const Conv1d &s = c.s;
  const auto filter =
      filter_of(kernels, c, c.weights(), transposed, &in_one_piece);

  // The same weights, stored in another order: the filter's bits stay. Between
  // its planes nothing is written.
  std::vector<float> moved(c.weight.size());
  for (int64_t o = 0; o < s.small_channels; ++o)
    for (int64_t i = 0; i < c.in_group; ++i)
      for (int64_t k = 0; k < s.kernel; ++k)
        moved[size((k * c.in_group + i) * s.small_channels + o)] =
            c.weight[size((o * c.in_group + i) * s.kernel + k)];
  const auto other = filter_of(
      kernels, c,
      {moved.data(), 1, s.small_channels, s.small_channels * c.in_group},
      transposed, &on_threads);
  CHECK(std::memcmp(filter.data(), other.data(), filter.size() * 4) == 0,
        "%s: the filter of weights in another order differs", name);

  const auto &in = transposed ? c.small : c.large;
  const auto &sums = transposed ? c.large_sums : c.small_sums;
  const int64_t length = transposed ? s.large_length : s.small_length;
  const int64_t channels = transposed ? s.large_channels : s.small_channels;
  for (const float slope : {1.f, 0.2f, 0.f})
    for (const bool with_bias : {true, false}) {
      const float *bias = with_bias ? c.bias.data() : nullptr;
      auto found = unwritten<float>(sums.size());
      auto again = unwritten<float>(sums.size());
      kernels.convolve(s, transposed, in.data(), filter.data(), bias, slope,
                       found.data(), &in_one_piece);
      kernels.convolve(s, transposed, in.data(), filter.data(), bias, slope,
                       again.data(), &on_threads);
      const double error = error_of(found, [&](size_t i) {
        const size_t channel = i / size(length) % size(channels);
        const double y = sums[i] + (with_bias ? double(c.bias[channel]) : 0);
        return y > 0 ? y : y * double(slope);
      });
      CHECK(error < 4e-6, "%s, slope %g: error %g", name, double(slope), error);
      CHECK(std::memcmp(found.data(), again.data(), found.size() * 4) == 0,
            "%s: other bits on threads", name);
    }
}

void check_case(Isa isa, const Case &c) {
  const Winograd1dKernels &kernels = winograd_1d_kernels(isa);
  const Conv1d &s = c.s;
  for (const bool transposed : {false, true}) {
    char name[250];
    std::snprintf(name, sizeof(name),
                  "%s, (%d, %d, %d) %s (%d, %d), kernel %d, stride %d, padding "
                  "%d, %d interleaved, %d groups",
                  name_of(isa), int(s.batch), int(s.large_channels),
                  int(s.large_length), transposed ? "from" : "to",
                  int(s.small_channels), int(s.small_length), int(s.kernel),
                  int(s.stride), int(s.padding), int(s.interleaved),
                  int(s.groups));
    check_direction(isa, c, transposed, name);
    if (transposed)
      continue;
    auto found = unwritten<float>(c.weight.size());
    auto again = unwritten<float>(c.weight.size());
    kernels.weight_gradient(s, c.large.data(), c.small.data(), found.data(),
                            &in_one_piece);
    kernels.weight_gradient(s, c.large.data(), c.small.data(), again.data(),
                            &on_threads);
    const double error =
        error_of(found, [&](size_t i) { return c.gradient[i]; });
    CHECK(error < 6e-6, "%s, weight gradient: error %g", name, error);
    CHECK(std::memcmp(found.data(), again.data(), found.size() * 4) == 0,
          "%s: the weight gradient has other bits on threads", name);
  }
}

struct Filter {
  int64_t kernel, stride = 1, interleaved = 1, groups = 1;
};

// `missing`: values of the small sequences that the convolution would also
// make.
Conv1d shape_of(int64_t batch, int64_t in, int64_t length, int64_t out,
                const Filter &f, int64_t padding, int64_t missing = 0) {
  const int64_t unit = f.stride > 1 ? f.interleaved : 1;
  const int64_t free =
      (length + 2 * padding) / unit - f.interleaved / unit * (f.kernel - 1) - 1;
  return {batch,
          in,
          length,
          out,
          unit * (free / f.stride + 1) - missing,
          f.kernel,
          f.stride,
          padding,
          f.interleaved,
          f.groups};
}

// A NaN reaches the tiles that read it, and no other image.
void check_nan(Isa isa) {
  const Winograd1dKernels &kernels = winograd_1d_kernels(isa);
  Case c(shape_of(3, 4, 37, 5, {7, 1, 2}, 3));
  c.large[size((1 * 4 + 2) * 37 + 20)] =
      std::numeric_limits<float>::quiet_NaN();
  const auto filter = filter_of(kernels, c, c.weights(), false, &in_one_piece);
  auto found = unwritten<float>(c.small.size());
  kernels.convolve(c.s, false, c.large.data(), filter.data(), nullptr, 1,
                   found.data(), &in_one_piece);
  for (int64_t n = 0; n < 3; ++n)
    for (int64_t o = 0; o < 5; ++o)
      for (int64_t i = 0; i < c.s.small_length; ++i) {
        // Output 23 reads it with the first tap, output 11 with the last.
        const bool in_sequence = n == 1 && i % 2 == 1;
        const bool reads = in_sequence && i >= 11 && i <= 23;
        const bool near = in_sequence && i > 11 - 8 && i < 23 + 8;
        const bool is_nan =
            std::isnan(found[size((n * 5 + o) * c.s.small_length + i)]);
        CHECK(is_nan ? near : !reads, "%s: output %d of image %d is %s",
              name_of(isa), int(i), int(n), is_nan ? "NaN" : "a number");
      }
}

} // namespace

int main() {
  std::vector<Conv1d> shapes;
  for (int64_t kernel = 1; kernel <= 16; ++kernel) {
    for (const int64_t dilation : {1, 2, 3, 5})
      shapes.push_back(shape_of(2, 5, 83, 19, {kernel, 1, dilation},
                                dilation * (kernel / 2)));
    for (const int64_t stride : {2, 3, 4, 8})
      for (const int64_t padding : {int64_t{0}, kernel / 2, kernel + 3})
        for (const int64_t interleaved : {1, 3})
          shapes.push_back(shape_of(2, 5, (33 + stride) * interleaved, 9,
                                    {kernel, stride, interleaved},
                                    interleaved * padding));
  }
  for (const int64_t kernel : {3, 4, 5, 7, 11}) {
    shapes.push_back(shape_of(1, 1, kernel, 1, {kernel}, 0)); // one output
    shapes.push_back(shape_of(1, 1, 1, 1, {kernel}, kernel / 2 + 1));
    shapes.push_back(shape_of(3, 17, 30, 13, {kernel}, kernel - 1));
    shapes.push_back(shape_of(3, 17, 30, 13, {kernel, 1, 2}, 40)); // more zeros
    shapes.push_back(shape_of(2, 33, 90, 40, {kernel}, 0, 5)); // some left out
    shapes.push_back(shape_of(2, 9, 90, 7, {kernel, 2}, 1, 3));
    shapes.push_back(shape_of(40, 3, 2, 2, {kernel, 1, 3}, 2 * kernel));
    shapes.push_back(shape_of(2, 8, 1500, 24, {kernel}, kernel / 2));
    shapes.push_back(shape_of(1, 24, 700, 8, {kernel, 1, 5}, 5 * (kernel / 2)));
    shapes.push_back(shape_of(1, 16, 9, 16, {kernel, 1, 32}, 16 * kernel));
    shapes.push_back(shape_of(2, 12, 200, 20, {kernel, 1, 1, 4}, kernel / 2));
    shapes.push_back(shape_of(2, 40, 90, 8, {kernel, 3, 1, 2}, kernel / 2));
  }
  shapes.push_back(shape_of(1, 130, 300, 70, {11}, 5));
  shapes.push_back(shape_of(2, 32, 600, 64, {41, 4, 1, 4}, 20));
  // Several blocks of the weight gradient's columns, with small sums, and with
  // ones of more than 4 MiB.
  shapes.push_back(shape_of(2, 64, 9000, 64, {3}, 1));
  shapes.push_back(shape_of(1, 1, 2400, 1800, {41}, 20));
  for (const Conv1d &shape : shapes) {
    const Case c(shape);
    for (const Isa isa : kIsas)
      if (is_supported(isa))
        check_case(isa, c);
  }
  for (const Isa isa : kIsas)
    if (is_supported(isa))
      check_nan(isa);
  std::printf("%s: %d failures\n", __FILE__, failures);
  return failures != 0;
}
