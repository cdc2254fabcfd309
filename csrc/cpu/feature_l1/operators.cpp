// feature_l1 on the CPU: see igan_fast/ops/feature_l1.py for what it computes.

#include "glue.h"

namespace igan_fast::cpu {
namespace {

std::tuple<Tensor, Tensor> feature_l1(std::vector<Tensor> fake, std::vector<Tensor> real, std::vector<double> weights,
                                      bool save_signs) {
  Pairs pairs(fake, real, weights.size(), save_signs);
  if (save_signs) expect_large_write(pairs.signs.mutable_data_ptr(), pairs.signs.numel());
  std::vector<double> sums(pairs.list.size());
  kernels().feature_l1(pairs.list.data(), static_cast<int64_t>(pairs.list.size()), sums.data(), &torch_parallel);

  double loss = 0;
  for (size_t i = 0; i < sums.size(); ++i)
    loss += weights[i] * (sums[i] / static_cast<double>(pairs.list[i].numel));  // 0 / 0 is NaN, as a mean of nothing
  Tensor result = torch::stable::new_empty(fake[0], {}, pairs.wide ? ScalarType::Double : ScalarType::Float);
  if (pairs.wide)
    *static_cast<double*>(result.mutable_data_ptr()) = loss;
  else
    *static_cast<float*>(result.mutable_data_ptr()) = static_cast<float>(loss);
  return {result, pairs.signs};
}

std::vector<Tensor> feature_l1_backward(Tensor grad, Tensor signs, std::vector<int64_t> numels,
                                        std::vector<int64_t> offsets, std::vector<double> scales, ScalarType dtype) {
  STD_TORCH_CHECK(grad.numel() == 1, "grad has ", grad.numel(), " values; expected one");
  const double upstream = values_of<double>(torch::stable::reshape(grad, {1}), 1, 0., "grad")[0];
  Fills fills(signs, numels, offsets, scales, dtype);
  for (SignedFill& fill : fills.list) {
    fill.scale *= upstream;
    expect_large_write(fill.out, fill.numel * size_of(fill.dtype));
  }
  kernels().feature_l1_backward(fills.list.data(), static_cast<int64_t>(fills.list.size()), &torch_parallel);
  return fills.outputs;
}

}  // namespace
}  // namespace igan_fast::cpu

STABLE_TORCH_LIBRARY_IMPL(igan_fast, CPU, m) {
  m.impl("feature_l1", TORCH_BOX(&igan_fast::cpu::feature_l1));
  m.impl("feature_l1_backward", TORCH_BOX(&igan_fast::cpu::feature_l1_backward));
}
