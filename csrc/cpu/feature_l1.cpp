// feature_l1 on the CPU: see igan_fast/ops/feature_l1.py for what it computes.

#include <algorithm>
#include <limits>
#include <numeric>

#include "glue.h"

namespace igan_fast::cpu {
namespace {

constexpr int64_t kCodeGroup = 64;
constexpr int64_t kCodeBytes = 16;

int64_t code_bytes(int64_t numel) { return (numel + kCodeGroup - 1) / kCodeGroup * kCodeBytes; }

// The dims, outermost first, whose order walks the tensor's memory without gap or overlap; nothing where there is none.
std::optional<std::vector<int64_t>> memory_order(const Tensor& tensor) {
  const auto sizes = tensor.sizes(), strides = tensor.strides();
  std::vector<int64_t> order;
  for (int64_t d = 0; d < tensor.dim(); ++d)
    if (sizes[d] != 1) order.push_back(d);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return strides[a] > strides[b]; });
  int64_t expected = 1;
  for (auto d = order.rbegin(); d != order.rend(); ++d) {
    if (strides[*d] != expected) return std::nullopt;
    expected *= sizes[*d];
  }
  return order;
}

// Both sides in the pair's iteration order: the fake side's memory where that is dense, else row by row. Dims that
// neither side tells apart become one.
Pair make_pair(const Tensor& fake, const Tensor& real, uint8_t* codes) {
  STD_TORCH_CHECK(fake.dim() == real.dim(), "fake has ", fake.dim(), " dimensions, its real counterpart ", real.dim());
  for (int64_t d = 0; d < fake.dim(); ++d)
    STD_TORCH_CHECK(fake.size(d) == real.size(d), "fake has size ", fake.size(d), " in dimension ", d,
                    ", its real counterpart ", real.size(d));
  Pair pair{};
  pair.numel = fake.numel();
  pair.codes = codes;
  pair.fake.data = fake.const_data_ptr();
  pair.real.data = real.const_data_ptr();
  pair.fake.dtype = dtype_of(fake, "fake");
  pair.real.dtype = dtype_of(real, "real");
  if (pair.numel == 0) return pair;

  std::vector<int64_t> order;
  if (const auto dense = memory_order(fake)) {
    order = *dense;
  } else {
    for (int64_t d = 0; d < fake.dim(); ++d)
      if (fake.size(d) != 1) order.push_back(d);
  }
  for (const int64_t d : order) {
    const int64_t size = fake.size(d), fake_stride = fake.stride(d), real_stride = real.stride(d);
    const int last = pair.ndim - 1;
    if (last >= 0 && pair.fake.strides[last] == size * fake_stride && pair.real.strides[last] == size * real_stride) {
      pair.sizes[last] *= size;
      pair.fake.strides[last] = fake_stride;
      pair.real.strides[last] = real_stride;
      continue;
    }
    STD_TORCH_CHECK(pair.ndim < kMaxDims, "fake and real differ in memory layout in more than ", kMaxDims,
                    " dimensions");
    pair.sizes[pair.ndim] = size;
    pair.fake.strides[pair.ndim] = fake_stride;
    pair.real.strides[pair.ndim] = real_stride;
    ++pair.ndim;
  }
  const auto is_linear = [&](const Strided& side) {
    int64_t expected = 1;
    for (int d = pair.ndim - 1; d >= 0; expected *= pair.sizes[d--])
      if (side.strides[d] != expected) return false;
    return true;
  };
  pair.fake.linear = is_linear(pair.fake);
  pair.real.linear = is_linear(pair.real);
  return pair;
}

std::tuple<Tensor, Tensor> feature_l1(std::vector<Tensor> fake, std::vector<Tensor> real, std::vector<double> weights,
                                      bool save_signs) {
  STD_TORCH_CHECK(!fake.empty(), "fake and real hold no tensor; expected at least one pair");
  STD_TORCH_CHECK(fake.size() == real.size(), "fake holds ", fake.size(), " tensors, real ", real.size());
  STD_TORCH_CHECK(fake.size() == weights.size(), "weights has ", weights.size(), " numbers for ", fake.size(),
                  " pairs of feature maps");
  const size_t count = fake.size();
  int64_t bytes = 0;
  for (const Tensor& tensor : fake) bytes += save_signs ? code_bytes(tensor.numel()) : 0;
  Tensor signs = torch::stable::new_empty(fake[0], {bytes}, ScalarType::Byte);
  auto* codes = save_signs ? static_cast<uint8_t*>(signs.mutable_data_ptr()) : nullptr;
  if (codes) expect_large_write(codes, bytes);

  std::vector<Pair> pairs;
  bool wide = false;
  for (size_t i = 0; i < count; ++i) {
    pairs.push_back(make_pair(fake[i], real[i], codes));
    wide = wide || pairs[i].fake.dtype == Dtype::Double || pairs[i].real.dtype == Dtype::Double;
    if (codes) codes += code_bytes(pairs[i].numel);
  }
  std::vector<double> sums(count);
  kernels().feature_l1(pairs.data(), static_cast<int64_t>(count), sums.data(), &torch_parallel);

  double loss = 0;
  for (size_t i = 0; i < count; ++i)
    loss += weights[i] *
            (pairs[i].numel ? sums[i] / static_cast<double>(pairs[i].numel) : std::numeric_limits<double>::quiet_NaN());
  Tensor result = torch::stable::new_empty(fake[0], {}, wide ? ScalarType::Double : ScalarType::Float);
  if (wide)
    *static_cast<double*>(result.mutable_data_ptr()) = loss;
  else
    *static_cast<float*>(result.mutable_data_ptr()) = static_cast<float>(loss);
  return {result, signs};
}

std::vector<Tensor> feature_l1_backward(Tensor grad, Tensor signs, std::vector<int64_t> numels,
                                        std::vector<int64_t> offsets, std::vector<double> scales, ScalarType dtype) {
  STD_TORCH_CHECK(grad.numel() == 1, "grad has ", grad.numel(), " values; expected one");
  STD_TORCH_CHECK(numels.size() == offsets.size() && numels.size() == scales.size(),
                  "numels, offsets and scales differ in length");
  const double upstream = values_of<double>(torch::stable::reshape(grad, {1}), 1, 0., "grad")[0];
  const Dtype type = dtype_of(dtype, "dtype");
  const auto* codes = static_cast<const uint8_t*>(signs.const_data_ptr());
  std::vector<Tensor> outputs;
  std::vector<SignedFill> fills;
  for (size_t i = 0; i < numels.size(); ++i) {
    STD_TORCH_CHECK(offsets[i] >= 0 && offsets[i] + code_bytes(numels[i]) <= signs.numel(), "offsets[", i,
                    "] lies outside of signs");
    outputs.push_back(torch::stable::new_empty(signs, {numels[i]}, dtype));
    void* out = outputs[i].mutable_data_ptr();
    expect_large_write(out, numels[i] * size_of(type));
    fills.push_back({out, type, numels[i], codes + offsets[i], scales[i] * upstream});
  }
  kernels().feature_l1_backward(fills.data(), static_cast<int64_t>(fills.size()), &torch_parallel);
  return outputs;
}

}  // namespace
}  // namespace igan_fast::cpu

STABLE_TORCH_LIBRARY_IMPL(igan_fast, CPU, m) {
  m.impl("feature_l1", TORCH_BOX(&igan_fast::cpu::feature_l1));
  m.impl("feature_l1_backward", TORCH_BOX(&igan_fast::cpu::feature_l1_backward));
}
