// What a plain loop gets out of this machine's memory: k streams read, one written, an exclusive or between them.
//
// Benchmarks compare the kernels with it. It has their threads, width and non-temporal stores, and is spared element
// types, coefficients and ends. It does not prefetch: a kernel that does may come out above it, beyond the cache.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(PYACCEL_X86)
#include <immintrin.h>
#endif

namespace pyaccel {

constexpr int64_t kLine = 64;

#if defined(PYACCEL_X86)
template <bool Stream>
__attribute__((target("avx512f"))) inline void ceiling_avx512(const char* const* in, int k, char* out, int64_t begin,
                                                              int64_t end) {
  for (int64_t i = begin; i < end; i += 4 * kLine) {
    const int lines = end - i < 4 * kLine ? int((end - i) / kLine) : 4;
    __m512i sum[4] = {};
    if (lines == 4) {
      for (int j = 0; j < k; ++j)
        for (int u = 0; u < 4; ++u) sum[u] = _mm512_xor_si512(sum[u], _mm512_loadu_si512(in[j] + i + u * kLine));
    } else {
      for (int j = 0; j < k; ++j)
        for (int u = 0; u < lines; ++u) sum[u] = _mm512_xor_si512(sum[u], _mm512_loadu_si512(in[j] + i + u * kLine));
    }
    for (int u = 0; u < lines; ++u) {
      auto* to = reinterpret_cast<__m512i*>(out + i + u * kLine);
      if constexpr (Stream) {
        _mm512_stream_si512(to, sum[u]);
      } else {
        _mm512_store_si512(to, sum[u]);
      }
    }
  }
  if constexpr (Stream) _mm_sfence();
}
#endif

inline void ceiling_portable(const char* const* in, int k, char* out, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i += kLine) {
    uint64_t sum[8] = {};
    for (int j = 0; j < k; ++j) {
      uint64_t x[8];
      memcpy(x, in[j] + i, sizeof x);
      for (int w = 0; w < 8; ++w) sum[w] ^= x[w];
    }
    memcpy(out + i, sum, sizeof sum);
  }
}

// bytes and out are multiples of a cache line.
inline void read_write_ceiling(const char* const* in, int k, char* out, int64_t bytes, bool stream, int threads) {
  const auto work = [&](int64_t begin, int64_t end) {
#if defined(PYACCEL_X86)
    if (__builtin_cpu_supports("avx512f"))
      return stream ? ceiling_avx512<true>(in, k, out, begin, end) : ceiling_avx512<false>(in, k, out, begin, end);
#endif
    ceiling_portable(in, k, out, begin, end);
  };
  const int64_t lines = bytes / kLine;
#if defined(_OPENMP)
  if (threads > 1) {
#pragma omp parallel num_threads(threads)
    {
      const int64_t count = omp_get_num_threads(), me = omp_get_thread_num();
      work(lines * me / count * kLine, lines * (me + 1) / count * kLine);
    }
    return;
  }
#endif
  work(0, lines * kLine);
}

}  // namespace pyaccel
