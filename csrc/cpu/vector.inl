// Vectors (GCC's vector types) of the instruction set for which for_each_isa.inl compiles. Arithmetic on them is plain
// C++; intrinsics are used only for operations that C++ does not have. There is no include guard, because this file is
// included once per instruction set.

constexpr int kBytes = IGAN_FAST_VECTOR_BYTES;

template <typename T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kBytes)));
};
template <typename T>
using Vec = typename VectorOf<T>::type;
template <typename T>
constexpr int kLanes = kBytes / static_cast<int>(sizeof(T));

template <typename T>
IGAN_FAST_INLINE Vec<T> broadcast(T value) {
  return value - Vec<T>{};  // this keeps −0 and NaN
}

template <typename V>
IGAN_FAST_INLINE V load_bits(const void* from) {
  V v;
  std::memcpy(&v, from, sizeof(V));
  return v;
}

IGAN_FAST_INLINE Vec<float> load(const float* from) { return load_bits<Vec<float>>(from); }
IGAN_FAST_INLINE Vec<double> load(const double* from) { return load_bits<Vec<double>>(from); }

#include "cpu/half_types.inl"

// A streaming store (see bypasses_caches); `to` is aligned to the size of V.
template <typename V>
IGAN_FAST_INLINE void stream_bits(void* to, V v) {
#if IGAN_FAST_X86
#if IGAN_FAST_ISA_LEVEL == 2
  if constexpr (sizeof(V) == 64)
    return _mm512_stream_si512(reinterpret_cast<__m512i*>(to), reinterpret_cast<__m512i>(v));
#endif
#if IGAN_FAST_ISA_LEVEL >= 1
  if constexpr (sizeof(V) == 32)
    return _mm256_stream_si256(reinterpret_cast<__m256i*>(to), reinterpret_cast<__m256i>(v));
#endif
  if constexpr (sizeof(V) == 16) return _mm_stream_si128(reinterpret_cast<__m128i*>(to), reinterpret_cast<__m128i>(v));
#endif
  std::memcpy(to, &v, sizeof(V));
}

// Makes the streaming stores of this thread visible to the others.
IGAN_FAST_INLINE void end_streams() {
#if IGAN_FAST_X86
  _mm_sfence();
#endif
}

template <bool kStream, typename T, typename V>
IGAN_FAST_INLINE void store(T* to, V v) {
  const auto bits = narrow(T{}, v);
  if constexpr (kStream)
    stream_bits(to, bits);
  else
    std::memcpy(to, &bits, sizeof(bits));
}

// Stores two vectors, one after the other. Where T has 16 bits, they are one vector, and `to` is aligned to it where
// kStream. The instructions that make it one are fewer than those that narrow two.
template <bool kStream, typename T, typename V>
IGAN_FAST_INLINE void store_pair(T* to, V first, V second) {
#if IGAN_FAST_ISA_LEVEL >= 1
  if constexpr (std::is_same_v<T, BFloat16>) {
#if IGAN_FAST_ISA_LEVEL == 2
    typedef uint16_t Words __attribute__((vector_size(kBytes)));
    constexpr Words odd = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                           33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
    const __m512i both =
        _mm512_permutex2var_epi16(reinterpret_cast<__m512i>(upper_halves(first)), reinterpret_cast<__m512i>(odd),
                                  reinterpret_cast<__m512i>(upper_halves(second)));
#else
    const __m256i quarters = _mm256_packus_epi32(reinterpret_cast<__m256i>(upper_halves(first) >> 16),
                                                 reinterpret_cast<__m256i>(upper_halves(second) >> 16));
    const __m256i both = _mm256_permute4x64_epi64(quarters, 0xd8);
#endif
    if constexpr (kStream)
      stream_bits(to, reinterpret_cast<Vec<uint32_t>>(both));
    else
      std::memcpy(to, &both, sizeof(both));
    return;
  }
#endif
  store<kStream>(to, first);
  store<kStream>(to + sizeof(V) / sizeof(first[0]), second);
}

// Loads the first `count` lanes; the others become 0. Memory past the first `count` values is not read.
template <typename T>
IGAN_FAST_INLINE auto load_partial(const T* from, int64_t count) {
#if IGAN_FAST_ISA_LEVEL == 2
  const uint32_t lanes = (1u << count) - 1;
  if constexpr (sizeof(T) == 8) {
    return reinterpret_cast<Vec<double>>(_mm512_maskz_loadu_pd(static_cast<__mmask8>(lanes), from));
  } else if constexpr (sizeof(T) == 4) {
    return reinterpret_cast<Vec<float>>(_mm512_maskz_loadu_ps(static_cast<__mmask16>(lanes), from));
  } else {
    T buffer[kLanes<float>];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(buffer),
                        _mm256_maskz_loadu_epi16(static_cast<__mmask16>(lanes), from));
    return load(buffer);
  }
#else
  T buffer[kLanes<typename AccOf<T>::type>] = {};
  for (int i = 0; i < kLanes<typename AccOf<T>::type>; ++i)
    if (i < count) buffer[i] = from[i];
  return load(buffer);
#endif
}

// Stores the first `count` lanes. Memory past them is not written.
template <typename T, typename V>
IGAN_FAST_INLINE void store_partial(T* to, V v, int64_t count) {
#if IGAN_FAST_ISA_LEVEL == 2
  const uint32_t lanes = (1u << count) - 1;
  const auto bits = narrow(T{}, v);
  if constexpr (sizeof(T) == 8)
    _mm512_mask_storeu_pd(to, static_cast<__mmask8>(lanes), reinterpret_cast<__m512d>(bits));
  else if constexpr (sizeof(T) == 4)
    _mm512_mask_storeu_ps(to, static_cast<__mmask16>(lanes), reinterpret_cast<__m512>(bits));
  else
    _mm256_mask_storeu_epi16(to, static_cast<__mmask16>(lanes), reinterpret_cast<__m256i>(bits));
#else
  T buffer[kLanes<typename AccOf<T>::type>];
  store<false>(buffer, v);
  for (int i = 0; i < kLanes<typename AccOf<T>::type>; ++i)
    if (i < count) to[i] = buffer[i];
#endif
}

// v with 0 in all lanes but the first `count`.
template <typename T>
IGAN_FAST_INLINE Vec<T> keep_lanes(Vec<T> v, int64_t count) {
  using I = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;
  Vec<I> index;
  for (int i = 0; i < kLanes<T>; ++i) index[i] = i;
  return reinterpret_cast<Vec<T>>(reinterpret_cast<Vec<I>>(v) & (index < static_cast<I>(count)));
}

IGAN_FAST_INLINE Vec<float> magnitude(Vec<float> v) {
  return reinterpret_cast<Vec<float>>(reinterpret_cast<Vec<uint32_t>>(v) & 0x7fffffffu);
}
IGAN_FAST_INLINE Vec<double> magnitude(Vec<double> v) {
  return reinterpret_cast<Vec<double>>(reinterpret_cast<Vec<uint64_t>>(v) & 0x7fffffffffffffffull);
}

// The sum of all lanes in double: of each half of them and the other half, until one is left.
IGAN_FAST_INLINE double sum_lanes(Vec<double> v) {
  for (int half = kLanes<double> / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) v[i] += v[i + half];
  return v[0];
}
IGAN_FAST_INLINE double sum_lanes(Vec<float> v) {
  typedef float HalfVec __attribute__((vector_size(kBytes / 2)));
  HalfVec halves[2];
  std::memcpy(halves, &v, sizeof(v));
  return sum_lanes(__builtin_convertvector(halves[0], Vec<double>) + __builtin_convertvector(halves[1], Vec<double>));
}

// The sum of all lanes: of each half of them and the other half, until one is left.
IGAN_FAST_INLINE float sum_halves(Vec<float> v) {
#if IGAN_FAST_X86
#if IGAN_FAST_ISA_LEVEL == 2
  const __m512 all = reinterpret_cast<__m512>(v);
  const __m256 half =
      _mm256_add_ps(_mm512_maskz_extractf32x8_ps(0xff, all, 0), _mm512_maskz_extractf32x8_ps(0xff, all, 1));
#elif IGAN_FAST_ISA_LEVEL == 1
  const __m256 half = reinterpret_cast<__m256>(v);
#endif
#if IGAN_FAST_ISA_LEVEL >= 1
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
#else
  const __m128 four = reinterpret_cast<__m128>(v);
#endif
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
#else
  for (int half = kLanes<float> / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) v[i] += v[i + half];
  return v[0];
#endif
}

// Bit l is set where lane l of v is > 0.
IGAN_FAST_INLINE uint64_t positive_lanes(Vec<float> v) {
#if IGAN_FAST_ISA_LEVEL == 2
  return _mm512_cmp_ps_mask(reinterpret_cast<__m512>(v), _mm512_setzero_ps(), _CMP_GT_OQ);
#elif IGAN_FAST_ISA_LEVEL == 1
  return static_cast<uint32_t>(
      _mm256_movemask_ps(_mm256_cmp_ps(reinterpret_cast<__m256>(v), _mm256_setzero_ps(), _CMP_GT_OQ)));
#elif IGAN_FAST_X86
  return static_cast<uint32_t>(_mm_movemask_ps(_mm_cmpgt_ps(reinterpret_cast<__m128>(v), _mm_setzero_ps())));
#else
  uint64_t mask = 0;
  for (int i = 0; i < kLanes<float>; ++i) mask |= static_cast<uint64_t>(v[i] > 0) << i;
  return mask;
#endif
}
IGAN_FAST_INLINE uint64_t positive_lanes(Vec<double> v) {
#if IGAN_FAST_ISA_LEVEL == 2
  return _mm512_cmp_pd_mask(reinterpret_cast<__m512d>(v), _mm512_setzero_pd(), _CMP_GT_OQ);
#elif IGAN_FAST_ISA_LEVEL == 1
  return static_cast<uint32_t>(
      _mm256_movemask_pd(_mm256_cmp_pd(reinterpret_cast<__m256d>(v), _mm256_setzero_pd(), _CMP_GT_OQ)));
#elif IGAN_FAST_X86
  return static_cast<uint32_t>(_mm_movemask_pd(_mm_cmpgt_pd(reinterpret_cast<__m128d>(v), _mm_setzero_pd())));
#else
  uint64_t mask = 0;
  for (int i = 0; i < kLanes<double>; ++i) mask |= static_cast<uint64_t>(v[i] > 0) << i;
  return mask;
#endif
}

// Lane l is `plus` if bit l of `positive` is set, `minus` if bit l of `negative` is set, else 0. U is an unsigned
// integer of the value's size; plus and minus are the bits of the values.
template <typename U>
IGAN_FAST_INLINE Vec<U> select_lanes(uint64_t positive, uint64_t negative, U plus, U minus) {
#if IGAN_FAST_ISA_LEVEL == 2
  __m512i v;
  if constexpr (sizeof(U) == 2) {
    v = _mm512_maskz_set1_epi16(static_cast<__mmask32>(positive), static_cast<short>(plus));
    v = _mm512_mask_set1_epi16(v, static_cast<__mmask32>(negative), static_cast<short>(minus));
  } else if constexpr (sizeof(U) == 4) {
    v = _mm512_maskz_set1_epi32(static_cast<__mmask16>(positive), static_cast<int>(plus));
    v = _mm512_mask_set1_epi32(v, static_cast<__mmask16>(negative), static_cast<int>(minus));
  } else {
    v = _mm512_maskz_set1_epi64(static_cast<__mmask8>(positive), static_cast<long long>(plus));
    v = _mm512_mask_set1_epi64(v, static_cast<__mmask8>(negative), static_cast<long long>(minus));
  }
  return reinterpret_cast<Vec<U>>(v);
#else
  Vec<U> bit;
  for (int i = 0; i < kLanes<U>; ++i) bit[i] = static_cast<U>(U{1} << i);
  const Vec<U> is_positive = reinterpret_cast<Vec<U>>(((Vec<U>{} + static_cast<U>(positive)) & bit) != 0);
  const Vec<U> is_negative = reinterpret_cast<Vec<U>>(((Vec<U>{} + static_cast<U>(negative)) & bit) != 0);
  return (is_positive & plus) | (is_negative & minus);
#endif
}

template <typename Function, int... k>
IGAN_FAST_INLINE void unroll_sequence(const Function& function, std::integer_sequence<int, k...>) {
  (function(k), ...);
}

// Calls function(0) … function(count − 1). Unrolled, so that arrays indexed by its argument are kept in registers.
template <int count, typename Function>
IGAN_FAST_INLINE void unroll(const Function& function) {
  unroll_sequence(function, std::make_integer_sequence<int, count>{});
}

// Calls function(begin, end) for chunks of [0, count), in parallel.
template <typename Function>
IGAN_FAST_INLINE void parallel(ParallelFor parallel_for, int64_t count, int64_t grain, const Function& function) {
  parallel_for(
      0, count, grain,
      [](int64_t begin, int64_t end, void* context) { (*static_cast<const Function*>(context))(begin, end); },
      const_cast<void*>(static_cast<const void*>(&function)));
}

// A ParallelFor that runs only on the calling thread.
inline void serially(int64_t begin, int64_t end, int64_t, Body body, void* context) {
  if (begin < end) body(begin, end, context);
}

// LeakyReLU. Slope 0 is computed as ReLU, because 0 · −∞ would be NaN; PyTorch's ReLU returns 0 for −∞.
template <typename V, typename S>
IGAN_FAST_INLINE V activate(V z, S slope) {
  if (slope == 0) return z <= 0 ? V{} : z;
  return z > 0 ? z : z * slope;
}

// The gradient of the LeakyReLU's input z, from the gradient of its output.
template <typename V, typename S>
IGAN_FAST_INLINE V activate_backward(V z, V grad, S slope) {
  if (slope == 0) return z <= 0 ? V{} : grad;
  return z > 0 ? grad : grad * slope;
}
