// Sixteen floats in one register: AVX-512 with F16C, and the bf16 conversions of AVX512-BF16 where compiled for it.
#pragma once

#include <immintrin.h>

#include "../numeric.h"

namespace pyaccel {

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
  static Vec load(const f16* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  void add_scaled(float c, Vec x) { v = _mm512_fmadd_ps(_mm512_set1_ps(c), x.v, v); }

  void store(float* p, bool stream) const {
    if (stream) {
      _mm512_stream_ps(p, v);
    } else {
      _mm512_storeu_ps(p, v);
    }
  }
  void store(bf16* p, bool stream) const { store_half(p, to_bf16(), stream); }
  void store(f16* p, bool stream) const {
    store_half(p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), stream);
  }

 private:
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
  static void store_half(void* p, __m256i bits, bool stream) {
    if (stream) {
      _mm256_stream_si256(static_cast<__m256i*>(p), bits);
    } else {
      _mm256_storeu_si256(static_cast<__m256i*>(p), bits);
    }
  }
};

}  // namespace pyaccel
