// CUDA's language for kernels that are compiled as C++ and run on a CPU.
// runtime.cpp runs them.
//
// A kernel's threads are fibers. One thread runs until it meets a barrier, a
// shuffle or a vote; then the next one runs. What CUDA leaves undefined is an
// error here, a C++ exception that names the rule: lanes that their mask does
// not name, lanes that are missing, a barrier that some threads do not reach, a
// grid or a block that is too large.

#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess };
inline cudaError_t cudaGetLastError() { return cudaSuccess; }  // a launch that fails has thrown
inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }

using std::fma;
using std::isfinite;
using std::isnan;
template <typename T>
T rsqrt(T value) {
  return 1 / std::sqrt(value);
}

namespace cuda_on_cpu {

// Where the running thread is. Read through the macros below.
struct Position {
  uint3 thread{}, block{};
  dim3 threads, grid;
};
extern thread_local Position position __attribute__((tls_model("initial-exec")));

enum class Op { kBarrier, kSyncWarp, kShuffle, kShuffleDown, kShuffleUp, kShuffleXor, kBallot, kAny, kAll };

// Waits for the other threads. `value` is what this lane gives, and becomes
// what it gets.
void wait(Op op, unsigned mask, int argument, void* value, size_t size);

template <typename T>
T exchange(Op op, unsigned mask, T value, int argument) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8, "a shuffle moves values of up to 8 bytes");
  wait(op, mask, argument, &value, sizeof(T));
  return value;
}

// Memory of one block, filled with 0xFF at the block's start. `key` names the
// variable.
void* shared_memory(const void* key, size_t size);

template <typename T>
T& shared(const void* key) {
  return *static_cast<T*>(shared_memory(key, sizeof(T)));
}

void run(dim3 grid, dim3 threads, const std::function<void()>& thread);

// A launch: the second pair of brackets takes the arguments, which are copied
// as a launch copies them.
template <typename... Parameters>
auto launcher(dim3 grid, dim3 threads, void (*kernel)(Parameters...)) {
  static_assert((sizeof(std::decay_t<Parameters>) + ... + 0) <= 4096, "a kernel's parameters have at most 4 KiB");
  return [=](std::decay_t<Parameters>... arguments) { run(grid, threads, [&] { kernel(arguments...); }); };
}

}  // namespace cuda_on_cpu

#define IGAN_FAST_LAUNCH(launch, grid, threads, ...) cuda_on_cpu::launcher(grid, threads, __VA_ARGS__)

#define threadIdx (cuda_on_cpu::position.thread)
#define blockIdx (cuda_on_cpu::position.block)
#define blockDim (cuda_on_cpu::position.threads)
#define gridDim (cuda_on_cpu::position.grid)

inline void __syncthreads() { cuda_on_cpu::wait(cuda_on_cpu::Op::kBarrier, 0, 0, nullptr, 0); }
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  cuda_on_cpu::wait(cuda_on_cpu::Op::kSyncWarp, mask, 0, nullptr, 0);
}
template <typename T>
T __shfl_sync(unsigned mask, T value, int lane) {
  return cuda_on_cpu::exchange(cuda_on_cpu::Op::kShuffle, mask, value, lane);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance) {
  return cuda_on_cpu::exchange(cuda_on_cpu::Op::kShuffleDown, mask, value, static_cast<int>(distance));
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance) {
  return cuda_on_cpu::exchange(cuda_on_cpu::Op::kShuffleUp, mask, value, static_cast<int>(distance));
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits) {
  return cuda_on_cpu::exchange(cuda_on_cpu::Op::kShuffleXor, mask, value, bits);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return cuda_on_cpu::exchange<unsigned>(cuda_on_cpu::Op::kBallot, mask, predicate != 0, 0);
}
inline int __any_sync(unsigned mask, int predicate) {
  return static_cast<int>(cuda_on_cpu::exchange<unsigned>(cuda_on_cpu::Op::kAny, mask, predicate != 0, 0));
}
inline int __all_sync(unsigned mask, int predicate) {
  return static_cast<int>(cuda_on_cpu::exchange<unsigned>(cuda_on_cpu::Op::kAll, mask, predicate != 0, 0));
}
