// Vectors of each instruction set round to 16 bits and back as the scalar
// conversions do, which dtypes_test.cpp compares with double.

#define IGAN_FAST_KERNELS "../tests/csrc/vector_kernels.inl"
#include "cpu/for_each_isa.inl"

#include "testing.h"

using namespace igan_fast::cpu;

namespace {

// Every upper half, with lower halves below, at and above the middle of two
// bfloat16 values, and those of halves.
std::vector<float> values() {
  std::vector<float> found;
  for (uint32_t upper = 0; upper < 0x10000; ++upper)
    for (const uint32_t lower :
         {0u, 1u, 0xfffu, 0x1000u, 0x1001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu})
      found.push_back(bit_cast<float>(upper << 16 | lower));
  while (found.size() % 32)
    found.push_back(0);
  return found;
}

template <typename T, typename Narrow, typename Widen>
void check(Isa isa, int lanes, Narrow narrow, Widen widen) {
  alignas(64) T singles[32], pairs[32], streamed[32];
  float wide[16];
  int64_t wrong = 0;
  const std::vector<float> all = values();
  for (size_t at = 0; at < all.size(); at += 2 * static_cast<size_t>(lanes)) {
    narrow(&all[at], singles, pairs, streamed);
    widen(singles, wide);
    for (int i = 0; i < 2 * lanes; ++i) {
      const float value = all[at + static_cast<size_t>(i)];
      const T expected = from_float<T>(value);
      for (const T *found : {singles, pairs, streamed})
        wrong += std::isnan(value) ? !std::isnan(to_float(found[i]))
                                   : found[i].bits != expected.bits;
      if (i < lanes)
        wrong += std::isnan(value) ? !std::isnan(wide[i])
                                   : bit_cast<uint32_t>(wide[i]) !=
                                         bit_cast<uint32_t>(to_float(expected));
    }
  }
  CHECK(wrong == 0, "%s, %d bytes: %d wrong", name_of(isa), int(sizeof(T)),
        int(wrong));
}

} // namespace

int main() {
  for (const Isa isa : kIsas) {
    if (!is_supported(isa))
      continue;
    const auto run = [&](const auto &table) {
      check<Half>(isa, table.lanes, table.half, table.wide_half);
      check<BFloat16>(isa, table.lanes, table.bfloat16, table.wide_bfloat16);
    };
    if (isa == Isa::Baseline)
      run(baseline::vector_table);
#if IGAN_FAST_X86
    if (isa == Isa::Avx2)
      run(avx2::vector_table);
    if (isa == Isa::Avx512)
      run(avx512::vector_table);
#endif
  }
  return failures != 0;
}
