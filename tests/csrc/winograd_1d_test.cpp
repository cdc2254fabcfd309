// The one-dimensional Winograd convolution and its weight gradient against
// direct loops in double, for every instruction set.

#include <limits>

#include "cpu/winograd_1d/kernels.h"

#include "testing.h"

using namespace igan_fast::cpu;

namespace {

size_t size(int64_t count) { return static_cast<size_t>(count); }

struct Case {
  Conv1d s;
  std::vector<float> in, out, weight, bias;
  // The expected results: the sums of the convolution, and the weight gradient.
  std::vector<double> sums, gradient;

  explicit Case(const Conv1d &shape) : s(shape) {
    Random random{7};
    in.resize(size(s.batch * s.in_channels * s.in_length));
    out.resize(size(s.batch * s.out_channels * s.out_length));
    weight.resize(size(s.out_channels * s.in_channels * s.kernel));
    bias.resize(size(s.out_channels));
    for (auto *values : {&in, &out, &weight, &bias})
      for (float &value : *values)
        value = static_cast<float>(random());
    sums.resize(out.size());
    gradient.resize(weight.size());
    for (int64_t n = 0; n < s.batch; ++n)
      for (int64_t o = 0; o < s.out_channels; ++o)
        for (int64_t c = 0; c < s.in_channels; ++c)
          for (int64_t i = 0; i < s.out_length; ++i)
            for (int64_t k = 0; k < s.kernel; ++k) {
              const int64_t t = i - s.padding + s.dilation * k;
              if (t < 0 || t >= s.in_length)
                continue;
              const size_t at_in =
                  size((n * s.in_channels + c) * s.in_length + t);
              const size_t at_out =
                  size((n * s.out_channels + o) * s.out_length + i);
              const size_t at_weight =
                  size((o * s.in_channels + c) * s.kernel + k);
              sums[at_out] += double(in[at_in]) * double(weight[at_weight]);
              gradient[at_weight] += double(in[at_in]) * double(out[at_out]);
            }
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
                             const Weight1d &weight, ParallelFor parallel) {
  const Conv1d &s = c.s;
  auto filter = unwritten<float>(
      size(kernels.filter_size(s.kernel, s.in_channels, s.out_channels)));
  kernels.transform_filter(s.kernel, s.in_channels, s.out_channels, weight,
                           filter.data(), parallel);
  return filter;
}

void check_case(Isa isa, const Case &c) {
  const Winograd1dKernels &kernels = winograd_1d_kernels(isa);
  const Conv1d &s = c.s;
  char name[200];
  std::snprintf(name, sizeof(name),
                "%s, (%d, %d, %d) to (%d, %d), kernel %d, padding %d, "
                "dilation %d",
                name_of(isa), int(s.batch), int(s.in_channels),
                int(s.in_length), int(s.out_channels), int(s.out_length),
                int(s.kernel), int(s.padding), int(s.dilation));
  const Weight1d weight{c.weight.data(), s.in_channels * s.kernel, s.kernel, 1,
                        false};
  const auto filter = filter_of(kernels, c, weight, &in_one_piece);

  // The same weights, stored in another order: the filter's bits stay.
  std::vector<float> reversed(c.weight.size());
  for (int64_t o = 0; o < s.out_channels; ++o)
    for (int64_t i = 0; i < s.in_channels; ++i)
      for (int64_t k = 0; k < s.kernel; ++k)
        reversed[size((i * s.out_channels + o) * s.kernel + s.kernel - 1 - k)] =
            c.weight[size((o * s.in_channels + i) * s.kernel + k)];
  const auto other =
      filter_of(kernels, c,
                {reversed.data(), s.kernel, s.out_channels * s.kernel, 1, true},
                &on_threads);
  // Between the planes nothing is written.
  for (size_t i = 0; i < filter.size(); ++i)
    if (std::memcmp(&filter[i], &other[i], 4) != 0) {
      CHECK(false, "%s: the filter of reversed weights differs", name);
      break;
    }

  for (const float slope : {1.f, 0.2f, 0.f})
    for (const bool with_bias : {true, false}) {
      const float *bias = with_bias ? c.bias.data() : nullptr;
      auto found = unwritten<float>(c.out.size());
      auto again = unwritten<float>(c.out.size());
      kernels.convolve(s, c.in.data(), filter.data(), bias, slope, found.data(),
                       &in_one_piece);
      kernels.convolve(s, c.in.data(), filter.data(), bias, slope, again.data(),
                       &on_threads);
      const double error = error_of(found, [&](size_t i) {
        const size_t channel = i / size(s.out_length) % size(s.out_channels);
        const double y = c.sums[i] + (with_bias ? double(c.bias[channel]) : 0);
        return y > 0 ? y : y * double(slope);
      });
      CHECK(error < 3e-6, "%s, slope %g: error %g", name, double(slope), error);
      CHECK(std::memcmp(found.data(), again.data(), found.size() * 4) == 0,
            "%s: other bits on threads", name);
    }

  auto found = unwritten<float>(c.weight.size());
  auto again = unwritten<float>(c.weight.size());
  kernels.weight_gradient(s, c.in.data(), c.out.data(), found.data(),
                          &in_one_piece);
  kernels.weight_gradient(s, c.in.data(), c.out.data(), again.data(),
                          &on_threads);
  const double error = error_of(found, [&](size_t i) { return c.gradient[i]; });
  CHECK(error < 6e-6, "%s, weight gradient: error %g", name, error);
  CHECK(std::memcmp(found.data(), again.data(), found.size() * 4) == 0,
        "%s: the weight gradient has other bits on threads", name);
}

Conv1d shape_of(int64_t batch, int64_t in, int64_t length, int64_t out,
                int64_t kernel, int64_t padding, int64_t dilation) {
  return {batch,
          in,
          length,
          out,
          length + 2 * padding - dilation * (kernel - 1),
          kernel,
          padding,
          dilation};
}

// A NaN reaches the tiles that read it, and no other image.
void check_nan(Isa isa) {
  const Winograd1dKernels &kernels = winograd_1d_kernels(isa);
  Case c(shape_of(3, 4, 37, 5, 7, 3, 2));
  c.in[size((1 * 4 + 2) * 37 + 20)] = std::numeric_limits<float>::quiet_NaN();
  const auto filter = filter_of(
      kernels, c, {c.weight.data(), 4 * 7, 7, 1, false}, &in_one_piece);
  auto found = unwritten<float>(c.out.size());
  kernels.convolve(c.s, c.in.data(), filter.data(), nullptr, 1, found.data(),
                   &in_one_piece);
  for (int64_t n = 0; n < 3; ++n)
    for (int64_t o = 0; o < 5; ++o)
      for (int64_t i = 0; i < c.s.out_length; ++i) {
        // Output 23 reads it with the first tap, output 11 with the last.
        const bool in_sequence = n == 1 && i % 2 == 1;
        const bool reads = in_sequence && i >= 11 && i <= 23;
        const bool near = in_sequence && i > 11 - 8 && i < 23 + 8;
        const bool is_nan =
            std::isnan(found[size((n * 5 + o) * c.s.out_length + i)]);
        CHECK(is_nan ? near : !reads, "%s: output %d of image %d is %s",
              name_of(isa), int(i), int(n), is_nan ? "NaN" : "a number");
      }
}

} // namespace

int main() {
  std::vector<Conv1d> shapes;
  for (int64_t kernel = 1; kernel <= 16; ++kernel)
    for (const int64_t dilation : {1, 2, 3, 5})
      shapes.push_back(
          shape_of(2, 5, 83, 19, kernel, dilation * (kernel / 2), dilation));
  for (const int64_t kernel : {3, 4, 5, 7, 11}) {
    shapes.push_back(shape_of(1, 1, kernel, 1, kernel, 0, 1)); // one output
    shapes.push_back(shape_of(1, 1, 1, 1, kernel, kernel / 2 + 1, 1));
    shapes.push_back(shape_of(3, 17, 30, 13, kernel, kernel - 1, 1));
    shapes.push_back(shape_of(3, 17, 30, 13, kernel, 40, 2)); // more zeros
    shapes.push_back(shape_of(2, 33, 90, 40, kernel, -2, 1)); // values left out
    shapes.push_back(shape_of(40, 3, 2, 2, kernel, 2 * kernel, 3));
    shapes.push_back(shape_of(2, 8, 1500, 24, kernel, kernel / 2, 1));
    shapes.push_back(shape_of(1, 24, 700, 8, kernel, 5 * (kernel / 2), 5));
    shapes.push_back(shape_of(1, 16, 9, 16, kernel, 16 * kernel, 32));
  }
  shapes.push_back(shape_of(1, 130, 300, 70, 11, 5, 1));
  // Several blocks of the weight gradient's columns, with small and large sums.
  shapes.push_back(shape_of(2, 64, 9000, 64, 3, 1, 1));
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
