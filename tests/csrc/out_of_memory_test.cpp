// Allocations that fail: the call throws std::bad_alloc, every later call is
// right, and what a thread keeps between calls is bounded.

#include <cstdlib>
#include <map>
#include <mutex>
#include <new>

#include "cpu/winograd/kernels.h"

#include "testing.h"

#if defined(__linux__)
#include <sys/mman.h>
#include <sys/types.h>
#endif

using namespace igan_fast;
using namespace igan_fast::cpu;

namespace {

std::mutex mutex;
size_t refused_from = SIZE_MAX, live = 0;

constexpr size_t kHeader = 64; // precedes each block and holds its size

void *allocate(size_t bytes) {
  {
    const std::lock_guard<std::mutex> lock(mutex);
    if (bytes >= refused_from)
      throw std::bad_alloc();
    live += bytes;
  }
  const size_t whole = (bytes + 2 * kHeader - 1) / kHeader * kHeader;
  void *memory = std::aligned_alloc(kHeader, whole);
  if (!memory)
    throw std::bad_alloc();
  *static_cast<size_t *>(memory) = bytes;
  return static_cast<char *>(memory) + kHeader;
}

void release(void *memory) {
  if (!memory)
    return;
  void *whole = static_cast<char *>(memory) - kHeader;
  const std::lock_guard<std::mutex> lock(mutex);
  live -= *static_cast<size_t *>(whole);
  std::free(whole);
}

} // namespace

void *operator new(size_t bytes) { return allocate(bytes); }
void *operator new(size_t bytes, std::align_val_t) { return allocate(bytes); }
void operator delete(void *memory) noexcept { release(memory); }
void operator delete(void *memory, size_t) noexcept { release(memory); }
void operator delete(void *memory, std::align_val_t) noexcept {
  release(memory);
}
void operator delete(void *memory, size_t, std::align_val_t) noexcept {
  release(memory);
}

#if defined(__linux__)
// The linker directs the kernels' calls of mmap and munmap here (--wrap).
extern "C" {
void *__real_mmap(void *at, size_t bytes, int protection, int flags, int file,
                  off_t offset);
int __real_munmap(void *memory, size_t bytes);

void *__wrap_mmap(void *at, size_t bytes, int protection, int flags, int file,
                  off_t offset) {
  {
    const std::lock_guard<std::mutex> lock(mutex);
    if (bytes >= refused_from)
      return MAP_FAILED;
  }
  void *memory = __real_mmap(at, bytes, protection, flags, file, offset);
  const std::lock_guard<std::mutex> lock(mutex);
  live += memory == MAP_FAILED ? 0 : bytes;
  return memory;
}

int __wrap_munmap(void *memory, size_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex);
  live -= bytes;
  return __real_munmap(memory, bytes);
}
}
#endif

namespace {

struct Convolution {
  ConvShape shape;
  FilterStrides strides;
  std::vector<float> large, weight, filter, small, gradient;

  Convolution(const WinogradKernels &kernel, int64_t side, int64_t channels)
      : shape{1, side, side, channels, side / 2, side / 2, channels, 2},
        strides{channels * 25, 25, 5, 1},
        large(static_cast<size_t>(side * side * channels)),
        weight(static_cast<size_t>(channels * channels * 25)),
        filter(
            static_cast<size_t>(kernel.filter_size(channels, channels, false))),
        small(static_cast<size_t>(side * side / 4 * channels)),
        gradient(weight.size()) {
    Random random{5};
    for (auto *values : {&large, &weight})
      for (float &value : *values)
        value = static_cast<float>(random());
  }

  void run(const WinogradKernels &kernel) {
    kernel.transform_filter(shape.small_channels, shape.large_channels, strides,
                            {weight.data(), Dtype::Float}, false, filter.data(),
                            &in_one_piece);
    kernel.convolve(shape, {large.data(), Dtype::Float}, filter.data(), nullptr,
                    1, {small.data(), Dtype::Float}, &in_one_piece);
    kernel.weight_gradient(shape, strides, {large.data(), Dtype::Float},
                           {small.data(), Dtype::Float},
                           {gradient.data(), Dtype::Float}, &in_one_piece);
  }
};

template <typename Function> bool fails(const Function &function) {
  try {
    function();
  } catch (const std::bad_alloc &) {
    return true;
  }
  return false;
}

void refuse_from(size_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex);
  refused_from = bytes;
}

size_t in_use() {
  const std::lock_guard<std::mutex> lock(mutex);
  return live;
}

void one_thread(Isa isa, const WinogradKernels &kernel) {
  Convolution few(kernel, 8, 16), many(kernel, 32, 96);
  few.run(kernel);
  const Convolution before = few;

  refuse_from(size_t{1} << 20);
  CHECK(fails([&] { many.run(kernel); }), "%s: there is enough memory",
        name_of(isa));
  CHECK(fails([&] { many.run(kernel); }),
        "%s: the second time, what failed is taken for granted", name_of(isa));
  refuse_from(SIZE_MAX);
  many.run(kernel);
  const Convolution first = many;
  std::thread([&] { many.run(kernel); }).join(); // a thread that never failed
  CHECK(first.small == many.small && first.gradient == many.gradient,
        "%s: another result after a failure", name_of(isa));
  few.run(kernel);
  CHECK(before.small == few.small && before.gradient == few.gradient,
        "%s: another result after all", name_of(isa));
}

} // namespace

int main() {
  return for_every_isa([](Isa isa) {
    for (const WinogradKernels &kernel : winograd_kernels(isa))
      if (kernel.kernel == 5) // in a thread that has kept nothing yet
        std::thread([&] { one_thread(isa, kernel); }).join();

    // Sums of 121 planes of 512 × 512: more than a thread may keep.
    const WinogradKernels &largest = winograd_kernels(isa)[1];
    Convolution whole(largest, 4, 512);
    size_t before = 0, after = 0;
    std::thread([&] {
      before = in_use();
      whole.run(largest);
      after = in_use();
    }).join();
    CHECK(after <= before + (size_t{64} << 20), "%s: a thread keeps %zu bytes",
          name_of(isa), after - before);
  });
}
