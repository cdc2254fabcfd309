// Functions for the operators.cpp of all CPU operators.

#pragma once

#include <optional>
#include <vector>

#include "cpu/dtypes.h"
#include "cpu/isa.h"
#include "cpu/memory.h"
#include "ops/tensors.h"

namespace igan_fast::cpu {

inline void torch_parallel(int64_t begin, int64_t end, int64_t grain, Body body, void* context) {
  TORCH_ERROR_CODE_CHECK(torch_parallel_for(begin, end, grain, body, context));
}

// The values of a 1-d or contiguous tensor as A. Without a tensor, all `count` values are `missing`.
template <typename A>
std::vector<A> values_of(const std::optional<Tensor>& tensor, int64_t count, A missing, const char* what) {
  std::vector<A> values(static_cast<size_t>(count), missing);
  if (!tensor) return values;
  STD_TORCH_CHECK(tensor->numel() == count, what, " has ", tensor->numel(), " values; expected ", count);
  const int64_t stride = tensor->dim() == 1 ? tensor->stride(0) : 1;
  STD_TORCH_CHECK(tensor->dim() == 1 || tensor->is_contiguous(), what, " is not contiguous");
  with_type(dtype_of(*tensor, what), [&](auto type) {
    const auto* data = static_cast<const decltype(type)*>(tensor->const_data_ptr());
    for (int64_t i = 0; i < count; ++i) values[static_cast<size_t>(i)] = static_cast<A>(to_float(data[i * stride]));
  });
  return values;
}

}  // namespace igan_fast::cpu
