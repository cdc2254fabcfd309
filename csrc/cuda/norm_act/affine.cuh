// norm_act's parameters and statistics, in the form in which its kernels read them.

#pragma once

#include "cuda/device.cuh"
#include "ops/norm_act/checks.h"

namespace igan_fast::cuda {

// A tensor (C,) of any of the four dtypes. Without a tensor, the value of every channel is `missing`.
struct Vector {
  const void* data;
  Dtype dtype;
  int64_t stride;
  double missing;
  __device__ double operator[](int64_t c) const { return data ? read(data, dtype, c * stride) : missing; }
};

inline Vector vector_of(const std::optional<Tensor>& tensor, int64_t count, double missing, const char* what) {
  if (!tensor) return {nullptr, Dtype::Float, 0, missing};
  STD_TORCH_CHECK(tensor->dim() == 1 && tensor->numel() == count, what, " has ", tensor->numel(), " values; expected ",
                  count);
  return {tensor->const_data_ptr(), dtype_of(*tensor, what), tensor->stride(0), missing};
}

// A tensor (N, 2 · C) of any of the four dtypes, with any strides. Without a tensor, `images` is 1.
struct FilmValues {
  const void* data;
  Dtype dtype;
  int64_t row, column;  // strides
  int64_t channels;
  int64_t images;  // that share their statistics. The kernels with film treat each image as a group
};

inline FilmValues film_values_of(const std::optional<Tensor>& film, const NormShape& s) {
  if (!film) return {nullptr, Dtype::Float, 0, 0, 0, 1};
  check_film(*film, s);
  return {film->const_data_ptr(), dtype_of(*film, "film"), film->stride(0), film->stride(1), s.channels,
          s.rows / s.image_rows};
}

// norm_act's arguments except x.
struct Settings {
  Vector weight, bias, mean, var;
  double eps, slope;
  int64_t channels;  // mean and var are (groups, channels)
  FilmValues film;
};

// The shape that the kernels with these settings divide among blocks.
inline NormShape shape_for(const Settings& settings, const NormShape& s) {
  return settings.film.data ? s.of_images() : s;
}

// The normalisation of one channel. Forward and backward both compute z as fma(x − mean, scale, bias), so that z has
// the same sign in both.
template <typename A>
struct Affine {
  A mean, scale, bias, invstd;
  __device__ Affine(const Settings& settings, int64_t group, int64_t c) {
    const int64_t at = group * settings.channels + c;
    mean = static_cast<A>(settings.mean[at]);
    invstd = rsqrt(static_cast<A>(settings.var[at] + settings.eps));
    scale = static_cast<A>(settings.weight[c]) * invstd;
    bias = static_cast<A>(settings.bias[c]);
  }
};

// The scale and the shift of one channel of an image after the activation: y = activate(z)·scale + shift.
template <typename A>
struct Film {
  A scale, shift;
  __device__ Film(const FilmValues& film, int64_t image, int64_t c) {
    const int64_t at = image * film.row + c * film.column;
    scale = 1 + static_cast<A>(read(film.data, film.dtype, at));
    shift = static_cast<A>(read(film.data, film.dtype, at + film.channels * film.column));
  }
};

inline Settings settings_of(const std::optional<Tensor>& weight, const std::optional<Tensor>& bias, const Tensor& mean,
                            const Tensor& var, const NormShape& s, double eps, double slope,
                            const std::optional<Tensor>& film) {
  const Dtype type = dtype_of(mean, "mean");
  STD_TORCH_CHECK(var.scalar_type() == mean.scalar_type(), "mean and var differ in dtype");
  return {vector_of(weight, s.channels, 1, "weight"),
          vector_of(bias, s.channels, 0, "bias"),
          {mean.const_data_ptr(), type, mean.stride(mean.dim() - 1), 0},
          {var.const_data_ptr(), type, var.stride(var.dim() - 1), 0},
          eps,
          slope,
          s.channels,
          film_values_of(film, s)};
}

// A tensor's memory as T.
template <typename T>
const T* in(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <typename T>
T* out(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

}  // namespace igan_fast::cuda
