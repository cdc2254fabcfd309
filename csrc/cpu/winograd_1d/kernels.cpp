#include "cpu/winograd_1d/kernels.h"

#include "cpu/transpose/kernels.h"

#define IGAN_FAST_KERNELS "cpu/winograd_1d/kernels.inl"
#include "cpu/for_each_isa.inl"

namespace igan_fast::cpu {

Parts parts_of(int64_t kernel) {
  if (kernel <= 3) return {kernel <= 2 ? 2 : 3, 1};
  const auto parts = [&](int taps) { return Parts{taps, kernel <= taps ? 1 : (kernel - taps + 3) / 4 + 1}; };
  const Parts four = parts(4), five = parts(5);
  return 8 * five.count < 7 * four.count ? five : four;
}

const Winograd1dKernels& winograd_1d_kernels(Isa isa) { return IGAN_FAST_SELECT(isa, winograd_1d::kernels); }

}  // namespace igan_fast::cpu
