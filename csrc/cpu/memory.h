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

constexpr uintptr_t kHugePage = uintptr_t{2} << 20;

// Asks the system for huge pages in a new output. Page faults for every 4 KiB take several times as long as the writes.
inline void advise_huge_pages(void* data, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes)) / kHugePage * kHugePage;
  if (begin < end) (void)madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}

// New memory in huge pages of its own, as far as the system has them; null if there is too little memory. The address
// sanitizer knows only what operator new allocates.
#if defined(__linux__) && defined(MADV_HUGEPAGE) && !defined(__SANITIZE_ADDRESS__)
constexpr bool kHasHugePages = true;

inline int64_t in_huge_pages(int64_t bytes) {
  return static_cast<int64_t>((static_cast<uintptr_t>(bytes) + kHugePage - 1) / kHugePage * kHugePage);
}

inline void* allocate_huge_pages(int64_t bytes) {
  const auto size = static_cast<uintptr_t>(in_huge_pages(bytes));
  void* whole = mmap(nullptr, size + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (whole == MAP_FAILED) return nullptr;
  // The system aligns to small pages. What lies before and behind the huge pages is given back.
  const auto start = reinterpret_cast<uintptr_t>(whole), begin = (start + kHugePage - 1) / kHugePage * kHugePage;
  if (begin > start) (void)munmap(whole, begin - start);
  if (const uintptr_t behind = start + kHugePage - begin) (void)munmap(reinterpret_cast<void*>(begin + size), behind);
  (void)madvise(reinterpret_cast<void*>(begin), size, MADV_HUGEPAGE);
  return reinterpret_cast<void*>(begin);
}

inline void free_huge_pages(void* memory, int64_t bytes) {
  (void)munmap(memory, static_cast<size_t>(in_huge_pages(bytes)));
}
#else
constexpr bool kHasHugePages = false;
inline void* allocate_huge_pages(int64_t) { return nullptr; }
inline void free_huge_pages(void*, int64_t) {}
#endif

}  // namespace igan_fast::cpu
