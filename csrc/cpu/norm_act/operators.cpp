// norm_act on the CPU. igan_fast/ops/norm_act.py says what it computes.

#include "cpu/norm_act/kernels.h"

#include "cpu/operators.h"
#include "ops/norm_act/checks.h"

namespace igan_fast::cpu {
namespace {

// The values of film, (images, 2, channels); empty without film.
template <typename A>
std::vector<A> film_values(const std::optional<Tensor>& film, const NormShape& s) {
  if (!film) return {};
  check_film(*film, s);
  const int64_t images = film->size(0), columns = film->size(1), row = film->stride(0), column = film->stride(1);
  std::vector<A> values(static_cast<size_t>(images * columns));
  with_type(dtype_of(*film, "film"), [&](auto type) {
    const auto* data = static_cast<const decltype(type)*>(film->const_data_ptr());
    A* out = values.data();
    for (int64_t i = 0; i < images; ++i)
      for (int64_t j = 0; j < columns; ++j) *out++ = static_cast<A>(to_float(data[i * row + j * column]));
  });
  return values;
}

// Copies of the parameters in the compute type.
template <typename A>
struct Params {
  std::vector<A> weight, bias, film;
  NormParams<A> view;
  Params(const std::optional<Tensor>& weight_, const std::optional<Tensor>& bias_, const std::optional<Tensor>& film_,
         const NormShape& s, double eps, double slope)
      : weight(values_of<A>(weight_, s.channels, A{1}, "weight")),
        bias(values_of<A>(bias_, s.channels, A{0}, "bias")),
        film(film_values<A>(film_, s)),
        view{weight.data(), bias.data(), static_cast<A>(eps), static_cast<A>(slope), film_ ? film.data() : nullptr} {}
};

// Calls function(A{}) with the compute type A of dtype.
template <typename Function>
auto with_compute_type(Dtype dtype, const Function& function) {
  return dtype == Dtype::Double ? function(double{}) : function(float{});
}

Tensor output_like(const Tensor& x, Dtype dtype) {
  Tensor out = torch::stable::empty_like(x);
  advise_huge_pages(out.mutable_data_ptr(), x.numel() * size_of(dtype));
  return out;
}

std::tuple<Tensor, Tensor, Tensor> norm_act(Tensor x, std::optional<Tensor> weight, std::optional<Tensor> bias,
                                            double eps, double negative_slope, int64_t groups,
                                            std::optional<Tensor> film) {
  const NormShape shape = norm_shape_of(x, groups);
  const Dtype dtype = dtype_of(x, "x");
  Tensor y = output_like(x, dtype);
  Tensor mean = torch::stable::new_empty(x, {groups, shape.channels}, compute_type(dtype));
  Tensor var = torch::stable::new_empty(x, {groups, shape.channels}, compute_type(dtype));
  with_compute_type(dtype, [&](auto type) {
    using A = decltype(type);
    const Params<A> params(weight, bias, film, shape, eps, negative_slope);
    norm_act_kernels<A>(isa_in_use())
        .forward(shape, dtype, x.const_data_ptr(), params.view, y.mutable_data_ptr(),
                 static_cast<A*>(mean.mutable_data_ptr()), static_cast<A*>(var.mutable_data_ptr()), &torch_parallel);
  });
  return {y, mean, var};
}

std::tuple<Tensor, Tensor> norm_act_statistics(Tensor x, int64_t groups) {
  const NormShape shape = norm_shape_of(x, groups);
  const Dtype dtype = dtype_of(x, "x");
  Tensor mean = torch::stable::new_empty(x, {groups, shape.channels}, compute_type(dtype));
  Tensor var = torch::stable::new_empty(x, {groups, shape.channels}, compute_type(dtype));
  with_compute_type(dtype, [&](auto type) {
    using A = decltype(type);
    norm_act_kernels<A>(isa_in_use())
        .statistics(shape, dtype, x.const_data_ptr(), static_cast<A*>(mean.mutable_data_ptr()),
                    static_cast<A*>(var.mutable_data_ptr()), &torch_parallel);
  });
  return {mean, var};
}

Tensor norm_act_inference(Tensor x, std::optional<Tensor> weight, std::optional<Tensor> bias, Tensor mean, Tensor var,
                          double eps, double negative_slope, std::optional<Tensor> film) {
  const NormShape shape = norm_shape_of(x, mean.dim() == 2 ? groups_of(mean, var) : 1);
  const Dtype dtype = dtype_of(x, "x");
  Tensor y = output_like(x, dtype);
  with_compute_type(dtype, [&](auto type) {
    using A = decltype(type);
    const Params<A> params(weight, bias, film, shape, eps, negative_slope);
    const std::vector<A> means = values_of<A>(mean, shape.groups * shape.channels, A{}, "mean"),
                         vars = values_of<A>(var, shape.groups * shape.channels, A{}, "var");
    norm_act_kernels<A>(isa_in_use())
        .inference(shape, dtype, x.const_data_ptr(), params.view, means.data(), vars.data(), y.mutable_data_ptr(),
                   &torch_parallel);
  });
  return y;
}

// Without film, dfilm is empty.
std::tuple<Tensor, Tensor, Tensor, Tensor> norm_act_backward(Tensor grad, Tensor x, std::optional<Tensor> weight,
                                                             std::optional<Tensor> bias, Tensor mean, Tensor var,
                                                             double eps, double negative_slope, bool batch_statistics,
                                                             std::optional<Tensor> film) {
  const int64_t groups = groups_of(mean, var);
  const NormShape shape = norm_shape_of(x, groups);
  const Dtype dtype = dtype_of(x, "x");
  check_gradient(grad, x);
  Tensor dx = output_like(x, dtype);
  Tensor dweight = torch::stable::new_empty(x, {shape.channels}, compute_type(dtype));
  Tensor dbias = torch::stable::new_empty(x, {shape.channels}, compute_type(dtype));
  Tensor dfilm = film ? torch::stable::new_empty(x, {x.size(0), 2 * shape.channels}, compute_type(dtype))
                      : torch::stable::new_empty(x, {0}, compute_type(dtype));
  with_compute_type(dtype, [&](auto type) {
    using A = decltype(type);
    const Params<A> params(weight, bias, film, shape, eps, negative_slope);
    const std::vector<A> means = values_of<A>(mean, groups * shape.channels, A{}, "mean");
    const std::vector<A> vars = values_of<A>(var, groups * shape.channels, A{}, "var");
    norm_act_kernels<A>(isa_in_use())
        .backward(shape, dtype, grad.const_data_ptr(), x.const_data_ptr(), params.view, means.data(), vars.data(),
                  batch_statistics, dx.mutable_data_ptr(), static_cast<A*>(dweight.mutable_data_ptr()),
                  static_cast<A*>(dbias.mutable_data_ptr()), static_cast<A*>(dfilm.mutable_data_ptr()),
                  &torch_parallel);
  });
  return {dx, dweight, dbias, dfilm};
}

// sums is (3, groups, channels): Σ dz, Σ dz·(x − mean), and zeros in place of Σ (x − mean), which is as good as 0.
// Without film, dfilm is empty.
std::tuple<Tensor, Tensor> norm_act_sums(Tensor grad, Tensor x, std::optional<Tensor> weight,
                                         std::optional<Tensor> bias, Tensor mean, Tensor var, double eps,
                                         double negative_slope, std::optional<Tensor> film) {
  const int64_t groups = groups_of(mean, var);
  const NormShape shape = norm_shape_of(x, groups);
  const Dtype dtype = dtype_of(x, "x");
  check_gradient(grad, x);
  const int64_t parts = groups * shape.channels;
  Tensor sums = torch::stable::new_empty(x, {3, groups, shape.channels}, compute_type(Dtype::Double));
  Tensor dfilm = film ? torch::stable::new_empty(x, {x.size(0), 2 * shape.channels}, compute_type(dtype))
                      : torch::stable::new_empty(x, {0}, compute_type(dtype));
  with_compute_type(dtype, [&](auto type) {
    using A = decltype(type);
    const Params<A> params(weight, bias, film, shape, eps, negative_slope);
    const std::vector<A> means = values_of<A>(mean, parts, A{}, "mean"), vars = values_of<A>(var, parts, A{}, "var");
    std::vector<GradientSums> found(static_cast<size_t>(parts));
    norm_act_kernels<A>(isa_in_use())
        .sums(shape, dtype, grad.const_data_ptr(), x.const_data_ptr(), params.view, means.data(), vars.data(),
              found.data(), static_cast<A*>(dfilm.mutable_data_ptr()), &torch_parallel);
    auto* out = static_cast<double*>(sums.mutable_data_ptr());
    for (const GradientSums& one : found) {
      out[0] = one.dz, out[parts] = one.dz_x, out[2 * parts] = 0;
      ++out;
    }
  });
  return {sums, dfilm};
}

// mean_sums is (3, groups, channels), as of norm_act_sums: the sums divided by the number of values.
Tensor norm_act_gradient(Tensor grad, Tensor x, std::optional<Tensor> weight, std::optional<Tensor> bias, Tensor mean,
                         Tensor var, Tensor mean_sums, double eps, double negative_slope, std::optional<Tensor> film) {
  const int64_t groups = groups_of(mean, var);
  const NormShape shape = norm_shape_of(x, groups);
  const Dtype dtype = dtype_of(x, "x");
  check_gradient(grad, x);
  const int64_t parts = groups * shape.channels;
  check_sums(mean_sums, parts);
  Tensor dx = output_like(x, dtype);
  with_compute_type(dtype, [&](auto type) {
    using A = decltype(type);
    const Params<A> params(weight, bias, film, shape, eps, negative_slope);
    const std::vector<A> means = values_of<A>(mean, parts, A{}, "mean"), vars = values_of<A>(var, parts, A{}, "var");
    const auto* given = static_cast<const double*>(mean_sums.const_data_ptr());
    std::vector<GradientSums> sums(static_cast<size_t>(parts));
    for (int64_t i = 0; i < parts; ++i) sums[static_cast<size_t>(i)] = {given[i], given[parts + i]};
    norm_act_kernels<A>(isa_in_use())
        .gradient(shape, dtype, grad.const_data_ptr(), x.const_data_ptr(), params.view, means.data(), vars.data(),
                  sums.data(), 1, dx.mutable_data_ptr(), &torch_parallel);
  });
  return dx;
}

// Updates the running statistics as torch.nn.BatchNorm would in `groups` successive calls, one for each group.
void norm_act_update(Tensor running_mean, Tensor running_var, Tensor mean, Tensor var, std::optional<int64_t> count,
                     double momentum) {
  const int64_t groups = groups_of(mean, var), channels = mean.size(1);
  const double unbiased = unbiased_factor(count);
  const auto update = [&](Tensor& running, const Tensor& batch, double factor, const char* what) {
    const std::vector<double> statistics = values_of<double>(batch, groups * channels, 0., "statistics");
    std::vector<double> values = values_of<double>(running, channels, 0., what);
    const int64_t stride = running.stride(0);
    with_type(dtype_of(running, what), [&](auto type) {
      using T = decltype(type);
      T* data = static_cast<T*>(running.mutable_data_ptr());
      for (int64_t c = 0; c < channels; ++c) {
        double value = values[static_cast<size_t>(c)];
        for (int64_t g = 0; g < groups; ++g)
          value = (1 - momentum) * value + momentum * factor * statistics[static_cast<size_t>(g * channels + c)];
        if constexpr (sizeof(T) == sizeof(double))
          data[c * stride] = value;
        else
          data[c * stride] = from_float<T>(static_cast<float>(value));
      }
    });
  };
  update(running_mean, mean, 1, "running_mean");
  update(running_var, var, unbiased, "running_var");
}

}  // namespace
}  // namespace igan_fast::cpu

STABLE_TORCH_LIBRARY_IMPL(igan_fast, CPU, m) {
  m.impl("norm_act", TORCH_BOX(&igan_fast::cpu::norm_act));
  m.impl("norm_act_statistics", TORCH_BOX(&igan_fast::cpu::norm_act_statistics));
  m.impl("norm_act_inference", TORCH_BOX(&igan_fast::cpu::norm_act_inference));
  m.impl("norm_act_backward", TORCH_BOX(&igan_fast::cpu::norm_act_backward));
  m.impl("norm_act_sums", TORCH_BOX(&igan_fast::cpu::norm_act_sums));
  m.impl("norm_act_gradient", TORCH_BOX(&igan_fast::cpu::norm_act_gradient));
  m.impl("norm_act_update", TORCH_BOX(&igan_fast::cpu::norm_act_update));
}
