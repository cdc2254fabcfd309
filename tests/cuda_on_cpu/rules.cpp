// Kernels that keep and break the rules of include/cuda_on_cpu.h, for test_rules.py.

#include <array>
#include <cstdio>
#include <stdexcept>

#include "cuda_on_cpu.h"

namespace {

constexpr unsigned kAll = 0xffffffffu;

// Each kernel writes one result per thread.
void barrier_for_some(int* out) {
  if (threadIdx.x < 32) __syncthreads();
  out[threadIdx.x] = 1;
}
void barrier_after_the_end(int* out) {
  if (threadIdx.x == 5) return;
  __syncthreads();
  out[threadIdx.x] = 1;
}
void shuffle_with_a_lane_that_ended(int* out) {
  if (threadIdx.x % 32 == 31) return;
  out[threadIdx.x] = __shfl_down_sync(kAll, 1, 1);
}
void shuffle_without_the_caller(int* out) { out[threadIdx.x] = __shfl_sync(0x0000ffffu, 1, 0); }
void shuffle_from_outside_of_the_mask(int* out) {
  if (threadIdx.x % 32 < 16) out[threadIdx.x] = __shfl_down_sync(0x0000ffffu, 1, 1);
}
void shuffle_with_two_masks(int* out) { out[threadIdx.x] = __shfl_sync(threadIdx.x % 2 ? kAll : 0x7fffffffu, 1, 0); }
void shuffle_and_barrier(int* out) {
  if (threadIdx.x % 2)
    out[threadIdx.x] = __shfl_sync(kAll, 1, 0);
  else
    __syncthreads();
}
void shuffle_and_vote(int* out) { out[threadIdx.x] = threadIdx.x % 2 ? __shfl_sync(kAll, 1, 0) : __any_sync(kAll, 1); }
void too_much_shared_memory(int* out) {
  static const char key = 0;
  out[threadIdx.x] = cuda_on_cpu::shared<std::array<int, 20000>>(&key)[0];
}
void unwritten_shared_memory(int* out) {
  static const char key = 0;
  auto& values = cuda_on_cpu::shared<std::array<int, 64>>(&key);
  out[threadIdx.x] = values[threadIdx.x];
  values[threadIdx.x] = 5;  // the next block does not see it
}
void reversed(int* out) {
  static const char key = 0;
  auto& values = cuda_on_cpu::shared<std::array<int, 64>>(&key);
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  __syncthreads();
  out[threadIdx.x] = values[63 - threadIdx.x];
}
void shuffles(int* out) {  // the sums of each half of a warp, each under its own mask, and votes
  const unsigned lane = threadIdx.x % 32, mask = lane < 16 ? 0x0000ffffu : 0xffff0000u;
  int value = static_cast<int>(threadIdx.x);
  for (int bits = 8; bits > 0; bits /= 2) value += __shfl_xor_sync(mask, value, bits);
  const int from_below = __shfl_up_sync(kAll, value, 16), first = __shfl_sync(kAll, value, 32);
  const int ballot = static_cast<int>(__ballot_sync(kAll, lane == 1 || lane == 3));
  __syncwarp();
  const int votes = __any_sync(kAll, lane == 7) + 2 * __all_sync(kAll, lane < 31) + 4 * __all_sync(kAll, 1);
  out[threadIdx.x] = value + 10000 * (lane < 16 ? 0 : from_below == first) + 100000 * (ballot == 10) + 1000000 * votes;
}
void nothing(int*) {}

struct Case {
  dim3 grid, threads;
  void (*kernel)(int*);
};
const Case kCases[] = {{1, 64, barrier_for_some},
                       {1, 64, barrier_after_the_end},
                       {1, 64, shuffle_with_a_lane_that_ended},
                       {1, 64, shuffle_without_the_caller},
                       {1, 64, shuffle_from_outside_of_the_mask},
                       {1, 64, shuffle_with_two_masks},
                       {1, 64, shuffle_and_barrier},
                       {1, 64, shuffle_and_vote},
                       {1, 64, too_much_shared_memory},
                       {dim3(1, 65536), 64, nothing},
                       {0, 64, nothing},
                       {1, 2048, nothing},
                       {1, 48, shuffles},
                       {2, 64, unwritten_shared_memory},
                       {1, 64, reversed},
                       {1, 64, shuffles}};

}  // namespace

// Runs a case. Returns false, and writes the message, where it breaks a rule.
extern "C" bool cuda_on_cpu_rules(int which, int* out, char* message, int size) {
  const Case& chosen = kCases[which];
  try {
    IGAN_FAST_LAUNCH(0, chosen.grid, chosen.threads, chosen.kernel)(out);
  } catch (const std::runtime_error& error) {
    std::snprintf(message, static_cast<size_t>(size), "%s", error.what());
    return false;
  }
  return true;
}
