// Streaming stores and huge pages for large outputs.

#pragma once

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace igan_fast::cpu {

// Whether to write an output with streaming stores, which bypass the caches. They are faster if the output is so large
// that it would not stay in the caches until it is read. The inputs then stay in the caches, and memory is not read
// before it is overwritten.
inline bool bypasses_caches(int64_t bytes, const void* out) {
  static const int64_t last_level = [] {
    int64_t size = 0;
#if defined(__linux__) && defined(_SC_LEVEL3_CACHE_SIZE)
    size = sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
    return size > 0 ? size : int64_t{32} << 20;
  }();
  return bytes >= last_level / 2 && reinterpret_cast<uintptr_t>(out) % 64 == 0;
}

// Asks the system for huge pages in a new output. Page faults for every 4 KiB take several times as long as the writes.
inline void advise_huge_pages(void* data, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kHugePage = uintptr_t{2} << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes)) / kHugePage * kHugePage;
  if (begin < end) (void)madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}

}  // namespace igan_fast::cpu
