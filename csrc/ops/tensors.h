// Conversions of torch's tensors and dtypes, for the operators of both devices.

#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "ops/dtype.h"

namespace igan_fast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// `what` names the tensor in the error message.
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

// The dtype in which sums and statistics are returned.
inline ScalarType compute_type(Dtype dtype) { return dtype == Dtype::Double ? ScalarType::Double : ScalarType::Float; }

}  // namespace igan_fast
