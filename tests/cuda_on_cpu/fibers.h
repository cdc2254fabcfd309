// Switches between stacks, in 20 instructions on x86-64, where swapcontext
// would make two system calls. AddressSanitizer is told of each switch.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#if defined(__x86_64__)
extern "C" void cuda_on_cpu_switch(void** save, void* load);
#else
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace cuda_on_cpu {

class Fiber {
 public:
  static constexpr size_t kStack = size_t{1} << 17;  // bytes

  // Makes the next resume() begin with entry(), which must not return.
  void start(void (*entry)()) {
    if (!stack_) stack_.reset(new char[kStack]);
#if defined(__SANITIZE_ADDRESS__)
    // A kernel that failed has left its frames, whose surroundings are poisoned.
    if (!ended_) __asan_unpoison_memory_region(stack_.get(), kStack);
    ended_ = false;
    fake_ = nullptr;
#endif
#if defined(__x86_64__)
    const auto end = reinterpret_cast<uintptr_t>(stack_.get() + kStack) & ~uintptr_t{15};
    auto* top = reinterpret_cast<void**>(end) - 8;  // six registers, the address to return to, and one to align
    for (int i = 0; i < 8; ++i) top[i] = nullptr;
    top[6] = reinterpret_cast<void*>(entry);
    context_ = top;
#else
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack_.get();
    context_.uc_stack.ss_size = kStack;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
#endif
  }

  // Called outside of the fiber: runs it until it suspends.
  void resume() {
#if defined(__SANITIZE_ADDRESS__)
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, stack_.get(), kStack);
#endif
#if defined(__x86_64__)
    cuda_on_cpu_switch(&caller_, context_);
#else
    swapcontext(&caller_, &context_);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
  }

  // Called in the fiber, first of all.
  void entered() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_, &caller_stack_, &caller_size_);
#endif
  }

  // Called in the fiber: goes back to resume(). `last`: the fiber will not be
  // resumed.
  void suspend(bool last) {
#if defined(__SANITIZE_ADDRESS__)
    ended_ = last;
    __sanitizer_start_switch_fiber(last ? nullptr : &fake_, caller_stack_, caller_size_);
#else
    static_cast<void>(last);
#endif
#if defined(__x86_64__)
    cuda_on_cpu_switch(&context_, caller_);
#else
    swapcontext(&context_, &caller_);
#endif
    entered();
  }

 private:
  std::unique_ptr<char[]> stack_;
#if defined(__x86_64__)
  void *context_ = nullptr, *caller_ = nullptr;
#else
  ucontext_t context_{}, caller_{};
#endif
#if defined(__SANITIZE_ADDRESS__)
  bool ended_ = false;
  void* fake_ = nullptr;
  const void* caller_stack_ = nullptr;
  size_t caller_size_ = 0;
#endif
};

}  // namespace cuda_on_cpu
