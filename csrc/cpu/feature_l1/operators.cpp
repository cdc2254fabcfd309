// feature_l1 on the CPU. igan_fast/ops/feature_l1.py says what it computes.

#include "cpu/feature_l1/kernels.h"

#include "cpu/operators.h"
#include "ops/feature_l1/pairs.h"

namespace igan_fast::cpu {
namespace {

std::tuple<Tensor, Tensor> feature_l1(std::vector<Tensor> fake, std::vector<Tensor> real, std::vector<double> weights,
                                      bool save_signs) {
  Pairs pairs(fake, real, weights.size(), save_signs);
  if (save_signs) advise_huge_pages(pairs.sign_masks.mutable_data_ptr(), pairs.sign_masks.numel());
  std::vector<double> sums(pairs.list.size());
  feature_l1_kernels(isa_in_use())
      .forward(pairs.list.data(), static_cast<int64_t>(pairs.list.size()), sums.data(), &torch_parallel);

  double loss = 0;
  for (size_t i = 0; i < sums.size(); ++i)  // 0 / 0 is NaN: the mean of an empty tensor, as in PyTorch
    loss += weights[i] * (sums[i] / static_cast<double>(pairs.list[i].numel));
  Tensor result = torch::stable::new_empty(fake[0], {}, pairs.has_double ? ScalarType::Double : ScalarType::Float);
  if (pairs.has_double)
    *static_cast<double*>(result.mutable_data_ptr()) = loss;
  else
    *static_cast<float*>(result.mutable_data_ptr()) = static_cast<float>(loss);
  return {result, pairs.sign_masks};
}

std::vector<Tensor> feature_l1_backward(Tensor grad, Tensor signs, std::vector<int64_t> numels,
                                        std::vector<int64_t> offsets, std::vector<double> scales, ScalarType dtype) {
  STD_TORCH_CHECK(grad.numel() == 1, "grad has ", grad.numel(), " values; expected one");
  const double upstream = values_of<double>(torch::stable::reshape(grad, {1}), 1, 0., "grad")[0];
  Fills fills(signs, numels, offsets, scales, dtype);
  for (SignedFill& fill : fills.list) {
    fill.scale *= upstream;
    advise_huge_pages(fill.out, fill.numel * size_of(fill.dtype));
  }
  feature_l1_kernels(isa_in_use())
      .backward(fills.list.data(), static_cast<int64_t>(fills.list.size()), &torch_parallel);
  return fills.outputs;
}

}  // namespace
}  // namespace igan_fast::cpu

STABLE_TORCH_LIBRARY_IMPL(igan_fast, CPU, m) {
  m.impl("feature_l1", TORCH_BOX(&igan_fast::cpu::feature_l1));
  m.impl("feature_l1_backward", TORCH_BOX(&igan_fast::cpu::feature_l1_backward));
}
