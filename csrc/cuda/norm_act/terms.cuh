// The two terms of norm_act's gradient that come from the statistics of the batch.
//
// With the batch's statistics dx = scale·(dz − mean(dz) − (x − mean)·slope), slope = mean(dz·(x − mean))/(var + eps).
// A channel with few values has a gradient that is small beside dz: of two values, a thousandth and less. What is left
// of float32 numbers after the subtractions is then mostly their rounding. So both terms are computed in float64, and
// kept as two numbers each; the difference is rounded once.

#pragma once

#include "cuda/device.cuh"

namespace igan_fast::cuda {

// value + rest, with twice the digits of A.
template <typename A>
struct Split {
  A value = 0, rest = 0;
  Split() = default;
  __device__ explicit Split(double number)
      : value(static_cast<A>(number)), rest(static_cast<A>(number - static_cast<double>(value))) {}
};

// The terms of one group and channel.
template <typename A>
struct Terms {
  Split<A> mean_dz, slope;
  Terms() = default;
  // From Σ dz, Σ dz·(x − mean) and Σ (x − mean) over n values. The last is not 0, because `mean` is rounded: the terms
  // are those about the exact mean, mean + error. Infinite sums are not corrected, so that they stay infinite.
  __device__ Terms(double dz, double dz_x, double x, double n, double var_eps) {
    const bool finite = isfinite(dz) && isfinite(dz_x);
    const double error = x / n, about = (finite ? dz_x - error * dz : dz_x) / (n * var_eps);
    slope = Split<A>(about);
    mean_dz = Split<A>(finite ? dz / n - error * about : dz / n);
  }

  // dz − mean(dz) − centred·slope. T is the type of the result: a half type has fewer digits than a plain subtraction
  // leaves, and float64 has enough of them.
  template <typename T>
  __device__ A subtract_from(A dz, A centred) const {
    const A difference = dz - mean_dz.value;
    if constexpr (!std::is_same_v<T, float>) return fma(-centred, slope.value, difference);
    const A moved = difference - dz;
    const A lost = (dz - (difference - moved)) - (mean_dz.value + moved);  // difference + lost is exact
    const A rest = lost - mean_dz.rest - centred * slope.rest;
    return fma(-centred, slope.value, difference) + (isnan(rest) ? 0 : rest);  // NaN where the terms are infinite
  }
};

}  // namespace igan_fast::cuda
