// From torch's tensors to the kernels' plain types, for either device.

#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "pair.h"

namespace igan_fast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Dtype dtype_of(ScalarType type, const char* what) {
  switch (type) {
    case ScalarType::Half: return Dtype::Half;
    case ScalarType::BFloat16: return Dtype::BFloat16;
    case ScalarType::Float: return Dtype::Float;
    case ScalarType::Double: return Dtype::Double;
    default: STD_TORCH_CHECK(false, what, " has an unsupported dtype; expected float16, bfloat16, float32 or float64");
  }
}

inline Dtype dtype_of(const Tensor& tensor, const char* what) { return dtype_of(tensor.scalar_type(), what); }

// The dtype of sums and statistics.
inline ScalarType compute_type(Dtype dtype) { return dtype == Dtype::Double ? ScalarType::Double : ScalarType::Float; }

// The dims, outermost first, whose order walks the tensor's memory without gap or overlap; nothing where there is none.
inline std::optional<std::vector<int64_t>> memory_order(const Tensor& tensor) {
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
inline Pair make_pair(const Tensor& fake, const Tensor& real, uint8_t* codes) {
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

// The pairs of a call, and one tensor for the codes of all of them.
struct Pairs {
  std::vector<Pair> list;
  Tensor signs;
  bool wide;  // any float64

  Pairs(const std::vector<Tensor>& fake, const std::vector<Tensor>& real, size_t weights, bool save_signs)
      : signs(reserve(fake, real, weights, save_signs)), wide(false) {
    auto* codes = save_signs ? static_cast<uint8_t*>(signs.mutable_data_ptr()) : nullptr;
    for (size_t i = 0; i < fake.size(); ++i) {
      list.push_back(make_pair(fake[i], real[i], codes));
      wide = wide || list[i].fake.dtype == Dtype::Double || list[i].real.dtype == Dtype::Double;
      if (codes) codes += code_bytes(list[i].numel);
    }
  }

 private:
  static Tensor reserve(const std::vector<Tensor>& fake, const std::vector<Tensor>& real, size_t weights,
                        bool save_signs) {
    STD_TORCH_CHECK(!fake.empty(), "fake and real hold no tensor; expected at least one pair");
    STD_TORCH_CHECK(fake.size() == real.size(), "fake holds ", fake.size(), " tensors, real ", real.size());
    STD_TORCH_CHECK(fake.size() == weights, "weights has ", weights, " numbers for ", fake.size(),
                    " pairs of feature maps");
    int64_t bytes = 0;
    for (const Tensor& tensor : fake) bytes += save_signs ? code_bytes(tensor.numel()) : 0;
    return torch::stable::new_empty(fake[0], {bytes}, ScalarType::Byte);
  }
};

// The outputs of feature_l1's backward, not yet filled.
struct Fills {
  std::vector<Tensor> outputs;
  std::vector<SignedFill> list;

  Fills(const Tensor& signs, const std::vector<int64_t>& numels, const std::vector<int64_t>& offsets,
        const std::vector<double>& scales, ScalarType dtype) {
    STD_TORCH_CHECK(numels.size() == offsets.size() && numels.size() == scales.size(),
                    "numels, offsets and scales differ in length");
    const Dtype type = dtype_of(dtype, "dtype");
    const auto* codes = static_cast<const uint8_t*>(signs.const_data_ptr());
    for (size_t i = 0; i < numels.size(); ++i) {
      STD_TORCH_CHECK(offsets[i] >= 0 && offsets[i] + code_bytes(numels[i]) <= signs.numel(), "offsets[", i,
                      "] lies outside of signs");
      outputs.push_back(torch::stable::new_empty(signs, {numels[i]}, dtype));
      list.push_back({outputs[i].mutable_data_ptr(), type, numels[i], codes + offsets[i], scales[i]});
    }
  }
};

// x is (N, C, *spatial), contiguous or with its channels last in memory.
inline NormShape norm_shape_of(const Tensor& x, int64_t groups) {
  STD_TORCH_CHECK(x.dim() >= 2, "x has ", x.dim(), " dimensions; expected (N, C, *spatial)");
  STD_TORCH_CHECK(x.numel() > 0, "x is empty");
  STD_TORCH_CHECK(groups >= 1 && x.size(0) % groups == 0, "groups is ", groups,
                  "; expected a positive divisor of the batch size ", x.size(0));
  int64_t spatial = 1, inner = x.size(1);  // the stride that the next dimension out has where channels are last
  bool channels_last = x.size(1) > 1 && x.stride(1) == 1;
  for (int64_t d = x.dim() - 1; d >= 2; --d) {
    channels_last = channels_last && (x.size(d) == 1 || x.stride(d) == inner);
    inner *= x.size(d);
    spatial *= x.size(d);
  }
  channels_last = channels_last && (x.size(0) == 1 || x.stride(0) == inner);
  STD_TORCH_CHECK(channels_last || x.is_contiguous(), "x is neither contiguous nor channels_last");
  const int64_t batch = x.size(0) / groups, channels = x.size(1);
  return channels_last ? NormShape{groups, batch * spatial, channels, 1} : NormShape{groups, batch, channels, spatial};
}

// The number of groups that mean and var (groups, C) speak of.
inline int64_t groups_of(const Tensor& mean, const Tensor& var) {
  STD_TORCH_CHECK(mean.dim() == 2 && mean.numel() == var.numel(), "mean and var: expected (groups, C) each");
  return mean.size(0);
}

inline void check_gradient(const Tensor& grad, const Tensor& x) {
  STD_TORCH_CHECK(grad.scalar_type() == x.scalar_type(), "grad and x differ in dtype");
  STD_TORCH_CHECK(grad.dim() == x.dim(), "grad has ", grad.dim(), " dimensions, x ", x.dim());
  for (int64_t d = 0; d < x.dim(); ++d)
    STD_TORCH_CHECK(grad.size(d) == x.size(d) && (x.size(d) == 1 || grad.stride(d) == x.stride(d)),
                    "grad and x differ in shape or strides");
}

}  // namespace igan_fast
