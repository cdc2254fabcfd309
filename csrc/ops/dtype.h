// The dtypes that kernels support. This header does not include torch.

#pragma once

#include <cstdint>

namespace igan_fast {

enum class Dtype : uint8_t { Half, BFloat16, Float, Double };

constexpr int64_t size_of(Dtype dtype) { return dtype == Dtype::Double ? 8 : dtype == Dtype::Float ? 4 : 2; }

}  // namespace igan_fast
