// Functions for the CUDA kernels of all operators: 64-bit indices, conversions, vector accesses, sums in a fixed order,
// and launches on torch's stream.

#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>

#include "ops/tensors.h"

namespace igan_fast::cuda {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr int kWarps = kThreads / kWarp;
constexpr unsigned kFullWarp = 0xffffffffu;

// The rule of indices: a block's index and all sizes are int64, and so is every offset computed from them. Kernels read
// blockIdx only through these functions. Two things have 32 bits: a thread's index, and the step of norm_act's loops,
// which the host keeps below 2^31 (partition_of). A grid has at most 2^31 - 1 blocks in x and 65,535 in y and in z; the
// host checks that (partition_of, grid_of).
__device__ inline int64_t block_x() { return static_cast<int64_t>(blockIdx.x); }
__device__ inline int64_t block_y() { return static_cast<int64_t>(blockIdx.y); }
__device__ inline int64_t block_z() { return static_cast<int64_t>(blockIdx.z); }

// The type in which kernels compute with values of T.
template <typename T>
struct AccOf {
  using type = float;
};
template <>
struct AccOf<double> {
  using type = double;
};

__device__ inline float wide(__half value) { return __half2float(value); }
__device__ inline float wide(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ inline float wide(float value) { return value; }
__device__ inline double wide(double value) { return value; }

template <typename T, typename A>
__device__ inline T narrow(A value) {
  if constexpr (sizeof(T) == sizeof(A)) {
    return value;
  } else if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(static_cast<float>(value));
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(static_cast<float>(value));
  } else {
    return static_cast<T>(value);
  }
}

// LeakyReLU. Slope 0 is computed as ReLU, because 0 · −∞ would be NaN; PyTorch's ReLU returns 0 for −∞.
template <typename A>
__device__ inline A activate(A z, A slope) {
  if (slope == 0) return z <= 0 ? A(0) : z;
  return z > 0 ? z : z * slope;
}

// The gradient of the LeakyReLU's input z, from the gradient of its output.
template <typename A>
__device__ inline A activate_backward(A z, A grad, A slope) {
  if (slope == 0) return z <= 0 ? A(0) : grad;
  return z > 0 ? grad : grad * slope;
}

// Calls function(T{}) with the type T of dtype.
template <typename Function>
void with_type(Dtype dtype, const Function& function) {
  switch (dtype) {
    case Dtype::Half: return function(__half{});
    case Dtype::BFloat16: return function(__nv_bfloat16{});
    case Dtype::Float: return function(float{});
    case Dtype::Double: return function(double{});
  }
}

// V values that one instruction loads or stores.
template <typename T, int V>
struct alignas(sizeof(T) * V) Pack {
  T values[V];
};

template <typename T>
constexpr int kVector = 16 / static_cast<int>(sizeof(T));

inline bool is_aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

// data[index], of any of the four dtypes. It is slower than a typed access. Use it only for the few values per channel,
// or where dtypes or strides differ.
__device__ inline double read(const void* data, Dtype dtype, int64_t index) {
  switch (dtype) {
    case Dtype::Half: return static_cast<double>(wide(static_cast<const __half*>(data)[index]));
    case Dtype::BFloat16: return static_cast<double>(wide(static_cast<const __nv_bfloat16*>(data)[index]));
    case Dtype::Float: return static_cast<double>(static_cast<const float*>(data)[index]);
    default: return static_cast<const double*>(data)[index];
  }
}

// The sum over the block, in a fixed order. Every thread of the block has to call it; only thread 0 gets the result.
__device__ inline double block_sum(double value) {
  __shared__ double warps[kWarps];
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value += __shfl_down_sync(kFullWarp, value, offset);
  __syncthreads();  // another thread may still read the previous call's warps
  if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = value;
  __syncthreads();
  if (threadIdx.x == 0)
    for (int w = 1; w < kWarps; ++w) value += warps[w];
  return value;
}

// Makes the tensor's device the current one during its lifetime, and converts to that device's current stream.
class Launch {
 public:
  explicit Launch(const Tensor& tensor) : guard_(tensor.get_device_index()) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }
  operator cudaStream_t() const { return stream_; }
  void check(const char* kernel) const {
    const cudaError_t error = cudaGetLastError();
    STD_TORCH_CHECK(error == cudaSuccess, kernel, " could not be launched: ", cudaGetErrorString(error));
  }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

}  // namespace igan_fast::cuda

// IGAN_FAST_LAUNCH(launch, grid, threads, kernel)(arguments…) starts a kernel on a Launch. It is a macro so that
// tests/cuda_on_cpu can compile the same sources as C++. The kernel comes last, because its name may have commas.
#if !defined(IGAN_FAST_LAUNCH)
#define IGAN_FAST_LAUNCH(launch, grid, threads, ...) __VA_ARGS__<<<grid, threads, 0, launch>>>
#endif
