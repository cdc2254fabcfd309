// Checks feature_l1's arguments and converts them to plain data, for both devices.

#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "ops/feature_l1/pair.h"
#include "ops/tensors.h"

namespace igan_fast {

// The dims of a dense tensor in the order of its memory, outermost first. nullopt for a tensor with gaps or overlaps.
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

// The iteration order is the order of fake's memory if fake is dense, else row-major. Neighbouring dims that can be
// merged in both tensors become one dim.
inline Pair make_pair(const Tensor& fake, const Tensor& real, uint8_t* sign_mask) {
  STD_TORCH_CHECK(fake.dim() == real.dim(), "fake has ", fake.dim(), " dimensions, its real counterpart ", real.dim());
  for (int64_t d = 0; d < fake.dim(); ++d)
    STD_TORCH_CHECK(fake.size(d) == real.size(d), "fake has size ", fake.size(d), " in dimension ", d,
                    ", its real counterpart ", real.size(d));
  Pair pair{};
  pair.numel = fake.numel();
  pair.sign_mask = sign_mask;
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

// The pairs of a call, and one tensor for their sign masks, one after the other.
struct Pairs {
  std::vector<Pair> list;
  Tensor sign_masks;  // uint8; empty where none are saved
  bool has_double;    // any float64

  Pairs(const std::vector<Tensor>& fake, const std::vector<Tensor>& real, size_t weights, bool save_signs)
      : sign_masks(check_and_allocate(fake, real, weights, save_signs)), has_double(false) {
    auto* mask = save_signs ? static_cast<uint8_t*>(sign_masks.mutable_data_ptr()) : nullptr;
    for (size_t i = 0; i < fake.size(); ++i) {
      list.push_back(make_pair(fake[i], real[i], mask));
      has_double = has_double || list[i].fake.dtype == Dtype::Double || list[i].real.dtype == Dtype::Double;
      if (mask) mask += mask_bytes(list[i].numel);
    }
  }

 private:
  static Tensor check_and_allocate(const std::vector<Tensor>& fake, const std::vector<Tensor>& real, size_t weights,
                                   bool save_signs) {
    STD_TORCH_CHECK(!fake.empty(), "fake and real hold no tensor; expected at least one pair");
    STD_TORCH_CHECK(fake.size() == real.size(), "fake holds ", fake.size(), " tensors, real ", real.size());
    STD_TORCH_CHECK(fake.size() == weights, "weights has ", weights, " numbers for ", fake.size(),
                    " pairs of feature maps");
    int64_t bytes = 0;
    for (const Tensor& tensor : fake) bytes += save_signs ? mask_bytes(tensor.numel()) : 0;
    return torch::stable::new_empty(fake[0], {bytes}, ScalarType::Byte);
  }
};

// The outputs of feature_l1_backward, allocated but not yet written. `signs` is Pairs::sign_masks. The mask of output i
// begins at its byte offsets[i].
struct Fills {
  std::vector<Tensor> outputs;
  std::vector<SignedFill> list;

  Fills(const Tensor& signs, const std::vector<int64_t>& numels, const std::vector<int64_t>& offsets,
        const std::vector<double>& scales, ScalarType dtype) {
    STD_TORCH_CHECK(numels.size() == offsets.size() && numels.size() == scales.size(),
                    "numels, offsets and scales differ in length");
    const Dtype type = dtype_of(dtype, "dtype");
    const auto* mask = static_cast<const uint8_t*>(signs.const_data_ptr());
    for (size_t i = 0; i < numels.size(); ++i) {
      STD_TORCH_CHECK(offsets[i] >= 0 && offsets[i] + mask_bytes(numels[i]) <= signs.numel(), "offsets[", i,
                      "] lies outside of signs");
      outputs.push_back(torch::stable::new_empty(signs, {numels[i]}, dtype));
      list.push_back({outputs[i].mutable_data_ptr(), type, numels[i], mask + offsets[i], scales[i]});
    }
  }
};

}  // namespace igan_fast
