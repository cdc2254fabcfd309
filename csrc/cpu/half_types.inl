// float16 and bfloat16 values, loaded as vectors of floats and rounded from them. A part of vector.inl.

// As many 16-bit values as a vector has floats.
typedef uint16_t Vec16 __attribute__((vector_size(kBytes / 2)));

// Intrinsics, because GCC converts between 16 and 32 bits by several instructions where one will do.
IGAN_FAST_INLINE Vec<uint32_t> widen(Vec16 v) {
#if IGAN_FAST_ISA_LEVEL == 2
  return reinterpret_cast<Vec<uint32_t>>(_mm512_maskz_cvtepu16_epi32(0xffff, reinterpret_cast<__m256i>(v)));
#elif IGAN_FAST_ISA_LEVEL == 1
  return reinterpret_cast<Vec<uint32_t>>(_mm256_cvtepu16_epi32(reinterpret_cast<__m128i>(v)));
#else
  return __builtin_convertvector(v, Vec<uint32_t>);
#endif
}
// The lower 16 bits of values below 2^16.
IGAN_FAST_INLINE Vec16 low_halves(Vec<uint32_t> v) {
#if IGAN_FAST_ISA_LEVEL == 2
  return reinterpret_cast<Vec16>(_mm512_maskz_cvtepi32_epi16(0xffff, reinterpret_cast<__m512i>(v)));
#elif IGAN_FAST_ISA_LEVEL == 1
  const __m256i bits = reinterpret_cast<__m256i>(v);
  return reinterpret_cast<Vec16>(_mm_packus_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1)));
#else
  return __builtin_convertvector(v, Vec16);
#endif
}
IGAN_FAST_INLINE Vec<float> load(const BFloat16* from) {
  return reinterpret_cast<Vec<float>>(widen(load_bits<Vec16>(from)) << 16);
}
IGAN_FAST_INLINE Vec<float> load(const Half* from) {
#if IGAN_FAST_ISA_LEVEL == 2
  return reinterpret_cast<Vec<float>>(
      _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
#elif IGAN_FAST_ISA_LEVEL == 1
  return reinterpret_cast<Vec<float>>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#else
  Vec<float> v{};
  for (int i = 0; i < kLanes<float>; ++i) v[i] = to_float(from[i]);
  return v;
#endif
}

// The nearest bfloat16, even where two are as near, in the upper half of each lane. A NaN becomes 0x7fc0.
IGAN_FAST_INLINE Vec<uint32_t> upper_halves(Vec<float> v) {
#if IGAN_FAST_ISA_LEVEL == 2
  const __m512i bits = reinterpret_cast<__m512i>(v), up = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
  const __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
  const __m512i rounded = _mm512_mask_add_epi32(up, odd, up, _mm512_set1_epi32(1));
  const __mmask16 nan = _mm512_cmp_ps_mask(reinterpret_cast<__m512>(v), reinterpret_cast<__m512>(v), _CMP_UNORD_Q);
  return reinterpret_cast<Vec<uint32_t>>(_mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc00000)));
#else
  const Vec<uint32_t> bits = reinterpret_cast<Vec<uint32_t>>(v);
  const Vec<uint32_t> rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  const Vec<uint32_t> nan = reinterpret_cast<Vec<uint32_t>>(v != v);
  return (rounded & ~nan) | (nan & 0x7fc00000u);
#endif
}

// A vector rounded to the type of the first argument. Half and bfloat16 are returned as bits.
IGAN_FAST_INLINE Vec<float> narrow(float, Vec<float> v) { return v; }
IGAN_FAST_INLINE Vec<double> narrow(double, Vec<double> v) { return v; }
IGAN_FAST_INLINE Vec16 narrow(BFloat16, Vec<float> v) { return low_halves(upper_halves(v) >> 16); }
IGAN_FAST_INLINE Vec16 narrow(Half, Vec<float> v) {
#if IGAN_FAST_ISA_LEVEL == 2
  return reinterpret_cast<Vec16>(_mm512_maskz_cvtps_ph(0xffff, reinterpret_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT));
#elif IGAN_FAST_ISA_LEVEL == 1
  return reinterpret_cast<Vec16>(_mm256_cvtps_ph(reinterpret_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT));
#else
  Vec16 narrowed{};
  for (int i = 0; i < kLanes<float>; ++i) narrowed[i] = from_float<Half>(v[i]).bits;
  return narrowed;
#endif
}
