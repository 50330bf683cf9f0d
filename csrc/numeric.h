// Element types and their conversions, written once for host and device.
//
// bfloat16 and float16 are carried as their bits. Rounding is to nearest, ties to even; a NaN stays a NaN.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define PYACCEL_HD __host__ __device__ __forceinline__
#else
#define PYACCEL_HD inline __attribute__((always_inline))
#endif

namespace pyaccel {

// The codes are shared with pyaccel/ops/backend.py.
enum class DType : int { f32 = 0, bf16 = 1, f16 = 2, f64 = 3 };

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

PYACCEL_HD constexpr int64_t size_of(DType d) { return d == DType::f64 ? 8 : d == DType::f32 ? 4 : 2; }

PYACCEL_HD float float_from_bits(uint32_t u) {
  float f;
  memcpy(&f, &u, sizeof f);
  return f;
}

PYACCEL_HD uint32_t bits_of(float f) {
  uint32_t u;
  memcpy(&u, &f, sizeof u);
  return u;
}

PYACCEL_HD float to_float(float x) { return x; }
PYACCEL_HD float to_float(bf16 x) { return float_from_bits(uint32_t(x.bits) << 16); }
PYACCEL_HD float to_float(f16 x) {
  const uint32_t sign = uint32_t(x.bits & 0x8000u) << 16;
  const uint32_t magnitude = x.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return float_from_bits(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);  // inf, NaN
  // Shift the exponent by 112 with one exact multiplication, which makes subnormals right as well.
  const float scaled = float_from_bits(magnitude << 13) * float_from_bits(0x77800000u);  // 2^112
  return float_from_bits(sign | bits_of(scaled));
}
PYACCEL_HD double to_double(double x) { return x; }
PYACCEL_HD double to_double(float x) { return x; }
PYACCEL_HD double to_double(bf16 x) { return to_float(x); }
PYACCEL_HD double to_double(f16 x) { return to_float(x); }

PYACCEL_HD void from_float(float x, float* out) { *out = x; }
PYACCEL_HD void from_float(float x, bf16* out) {
  const uint32_t u = bits_of(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) {  // NaN: keep it one whatever its payload
    out->bits = uint16_t((u >> 16) | 0x0040u);
    return;
  }
  out->bits = uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
PYACCEL_HD void from_float(float x, f16* out) {
  const uint32_t u = bits_of(x);
  const uint16_t sign = uint16_t((u >> 16) & 0x8000u);
  const uint32_t magnitude = u & 0x7fffffffu;
  uint16_t r;
  if (magnitude > 0x7f800000u) {
    r = 0x7e00u;
  } else if (magnitude >= 0x477ff000u) {  // 65520 and more round to infinity
    r = 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // below 2^-14: adding 0.5 leaves a subnormal's bits, rounded, at the end
    r = uint16_t(bits_of(float_from_bits(magnitude) + 0.5f) - 0x3f000000u);
  } else {
    r = uint16_t((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13);
  }
  out->bits = uint16_t(sign | r);
}

}  // namespace pyaccel
