// Included before every source. Operators are registered in a namespace of their own and for CPU tensors; there is one
// device, and there are no streams.
#pragma once
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#undef STABLE_TORCH_LIBRARY_FRAGMENT
#undef STABLE_TORCH_LIBRARY_IMPL
#define STABLE_TORCH_LIBRARY_FRAGMENT(ns, m) _STABLE_TORCH_LIBRARY_FRAGMENT(igan_fast_emulated, m, C10_UID)
#define STABLE_TORCH_LIBRARY_IMPL(ns, k, m) _STABLE_TORCH_LIBRARY_IMPL(igan_fast_emulated, CPU, m, C10_UID)

namespace torch::stable::accelerator {
struct NoDeviceGuard {
  explicit NoDeviceGuard(int32_t) {}
  ~NoDeviceGuard() {}  // else it would be an unused variable
};
}  // namespace torch::stable::accelerator
#define DeviceGuard NoDeviceGuard
#define aoti_torch_get_current_cuda_stream(device, stream) (*(stream) = nullptr, AOTI_TORCH_SUCCESS)
