// Checks of norm_act's arguments, for both devices.

#pragma once

#include "ops/norm_act/shape.h"
#include "ops/tensors.h"

namespace igan_fast {

// x is (N, C, *spatial), contiguous or channels_last.
inline NormShape norm_shape_of(const Tensor& x, int64_t groups) {
  STD_TORCH_CHECK(x.dim() >= 2, "x has ", x.dim(), " dimensions; expected (N, C, *spatial)");
  STD_TORCH_CHECK(x.numel() > 0, "x is empty");
  STD_TORCH_CHECK(groups >= 1 && x.size(0) % groups == 0, "groups is ", groups,
                  "; expected a positive divisor of the batch size ", x.size(0));
  int64_t spatial = 1, expected_stride = x.size(1);  // of the next dimension out, in a channels_last tensor
  bool channels_last = x.size(1) > 1 && x.stride(1) == 1;
  for (int64_t d = x.dim() - 1; d >= 2; --d) {
    channels_last = channels_last && (x.size(d) == 1 || x.stride(d) == expected_stride);
    expected_stride *= x.size(d);
    spatial *= x.size(d);
  }
  channels_last = channels_last && (x.size(0) == 1 || x.stride(0) == expected_stride);
  STD_TORCH_CHECK(channels_last || x.is_contiguous(), "x is neither contiguous nor channels_last");
  const int64_t batch = x.size(0) / groups, channels = x.size(1);
  return channels_last ? NormShape{groups, batch * spatial, channels, 1, spatial}
                       : NormShape{groups, batch, channels, spatial, 1};
}

// film is (N, 2 · C), with any strides.
inline void check_film(const Tensor& film, const NormShape& s) {
  const int64_t images = s.groups * (s.rows / s.image_rows);
  STD_TORCH_CHECK(film.dim() == 2 && film.size(0) == images && film.size(1) == 2 * s.channels, "film: expected (",
                  images, ", ", 2 * s.channels, "), one scale and one shift for each channel of each image");
}

// The number of groups of the statistics mean and var, each (groups, C).
inline int64_t groups_of(const Tensor& mean, const Tensor& var) {
  STD_TORCH_CHECK(mean.dim() == 2 && mean.numel() == var.numel(), "mean and var: expected (groups, C) each");
  return mean.size(0);
}

// The sums of norm_act_sums over `parts` groups and channels.
inline void check_sums(const Tensor& sums, int64_t parts) {
  STD_TORCH_CHECK(sums.dim() == 3 && sums.numel() == 3 * parts && sums.is_contiguous() && sums.size(0) == 3 &&
                      dtype_of(sums, "mean_sums") == Dtype::Double,
                  "mean_sums: expected (3, groups, C), contiguous and float64");
}

// What a variance is multiplied by to be unbiased; 1 without a count, for a variance that is unbiased already.
inline double unbiased_factor(std::optional<int64_t> count) {
  return count ? static_cast<double>(*count) / static_cast<double>(*count - 1) : 1;
}

inline void check_gradient(const Tensor& grad, const Tensor& x) {
  STD_TORCH_CHECK(grad.scalar_type() == x.scalar_type(), "grad and x differ in dtype");
  STD_TORCH_CHECK(grad.dim() == x.dim(), "grad has ", grad.dim(), " dimensions, x ", x.dim());
  for (int64_t d = 0; d < x.dim(); ++d)
    STD_TORCH_CHECK(grad.size(d) == x.size(d) && (x.size(d) == 1 || grad.stride(d) == x.stride(d)),
                    "grad and x differ in shape or strides");
}

}  // namespace igan_fast
