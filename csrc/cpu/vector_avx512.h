// Sixteen floats in one register: AVX-512 with F16C, and the bf16 conversions of AVX512-BF16 where compiled for it.
#pragma once

#include <immintrin.h>

#include "../numeric.h"

namespace pyaccel {
namespace {  // each instruction set has a Vec of its own: the linker must not take one for another

struct Vec {
  static constexpr int width = 16;
  static constexpr int registers = 32;
  __m512 v;

  static Vec zero() { return {_mm512_setzero_ps()}; }
  static Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Vec load(const bf16* p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
  }
  static Vec load(const f16* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))}; }
  static Vec load(const int8_t* p) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
  }
  // By way of float16, as to_float (../numeric.h).
  static Vec load(const e4m3* p) {
    const __m256i x = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    const __m256i half = _mm256_and_si256(_mm256_slli_epi16(x, 7), _mm256_set1_epi16(short(0xbf80)));
    const __m256i carried =
        _mm256_add_epi16(_mm256_and_si256(half, _mm256_set1_epi16(0x3f80)), _mm256_set1_epi16(0x80));
    const __m256i nan = _mm256_and_si256(carried, _mm256_set1_epi16(0x4000));
    return {_mm512_mul_ps(_mm512_cvtph_ps(_mm256_or_si256(half, nan)), _mm512_set1_ps(256))};
  }
  void add_scaled(float c, Vec x) { v = _mm512_fmadd_ps(_mm512_set1_ps(c), x.v, v); }
  void add_product(Vec a, Vec b) { v = _mm512_fmadd_ps(a.v, b.v, v); }

  static Vec all(float c) { return {_mm512_set1_ps(c)}; }
  // The second operand where one is a NaN.
  static Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
  static Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
  static Vec abs(Vec a) { return {_mm512_abs_ps(a.v)}; }
  friend Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
  friend Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
  friend Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
  friend Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }

  void store(float* p, bool stream) const {
    if (stream) {
      _mm512_stream_ps(p, v);
    } else {
      _mm512_storeu_ps(p, v);
    }
  }
  void store(bf16* p, bool) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_bf16()); }
  void store(f16* p, bool) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_f16()); }
  // As from_float (../numeric.h).
  void store(int8_t* p) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(v)));
  }
  void store(e4m3* p) const {
    const __m512i u = _mm512_castps_si512(v);
    const __m512 size = _mm512_min_ps(_mm512_abs_ps(v), _mm512_set1_ps(448));
    const __m512i bits = _mm512_castps_si512(size);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 20), _mm512_set1_epi32(1));
    const __m512i normal =
        _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7ffff - 0x3c000000)), 20);
    const __m512i small = _mm512_sub_epi32(_mm512_castps_si512(_mm512_add_ps(size, _mm512_set1_ps(16384))),
                                           _mm512_set1_epi32(0x46800000));
    const __mmask16 is_small = _mm512_cmp_ps_mask(size, _mm512_set1_ps(0.015625f), _CMP_LT_OQ);
    const __m512i sign = _mm512_and_si512(_mm512_srli_epi32(u, 24), _mm512_set1_epi32(0x80));
    const __m512i code = _mm512_or_si512(_mm512_mask_mov_epi32(normal, is_small, small), sign);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(code));
  }

  // Two registers of 16-bit numbers are one cache line.
  static void store_pair(bf16* p, const Vec& low, const Vec& high, bool stream) {
#if defined(__AVX512BF16__)
    store_line(p, (__m512i)_mm512_cvtne2ps_pbh(high.v, low.v), stream);
#else
    store_line(p, together(low.to_bf16(), high.to_bf16()), stream);
#endif
  }
  static void store_pair(f16* p, const Vec& low, const Vec& high, bool stream) {
    store_line(p, together(low.to_f16(), high.to_f16()), stream);
  }

 private:
  __m256i to_f16() const { return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  __m256i to_bf16() const {
#if defined(__AVX512BF16__)
    // The instruction flushes subnormal results to zero; magnitudes below 2^-126 do not matter to a sample.
    return (__m256i)_mm512_cvtneps_pbh(v);
#else
    const __m512i u = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(u, odd), _mm512_set1_epi32(0x7fff));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    const __m512i quiet = _mm512_or_si512(u, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_mov_epi32(rounded, nan, quiet), 16));
#endif
  }
  static __m512i together(__m256i low, __m256i high) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  }
  static void store_line(void* p, __m512i bits, bool stream) {
    if (stream) {
      _mm512_stream_si512(static_cast<__m512i*>(p), bits);
    } else {
      _mm512_storeu_si512(p, bits);
    }
  }
};

}  // namespace
}  // namespace pyaccel
