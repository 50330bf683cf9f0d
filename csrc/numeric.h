// Element types and their conversions, written once for host and device.
//
// bfloat16, float16 and float8 e4m3fn are carried as their bits. Rounding is to nearest, ties to even; a NaN stays a
// NaN. A GPU converts 16-bit numbers in one instruction, to the same bits but those of a NaN.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define PYACCEL_HD __host__ __device__ __forceinline__
#else
#define PYACCEL_HD inline __attribute__((always_inline))
#endif

namespace pyaccel {

// The codes are shared with pyaccel/ops/backend.py. Those from i8 on are codes of quantized numbers: only quantize
// writes them and only gated_combination reads them.
enum class DType : int { f32 = 0, bf16 = 1, f16 = 2, f64 = 3, i8 = 4, e4m3 = 5 };

PYACCEL_HD constexpr bool is_code(DType d) { return d >= DType::i8; }

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};
struct e4m3 {
  uint8_t bits;
};

PYACCEL_HD constexpr int64_t size_of(DType d) {
  return d == DType::f64 ? 8 : d == DType::f32 ? 4 : d == DType::i8 || d == DType::e4m3 ? 1 : 2;
}

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
#if defined(__CUDA_ARCH__)
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(x.bits));
  return f;
#else
  const uint32_t sign = uint32_t(x.bits & 0x8000u) << 16;
  const uint32_t magnitude = x.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return float_from_bits(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);  // inf, NaN
  // Shift the exponent by 112 with one exact multiplication, which makes subnormals right as well.
  const float scaled = float_from_bits(magnitude << 13) * float_from_bits(0x77800000u);  // 2^112
  return float_from_bits(sign | bits_of(scaled));
#endif
}
PYACCEL_HD float to_float(int8_t x) { return x; }
// As the float16 of the same sign, exponent and mantissa, whose exponents are greater by 8.
PYACCEL_HD float to_float(e4m3 x) {
  const uint32_t magnitude = x.bits & 0x7fu;
  const uint32_t half = (x.bits & 0x80u) << 8 | (magnitude == 0x7fu ? 0x7f80u : magnitude << 7);
  return to_float(f16{uint16_t(half)}) * 256;
}
PYACCEL_HD double to_double(double x) { return x; }
PYACCEL_HD double to_double(float x) { return x; }
PYACCEL_HD double to_double(bf16 x) { return to_float(x); }
PYACCEL_HD double to_double(f16 x) { return to_float(x); }
PYACCEL_HD double to_double(int8_t x) { return x; }
PYACCEL_HD double to_double(e4m3 x) { return to_float(x); }

PYACCEL_HD void from_float(float x, float* out) { *out = x; }
PYACCEL_HD void from_float(float x, bf16* out) {
#if defined(__CUDA_ARCH__)
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out->bits) : "f"(x));
#else
  const uint32_t u = bits_of(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) {  // NaN: keep it one whatever its payload
    out->bits = uint16_t((u >> 16) | 0x0040u);
    return;
  }
  out->bits = uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
#endif
}
PYACCEL_HD void from_float(float x, f16* out) {
#if defined(__CUDA_ARCH__)
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out->bits) : "f"(x));
#else
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
#endif
}

// Element i of p, which are no codes.
PYACCEL_HD double number_at(DType dtype, const void* p, int64_t i) {
  switch (dtype) {
    case DType::f32:
      return static_cast<const float*>(p)[i];
    case DType::bf16:
      return to_double(static_cast<const bf16*>(p)[i]);
    case DType::f16:
      return to_double(static_cast<const f16*>(p)[i]);
    default:
      return static_cast<const double*>(p)[i];
  }
}

// Of finite numbers of at most 127 in magnitude: adding 1.5 * 2^23 leaves the integer, rounded, at the end of the bits.
PYACCEL_HD void from_float(float x, int8_t* out) { *out = int8_t(bits_of(x + 12582912.0f) - 0x4b400000u); }
// Of finite numbers; greater ones become the greatest, 448.
PYACCEL_HD void from_float(float x, e4m3* out) {
  const uint32_t u = bits_of(x);
  uint32_t magnitude = u & 0x7fffffffu;
  magnitude = magnitude < 0x43e00000u ? magnitude : 0x43e00000u;
  uint32_t r;
  if (magnitude < 0x3c800000u) {  // below 2^-6 the step is 2^-9, as it is above 2^14 in a float
    r = bits_of(float_from_bits(magnitude) + 16384.0f) - 0x46800000u;
  } else {
    r = (magnitude - 0x3c000000u + 0x7ffffu + ((magnitude >> 20) & 1u)) >> 20;
  }
  out->bits = uint8_t((u >> 24 & 0x80u) | r);
}

}  // namespace pyaccel
