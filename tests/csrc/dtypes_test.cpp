// The conversions of every half and bfloat16 value, against arithmetic in
// double.

#include "testing.h"

using namespace igan_fast::cpu;

namespace {

double half_value(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double magnitude =
      exponent == 31 ? (fraction ? NAN : INFINITY)
      : exponent     ? std::ldexp(1 + fraction / 1024.0, exponent - 15)
                     : std::ldexp(fraction / 1024.0, -14);
  return bits & 0x8000 ? -magnitude : magnitude;
}

} // namespace

int main() {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const Half half{static_cast<uint16_t>(bits)};
    const double value = half_value(half.bits);
    CHECK(std::isnan(value) ? std::isnan(to_float(half))
                            : to_float(half) == value,
          "half %04x", bits);
    if (!std::isnan(value))
      CHECK(from_float<Half>(to_float(half)).bits == bits,
            "half %04x there and back", bits);
    const BFloat16 brain{static_cast<uint16_t>(bits)};
    const float wide = to_float(brain);
    CHECK(std::isnan(wide) ? std::isnan(to_float(from_float<BFloat16>(wide)))
                           : from_float<BFloat16>(wide).bits == bits,
          "bfloat16 %04x there and back", bits);
  }
  // Halfway cases go to the even neighbour, all others to the nearest.
  for (uint32_t bits = 0; bits < 0x7bff; ++bits) {
    const double low = half_value(static_cast<uint16_t>(bits)),
                 high = half_value(static_cast<uint16_t>(bits + 1));
    const uint16_t even = static_cast<uint16_t>(bits % 2 ? bits + 1 : bits);
    CHECK(from_float<Half>(static_cast<float>((low + high) / 2)).bits == even,
          "half %04x and a half", bits);
    CHECK(from_float<Half>(static_cast<float>(low * 0.75 + high * 0.25)).bits ==
              bits,
          "half %04x and a quarter", bits);
  }
  CHECK(from_float<Half>(65519.f).bits == 0x7bff, "the largest half");
  CHECK(from_float<Half>(65520.f).bits == 0x7c00, "above the largest half");
  CHECK(from_float<BFloat16>(3.3962e38f).bits == 0x7f80,
        "above the largest bfloat16");
  for (uint32_t bits = 0; bits < 0x7f7f; ++bits) {
    const float low = to_float(BFloat16{static_cast<uint16_t>(bits)});
    const float between = bit_cast<float>(bit_cast<uint32_t>(low) + 0x8000u);
    CHECK(from_float<BFloat16>(between).bits == bits + bits % 2,
          "bfloat16 %04x and a half", bits);
  }
  std::printf("%d failures\n", failures);
  return failures != 0;
}
