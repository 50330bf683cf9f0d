// Eight floats in one register: AVX2 with FMA and F16C.
#pragma once

#include <immintrin.h>

#include "../numeric.h"

namespace pyaccel {
namespace {  // each instruction set has a Vec of its own: the linker must not take one for another

struct Vec {
  static constexpr int width = 8;
  static constexpr int registers = 16;
  __m256 v;

  static Vec zero() { return {_mm256_setzero_ps()}; }
  static Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static Vec load(const bf16* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16))};
  }
  static Vec load(const f16* p) { return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))}; }
  static Vec load(const int8_t* p) {
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))))};
  }
  // By way of float16, as to_float (../numeric.h).
  static Vec load(const e4m3* p) {
    const __m128i x = _mm_cvtepi8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    const __m128i half = _mm_and_si128(_mm_slli_epi16(x, 7), _mm_set1_epi16(short(0xbf80)));
    const __m128i carried = _mm_add_epi16(_mm_and_si128(half, _mm_set1_epi16(0x3f80)), _mm_set1_epi16(0x80));
    const __m128i nan = _mm_and_si128(carried, _mm_set1_epi16(0x4000));
    return {_mm256_mul_ps(_mm256_cvtph_ps(_mm_or_si128(half, nan)), _mm256_set1_ps(256))};
  }
  void add_scaled(float c, Vec x) { v = _mm256_fmadd_ps(_mm256_set1_ps(c), x.v, v); }
  void add_product(Vec a, Vec b) { v = _mm256_fmadd_ps(a.v, b.v, v); }

  static Vec all(float c) { return {_mm256_set1_ps(c)}; }
  // The second operand where one is a NaN.
  static Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
  static Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
  static Vec abs(Vec a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
  friend Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
  friend Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
  friend Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
  friend Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }

  void store(float* p, bool stream) const {
    if (stream) {
      _mm256_stream_ps(p, v);
    } else {
      _mm256_storeu_ps(p, v);
    }
  }
  void store(bf16* p, bool) const { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), to_bf16()); }
  void store(f16* p, bool) const { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), to_f16()); }
  // As from_float (../numeric.h).
  void store(int8_t* p) const { store_bytes(p, _mm256_cvtps_epi32(v)); }
  void store(e4m3* p) const {
    const __m256 size = _mm256_min_ps(abs(*this).v, _mm256_set1_ps(448));
    const __m256i bits = _mm256_castps_si256(size);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 20), _mm256_set1_epi32(1));
    const __m256i normal =
        _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7ffff - 0x3c000000)), 20);
    const __m256i small = _mm256_sub_epi32(_mm256_castps_si256(_mm256_add_ps(size, _mm256_set1_ps(16384))),
                                           _mm256_set1_epi32(0x46800000));
    const __m256i is_small = _mm256_castps_si256(_mm256_cmp_ps(size, _mm256_set1_ps(0.015625f), _CMP_LT_OQ));
    // The sign in all bits above, so that the code as a signed number does not saturate where it is packed.
    const __m256i sign = _mm256_and_si256(_mm256_srai_epi32(_mm256_castps_si256(v), 24), _mm256_set1_epi32(-128));
    store_bytes(p, _mm256_or_si256(_mm256_blendv_epi8(normal, small, is_small), sign));
  }

  template <typename T>
  static void store_pair(T* p, const Vec& low, const Vec& high, bool stream) {
    const __m256i bits = _mm256_set_m128i(high.to(p), low.to(p));
    if (stream) {
      _mm256_stream_si256(reinterpret_cast<__m256i*>(p), bits);
    } else {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), bits);
    }
  }

 private:
  __m128i to(const bf16*) const { return to_bf16(); }
  __m128i to(const f16*) const { return to_f16(); }
  // The last byte of each lane; a number in [-128, 127].
  static void store_bytes(void* p, __m256i lanes) {
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
    _mm_storel_epi64(static_cast<__m128i*>(p), _mm_packs_epi16(words, words));
  }
  __m128i to_f16() const { return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  __m128i to_bf16() const {
    const __m256i u = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(u, odd), _mm256_set1_epi32(0x7fff));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    rounded = _mm256_blendv_epi8(rounded, _mm256_or_si256(u, _mm256_set1_epi32(0x400000)), nan);
    const __m256i high = _mm256_srli_epi32(rounded, 16);
    return _mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0x08));
  }
};

}  // namespace
}  // namespace pyaccel
