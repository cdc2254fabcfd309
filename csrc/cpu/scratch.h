// Memory for a call's intermediate results, which a thread keeps for its next call: fresh pages cost more than most of
// what is written to them.

#pragma once

#include <cstdint>
#include <memory>
#include <new>
#include <utility>

#include "memory.h"

namespace igan_fast::cpu {

constexpr int64_t kKeptFloats = int64_t{16} << 20;  // that a thread keeps at most, for its whole life: 64 MiB

// So many floats, on a cache line's border, not initialised. There is no count without its memory: where that cannot be
// had, there is no object.
class Floats {
 public:
  Floats() = default;
  explicit Floats(int64_t count) : memory_(allocate(count * int64_t{sizeof(float)})), count_(count) {}
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
    void operator()(float* memory) const { ::operator delete(memory, kAlignment); }
  };
  static float* allocate(int64_t bytes) {
    void* memory = ::operator new(static_cast<size_t>(bytes), kAlignment);
    expect_large_write(memory, bytes);
    return static_cast<float*>(memory);
  }

  std::unique_ptr<float, Free> memory_;
  int64_t count_ = 0;
};

// At least so many floats, for as long as this lives: what the thread has kept, or where that is less, other memory. A
// second one in the same thread, while the first lives, has memory of its own.
class Scratch {
 public:
  explicit Scratch(int64_t count) : floats_(std::move(kept())) {
    if (floats_.count() >= count) return;
    floats_ = Floats();  // first, so that never both are there
    floats_ = Floats(count);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    if (floats_.count() <= kKeptFloats && floats_.count() > kept().count()) kept() = std::move(floats_);
  }
  float* data() const { return floats_.data(); }

 private:
  static Floats& kept() {
    thread_local Floats floats;
    return floats;
  }

  Floats floats_;
};

}  // namespace igan_fast::cpu
