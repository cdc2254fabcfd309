// Half and bfloat16 as bits, and conversions for CPUs that have no instructions for them.

#pragma once

#include <cstdint>
#include <cstring>

#include "ops/dtype.h"

namespace igan_fast::cpu {

struct Half {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

template <typename To, typename From>
inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

inline float to_float(BFloat16 value) { return bit_cast<float>(static_cast<uint32_t>(value.bits) << 16); }

inline float to_float(Half value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t magnitude = value.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return bit_cast<float>(sign | 0x7f800000u | (magnitude << 13));  // Inf, NaN
  // 2^112 is the difference of the exponents' biases. A multiplication handles subnormals too.
  const float scaled = bit_cast<float>(magnitude << 13) * bit_cast<float>(0x77800000u);
  return bit_cast<float>(sign | bit_cast<uint32_t>(scaled));
}

inline float to_float(float value) { return value; }
inline double to_float(double value) { return value; }

template <typename T>
T from_float(float value);

template <>
inline BFloat16 from_float<BFloat16>(float value) {
  const uint32_t bits = bit_cast<uint32_t>(value);
  if (value != value) return {0x7fc0};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

template <>
inline Half from_float<Half>(float value) {
  const uint32_t bits = bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {static_cast<uint16_t>(sign | 0x7e00u)};
  if (magnitude >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};  // 65520 and above round to Inf
  if (magnitude < 0x38800000u) {  // subnormal: adding 0.5 makes the hardware round at 2^-24
    const float rounded = bit_cast<float>(magnitude) + 0.5f;
    return {static_cast<uint16_t>(sign | (bit_cast<uint32_t>(rounded) - 0x3f000000u))};
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u;
  return {static_cast<uint16_t>(sign | (rounded >> 13))};
}

template <>
inline float from_float<float>(float value) {
  return value;
}

// The type in which kernels compute with values of T.
template <typename T>
struct AccOf {
  using type = float;
};
template <>
struct AccOf<double> {
  using type = double;
};

// Calls function(T{}) with the type T of dtype.
template <typename Function>
inline void with_type(Dtype dtype, const Function& function) {
  switch (dtype) {
    case Dtype::Half: return function(Half{});
    case Dtype::BFloat16: return function(BFloat16{});
    case Dtype::Float: return function(float{});
    case Dtype::Double: return function(double{});
  }
}

}  // namespace igan_fast::cpu
