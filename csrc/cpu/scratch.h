// Memory for a call's intermediate results. A thread keeps it for its next call, because the page faults of new memory
// cost more time than most of the writes to it.

#pragma once

#include <cstdint>
#include <memory>
#include <new>
#include <utility>

#include "cpu/memory.h"

namespace igan_fast::cpu {

constexpr int64_t kMaxKeptFloats = int64_t{16} << 20;  // a thread keeps at most 64 MiB, until it ends
constexpr int64_t kMinHugeFloats = int64_t{1} << 17;   // half a MiB: fewer lie in few pages of any size

// An uninitialised array of floats, aligned to a cache line, in huge pages if a thread may keep it. The constructor
// throws std::bad_alloc if there is too little memory.
//
// The transforms write each value of a tile to another plane of such an array. Planes in pages of 4 KiB cost more time
// than the transforms, because no processor holds the addresses of so many pages. Memory from the heap is no better:
// the system leaves pages that were in use before as they are.
class Floats {
 public:
  Floats() = default;
  explicit Floats(int64_t count) : memory_(allocate(count), Free{huge_bytes(count)}), count_(count) {}
  Floats(Floats&& other) noexcept : memory_(std::move(other.memory_)), count_(std::exchange(other.count_, 0)) {}
  Floats& operator=(Floats&& other) noexcept {
    memory_ = std::move(other.memory_);
    count_ = std::exchange(other.count_, 0);
    return *this;
  }
  float* data() const { return memory_.get(); }
  int64_t count() const { return count_; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    int64_t huge_bytes;
    void operator()(float* memory) const {
      huge_bytes > 0 ? free_huge_pages(memory, huge_bytes) : ::operator delete(memory, kAlignment);
    }
  };
  static int64_t huge_bytes(int64_t count) {
    const bool huge = kHasHugePages && count >= kMinHugeFloats && count <= kMaxKeptFloats;
    return huge ? count * int64_t{sizeof(float)} : 0;
  }
  static float* allocate(int64_t count) {
    if (const int64_t bytes = huge_bytes(count)) {
      void* memory = allocate_huge_pages(bytes);
      if (!memory) throw std::bad_alloc();
      return static_cast<float*>(memory);
    }
    const size_t bytes = static_cast<size_t>(count) * sizeof(float);
    void* memory = ::operator new(bytes, kAlignment);
    advise_huge_pages(memory, static_cast<int64_t>(bytes));
    return static_cast<float*>(memory);
  }

  std::unique_ptr<float, Free> memory_;
  int64_t count_ = 0;
};

// At least `count` floats for the lifetime of this object: the array that the thread has kept, or a new one if that is
// too small. A thread keeps an array for each of up to three objects that live at the same time.
class Scratch {
 public:
  explicit Scratch(int64_t count) : level_(thread().level) {
    if (level_ < kLevels) floats_ = std::move(thread().kept[level_]);
    if (floats_.count() < count) {
      floats_ = Floats();  // frees the small array before the large one is allocated
      floats_ = Floats(count);
    }
    ++thread().level;
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    thread().level = level_;
    if (level_ < kLevels && floats_.count() <= kMaxKeptFloats) thread().kept[level_] = std::move(floats_);
  }
  float* data() const { return floats_.data(); }

 private:
  static constexpr int kLevels = 3;
  struct Thread {
    Floats kept[kLevels];
    int level = 0;  // the number of objects that live
  };
  static Thread& thread() {
    thread_local Thread thread;
    return thread;
  }

  const int level_;
  Floats floats_;
};

}  // namespace igan_fast::cpu
